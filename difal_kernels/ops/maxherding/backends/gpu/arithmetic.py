"""Arithmetic of the Triton kernels: estimates of kernel values with their bounds, and float64 values.

The same formulas, constants and error model as csrc/include/difal/estimate.h; docs/exactness.md derives them. Nothing
here uses Triton's own float32 exp, sqrt or division: those are approximations whose error grows with the argument.
"""

import triton
import triton.language as tl

# In the order of kernel_functions.KERNELS.
RBF = tl.constexpr(0)
LAPLACE = tl.constexpr(1)
CAUCHY = tl.constexpr(2)
STUDENT_T = tl.constexpr(3)
RATIONAL_QUADRATIC = tl.constexpr(4)
TOPHAT = tl.constexpr(5)
COSINE = tl.constexpr(6)
PRECOMPUTED = tl.constexpr(7)

UNCERTAIN = tl.constexpr(2.0)  # in the place of an estimate that is no use: to be replaced by the float64 value
DEAD = tl.constexpr(-1.0)  # an entry that is not there, or surely 0
NEGLIGIBLE = tl.constexpr(70.0)  # beyond this squared (rbf) or plain (laplace) distance a kernel value is below 1e-30
BLOCK_D = tl.constexpr(64)  # numbers of a row that float64 takes at a time


@triton.jit
def exp_to_87(x):
    """exp(-x) in float32 for x from 0 to 87, within 2 ulp; NaN stays. Cody and Waite's reduction, a polynomial, 2^n."""
    shifted = x * -1.44269504 + 12582912.0  # rounds to an integer in the low bits
    n = shifted - 12582912.0
    r = (-x - n * 0.693359375) - n * -2.12194440e-4
    p = r * 1.98756915e-4 + 1.39819995e-3
    p = p * r + 8.33345190e-3
    p = p * r + 4.16657960e-2
    p = p * r + 1.66666654e-1
    p = p * r + 5.00000000e-1
    p = p * r * r + r + 1.0
    bits = shifted.to(tl.int32, bitcast=True)
    return p * ((bits + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def exp_minus(x):
    """exp(-x) in float32 for x >= 0, within 2 ulp; 0 from 87 on, and for NaN."""
    return tl.where(x < 87.0, exp_to_87(tl.minimum(x, 87.0)), 0.0)


@triton.jit
def log_parts(x):
    """(n, y) with ln(x) = n ln 2 + y, for normal float32 x > 0: n whole, y within 2^-25, by a polynomial fitted to the
    largest error; csrc/cuda/disagreement.cu has the same. Of any other x both are finite, so 0 ln 0 comes out as 0."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23  # x / 2^n is from sqrt(1/2) to sqrt(2)
    n = (exponent + 0x4B400000).to(tl.float32, bitcast=True) - 12582912.0  # without a conversion
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    p = f * 8.672188967e-2 - 1.437900811e-1
    p = p * f + 1.497799307e-1
    p = p * f - 1.656442583e-1
    p = p * f + 1.995487511e-1
    p = p * f - 2.500169873e-1
    p = p * f + 3.333416581e-1
    p = p * f - 0.5
    return n, tl.fma(p * f, f, f)


@triton.jit
def error_model(model):
    """sq_dist_rel_err, relative, absolute, tolerance and product, from memory."""
    return tl.load(model), tl.load(model + 1), tl.load(model + 2), tl.load(model + 3), tl.load(model + 4)


@triton.jit
def value_of(g, total, sq_dist_rel_err, absolute, tolerance, KIND: tl.constexpr):
    """Kernel values from inner products g and total = s_i + s_j; UNCERTAIN where the bound would be no use.

    A NaN fails every comparison and so comes out as UNCERTAIN.
    """
    if KIND == COSINE:
        return tl.where(g < -absolute, DEAD, tl.maximum(g, 0.0))
    else:
        q = total - 2.0 * g
        q = tl.where(q > 0, q, tl.where(q <= 0, 0.0, q))
        delta = sq_dist_rel_err * total
        if KIND == RBF:
            far = tl.where(q - delta > NEGLIGIBLE, 0.0, UNCERTAIN)
            return tl.where(delta <= tolerance, exp_minus(q), far)
        elif KIND == LAPLACE:
            r = tl.sqrt_rn(q)
            far = tl.where(q - delta > NEGLIGIBLE * NEGLIGIBLE, 0.0, UNCERTAIN)
            known = (delta <= tolerance * tolerance) | (delta <= tolerance * r)
            return tl.where(known, exp_minus(r), far)
        elif KIND == CAUCHY:
            return tl.where(delta <= tolerance * (1 + q), tl.div_rn(q * 0 + 1, 1 + q), UNCERTAIN)
        elif KIND == STUDENT_T:
            inside = 1 + 2 * q
            root = tl.sqrt_rn(inside)
            k = tl.div_rn(q * 0 + 1, root * tl.sqrt_rn(root))
            return tl.where(1.5 * delta <= tolerance * inside, k, UNCERTAIN)
        elif KIND == RATIONAL_QUADRATIC:
            inside = 1 + 0.5 * q
            return tl.where(0.5 * delta <= tolerance * inside, tl.div_rn(q * 0 + 1, inside), UNCERTAIN)
        else:
            tl.static_assert(KIND == TOPHAT, "no estimate of this kernel")
            near = tl.where(q + delta < 1, 1.0, UNCERTAIN)
            return tl.where(q - delta > 1, 0.0, near)


@triton.jit
def slack_of(k, total, sq_dist_rel_err, relative, tolerance, KIND: tl.constexpr):
    """The relative error of estimates k, of all kernels but the cosine."""
    if KIND == TOPHAT or KIND == PRECOMPUTED:  # noqa: SIM109
        return k * 0 + relative
    else:
        estimated = sq_dist_rel_err * total  # times the logarithmic slope
        if KIND == LAPLACE:
            estimated = tl.div_rn(estimated, tl.maximum(1 - k, 1e-7))
        elif KIND == CAUCHY:
            estimated = estimated * k
        elif KIND == STUDENT_T:
            estimated = estimated * (1.5 * k)
        elif KIND == RATIONAL_QUADRATIC:
            estimated = estimated * (0.5 * k)
        else:
            tl.static_assert(KIND == RBF, "no slope of this kernel")
        # Written so that a NaN gives the tolerance.
        near = tl.where(estimated < tolerance, estimated, tolerance)
        return tl.fma(near, near * 0 + 1.01, near * 0 + relative)


@triton.jit
def bound_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND: tl.constexpr):
    """How far the estimates k may be off."""
    if KIND == COSINE:
        return k * 0 + absolute
    else:
        return k * slack_of(k, total, sq_dist_rel_err, relative, tolerance, KIND)


@triton.jit
def reach_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND: tl.constexpr):
    """k with its bound, to the last bit the same in every kernel: `lower` takes from a bound what `start` put there.

    Hence a multiply-add that is asked for. A compiler may fuse a product with an addition in one kernel and not in the
    next, and an entry would be alive to one of them alone.
    """
    if KIND == COSINE:
        return k + absolute
    else:
        return tl.fma(k, slack_of(k, total, sq_dist_rel_err, relative, tolerance, KIND), k)


@triton.jit
def charge_of(k, off, low, high, relative):
    """How far what a rise from low to high takes may be off, where k reaches above low; csrc's `Taken` says why."""
    across = tl.where(k - off < high, tl.minimum(off, high - low), 0.0)
    return across + high * relative


@triton.jit
def wide(x):
    """float64 of any of the features' types, without rounding."""
    if x.dtype == tl.float64:
        return x
    else:
        return x.to(tl.float32).to(tl.float64)


@triton.jit
def address_of(at, DTYPE: tl.constexpr):
    """A number that is an address as a pointer to rows that begin on 16 bytes."""
    return tl.multiple_of(at.to(tl.int64).to(tl.pointer_type(DTYPE)), 16)


@triton.jit
def kernel_of(total, norms, bandwidth, KIND: tl.constexpr):
    """Kernel values in float64 from squared distances, or for cosine from inner products and products of norms.

    Written as the reference writes it, so that tophat's edge agrees.
    """
    if KIND == COSINE:
        k = total / tl.where(norms > 0, norms, 1.0)
        return tl.where(norms > 0, tl.maximum(k, 0.0), 0.0)
    else:
        distance = tl.sqrt(total)
        if KIND == TOPHAT:
            return tl.where(distance < bandwidth, 1.0, 0.0).to(tl.float64)
        else:
            r = distance / bandwidth
            if KIND == RBF:
                return tl.exp(-r * r)
            elif KIND == LAPLACE:
                return tl.exp(-r)
            elif KIND == CAUCHY:
                return 1.0 / (1.0 + r * r)
            elif KIND == STUDENT_T:
                root = tl.sqrt(1.0 + 2.0 * r * r)
                return 1.0 / (root * tl.sqrt(root))
            else:
                tl.static_assert(KIND == RATIONAL_QUADRATIC, "no value of this kernel")
                return 1.0 / (1.0 + r * r / 2.0)


@triton.jit
def exact_values(
    features, stride, dimension, norms, rows, others, other, other_norms, mask, bandwidth, KIND: tl.constexpr
):
    """k(features[rows[r]], others[other[r]]) in float64 where mask says so; both in one order whenever computed."""
    if KIND == PRECOMPUTED:
        return wide(tl.load(features + rows * stride + other, mask=mask, other=0.0))
    else:
        lanes = tl.arange(0, BLOCK_D)
        own = features + rows * stride
        theirs = others + other * stride
        sums = tl.zeros([rows.shape[0], BLOCK_D], tl.float64)
        for d in range(0, dimension, BLOCK_D):
            inside = mask[:, None] & (d + lanes < dimension)[None, :]
            x = wide(tl.load(own[:, None] + (d + lanes)[None, :], mask=inside, other=0.0))
            y = wide(tl.load(theirs[:, None] + (d + lanes)[None, :], mask=inside, other=0.0))
            if KIND == COSINE:
                sums += x * y
            else:
                sums += (x - y) * (x - y)
        total = tl.sum(sums, axis=1)
        both = total
        if KIND == COSINE:
            both = tl.load(norms + rows, mask=mask, other=0.0) * tl.load(other_norms + other, mask=mask, other=0.0)
        return kernel_of(total, both, bandwidth, KIND)


@triton.jit
def multiple(v, magic):
    """v rounded to a multiple of a power of two u, given 1.5 * 2^52 u; such multiples add up without rounding."""
    return (v + magic) - magic
