"""The Triton kernel behind `disagreement`.

A block takes some positions, and of each all classes of one sample at a time: what the samples share, the mean of
their probabilities and their votes, stays in registers. Where the classes are few a position is one thread's, and its
classes are two tiles, 16 + 4 for 19: a tile has a power of two of them, and what is not there costs as much as what is.
Of half precision a thread has two positions that lie side by side, where the layout allows.

exp and ln are float32, sums as good as float64, and what is done once a position is float64: GPUs have few units for
that, and fewer for conversions. Of half precision, which is read at twice the pace, four classes are added up in
float32 first. Up to 32 classes exp is the device's instruction for powers of two, within 2^-22, as in
csrc/cuda/disagreement.cu; beyond, a polynomial within 2 ulp. Scores are within 1e-6.
"""

import triton
import triton.language as tl

from .._triton import kernel
from ..maxherding.backends.gpu.arithmetic import exp_to_87, log_parts

PROBS = tl.constexpr(2)  # of problem.INPUTS; log-probabilities are logits with one more check
LOG_PROBS = tl.constexpr(1)
NO_POSITION = tl.constexpr(2**63 - 1)
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.44269504)
LOG2E_LESS = tl.constexpr(1.92596299e-8)  # log2(e) is the sum of float32's LOG2E and this
FEW = tl.constexpr(32)  # classes up to here, exp is the device's instruction
FARTHEST = tl.constexpr(87.0)  # below the largest exponent, of e or 2: a class there has 1e-26 or less, which is none


@triton.jit
def offsets(position, layout, DIMS: tl.constexpr):
    """Where the samples and `single` of these positions begin; layout is (3, DIMS) in memory, the last one fastest."""
    own = position * 0
    other = position * 0
    rest = position
    for back in tl.static_range(DIMS):
        at = layout + (DIMS - 1 - back)
        index = rest
        if back < DIMS - 1:  # a division costs as much as the scores of five classes
            size = tl.load(at)
            rest = index // size
            index -= rest * size
        own += index * tl.load(at + DIMS)
        other += index * tl.load(at + 2 * DIMS)
    return own, other


@triton.jit
def per_position(v, CLASSES_LAST: tl.constexpr):
    """(positions,) to what a tile broadcasts with."""
    return v[:, None] if CLASSES_LAST else v[None, :]


@triton.jit
def per_class(c, CLASSES_LAST: tl.constexpr):
    return c[None, :] if CLASSES_LAST else c[:, None]


@triton.jit
def zeros_of(c, position, CLASSES_LAST: tl.constexpr):
    """A tile of them, int32."""
    return (per_class(c * 0, CLASSES_LAST) + per_position(position * 0, CLASSES_LAST)).to(tl.int32)


@triton.jit
def load_tile(
    at, c, stride, C, NOTHING: tl.constexpr, WHOLE: tl.constexpr, PAIRS: tl.constexpr, CLASSES_LAST: tl.constexpr
):
    """Classes c of the positions that `at` points to, float32 or float64. WHOLE: there is no class beyond C."""
    if CLASSES_LAST:  # side by side
        place = at[:, None] + c[None, :]
    else:
        # Said to be side by side in pairs, so that a warp takes 32 positions and a thread its own: Triton 3.6
        # would have a warp take classes first. Unless they are said to be aligned, nothing is read in pairs.
        place = tl.max_contiguous(at[None, :] + (c * stride)[:, None], (1, 2))
        if PAIRS:  # a thread's are two, of 32 bits
            place = tl.multiple_of(place, (1, 4))
    if WHOLE:
        x = tl.load(place)
    else:
        x = tl.load(place, mask=per_class(c < C, CLASSES_LAST), other=NOTHING)
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def load_tiles(
    at, c, d, stride, C, INPUT: tl.constexpr, REST: tl.constexpr, PAIRS: tl.constexpr, CLASSES_LAST: tl.constexpr
):
    """Both tiles, or twice the first."""
    NOTHING: tl.constexpr = 0.0 if INPUT == PROBS else -float("inf")
    x = load_tile(at, c, stride, C, NOTHING, REST > 0, PAIRS, CLASSES_LAST)
    y = x
    if REST:
        y = load_tile(at, d, stride, C, NOTHING, False, PAIRS, CLASSES_LAST)
    return x, y


@triton.jit
def sum_over(a, b, REST: tl.constexpr, AXIS: tl.constexpr):
    """Of both tiles; the second one counts where REST is not 0."""
    total = tl.sum(a, axis=AXIS)
    if REST:
        total += tl.sum(b, axis=AXIS)
    return total


@triton.jit
def max_over(a, b, REST: tl.constexpr, AXIS: tl.constexpr):
    most = tl.max(a, axis=AXIS)
    if REST:
        most = tl.maximum(most, tl.max(b, axis=AXIS))
    return most


@triton.jit
def grouped(v, TOGETHER: tl.constexpr):
    """Sums of so many neighbouring classes, or of all where there are fewer: one rounding of each is allowed, for the
    additions that it saves. A position is one thread's.
    """
    SIZE: tl.constexpr = v.shape[0]
    if TOGETHER == 1 or SIZE == 1:
        return v
    elif SIZE <= TOGETHER:
        return tl.sum(v, axis=0, keep_dims=True)
    else:
        return tl.sum(tl.reshape(v, (SIZE // TOGETHER, TOGETHER, v.shape[1])), axis=1)


@triton.jit
def in_halves(v):
    """Of each two neighbouring classes the first ones, and the second ones."""
    return tl.split(tl.permute(tl.reshape(v, (v.shape[0] // 2, 2, v.shape[1])), (0, 2, 1)))


@triton.jit
def grouped_products(a, b, TOGETHER: tl.constexpr):
    """The same of products."""
    if TOGETHER == 4 and a.shape[0] >= 4:
        a_even, a_odd = in_halves(a)
        a_0, a_2 = in_halves(a_even)
        a_1, a_3 = in_halves(a_odd)
        b_even, b_odd = in_halves(b)
        b_0, b_2 = in_halves(b_even)
        b_1, b_3 = in_halves(b_odd)
        return tl.fma(a_3, b_3, tl.fma(a_2, b_2, tl.fma(a_1, b_1, a_0 * b_0)))
    else:
        return grouped(a * b, TOGETHER)


@triton.jit
def exact_parts(a, b, FIRST: tl.constexpr, REST: tl.constexpr, AXIS: tl.constexpr):
    """Two float32 numbers that make the sum of float32 numbers of classes, or of groups of them.

    Each is from -0.54 to 1.01 times the classes of its group, at most FIRST, and in all they are at most 2 FIRST
    (probabilities: at most 2, so that FIRST is 1).
    Multiples of 2^-22 FIRST, or of twice that, are summed apart, without a rounding: no sum of them has more than 24
    bits. What is left of each is so little that rounding does not count.
    """
    MAGIC: tl.constexpr = 3.0 * FIRST
    high_a = (a + MAGIC) - MAGIC
    high_b = (b + MAGIC) - MAGIC
    high = sum_over(high_a, high_b, REST, AXIS)
    low = sum_over(a - high_a, b - high_b, REST, AXIS)
    if FIRST > FEW:  # the low one is not that low: Knuth's two-sum
        total = high + low
        part = total - high
        low = (high - (total - part)) + (low - part)
        high = total
    return high, low


@triton.jit
def exact_sum(a, b, FIRST: tl.constexpr, REST: tl.constexpr, AXIS: tl.constexpr):
    """The same in float64."""
    high, low = exact_parts(a, b, FIRST, REST, AXIS)
    return high.to(tl.float64) + low.to(tl.float64)


@triton.jit
def add(total, lost, term, MANY: tl.constexpr):
    """A sum with one more term, and what its additions have lost: of many terms it would count."""
    after = total + term
    if MANY:
        lost += term - (after - total)
    return after, lost


@triton.jit
def first_largest(a, b, FIRST: tl.constexpr, REST: tl.constexpr, AXIS: tl.constexpr):
    """The first class of the largest value."""
    first = tl.argmax(a, axis=AXIS, tie_break_left=True)
    if REST:
        later = FIRST + tl.argmax(b, axis=AXIS, tie_break_left=True)
        first = tl.where(tl.max(b, axis=AXIS) > tl.max(a, axis=AXIS), later, first)
    return first


@triton.jit
def x_ln_x(x):
    n, y = log_parts(x)
    return x * (n * LN2 + y)


@triton.jit
def wide_log_of(x):
    """ln(x), x float32, in float64 to 2^-25: a float32 result would be coarser where it is large."""
    n, y = log_parts(x)
    return n.to(tl.float64) * 0.6931471805599453 + y.to(tl.float64)


@triton.jit
def clamp(v, high):
    """To [0, high]; NaN stays."""
    v = tl.where(v < 0, 0.0, v)
    return tl.where(v > high, high, v)


@triton.jit
def not_far(x):
    """No exponent is far below 0, so that products with it are numbers; NaN stays."""
    return tl.maximum(x, -FARTHEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def fused_exponents(x, factor, shift):
    """x * factor + shift, of a position each, with one rounding."""
    factor = tl.broadcast_to(factor[None, :], x.shape)
    return not_far(tl.fma(x, factor, tl.broadcast_to(shift[None, :], x.shape)))


@triton.jit
def exponents(x, top, OWN: tl.constexpr):
    """x - top, at most 0 or NaN, in float32, or as powers of two; and what rounding took."""
    difference = x - top
    d = difference.to(tl.float32)
    if OWN:  # the difference as it is rounded, whose product is not
        d = not_far(d)
        product = d * LOG2E
        factor = tl.zeros_like(d) + LOG2E
        return product, tl.fma(d, tl.zeros_like(d) + LOG2E_LESS, tl.fma(d, factor, -product))
    else:
        if x.dtype == tl.float64:
            rest = (difference - d.to(tl.float64)).to(tl.float32)
        else:
            part = d - x  # Knuth's two-sum
            rest = (x - (d - part)) - (top + part)
        return not_far(d), tl.where(d > -FARTHEST, rest, 0.0)


@triton.jit
def read(
    a, b, tolerance, INPUT: tl.constexpr, CHECK: tl.constexpr, HALF: tl.constexpr,
    FIRST: tl.constexpr, REST: tl.constexpr, AXIS: tl.constexpr, CLASSES_LAST: tl.constexpr,
):  # fmt: skip
    """Of predictions in two tiles: what times a scale is p, that scale, the entropy, and which are no valid input.

    NaN, +inf or no possible class at a position make scale and entropy NaN.
    """
    if INPUT == PROBS:
        negative = max_over((a < 0).to(tl.int32), (b < 0).to(tl.int32), REST, AXIS) > 0
        total = sum_over(a.to(tl.float64), b.to(tl.float64), REST, AXIS)  # of what may be anything; of NaN it is NaN
        wrong = negative | ((tl.abs(total - 1) > tolerance) & (total < float("inf")))
        lost = (total != total) | (total == float("inf")) | (total == 0)
        scale = tl.where(lost, float("nan"), 1 / total)
        a = a.to(tl.float32)
        b = b.to(tl.float32)
        terms = exact_sum(x_ln_x(a), x_ln_x(b), FIRST, REST, AXIS)
        H = wide_log_of(total.to(tl.float32)) - terms * scale
    else:
        OWN: tl.constexpr = FIRST <= FEW  # each position is a thread's
        top = max_over(a, b, REST, AXIS)
        if OWN and HALF:
            # In one multiply-add, since of half precision the product with `top` is small, and that it is rounded is
            # the same for all classes: the largest exponent is within 2^-8 of 0, and 2^-22 where log-probabilities sum
            # to one. Where it is not small there is bfloat16 alone, and any other number is so far that it comes out as
            # 0, times whatever.
            factor = tl.where(tl.abs(top) < 65536.0, LOG2E, 1.0)
            shift = -(top * factor)
            a = fused_exponents(a, factor, shift)
            b = fused_exponents(b, factor, shift)
        else:
            down = per_position(top, CLASSES_LAST)
            a, rest_a = exponents(a, down, OWN)
            b, rest_b = exponents(b, down, OWN)
        e_a = tl.exp2(a) if OWN else exp_to_87(-a)
        e_b = tl.exp2(b) if OWN else exp_to_87(-b)
        UNIT: tl.constexpr = LN2 if OWN else 1.0  # what exponents are multiples of
        if not (OWN and HALF):
            rest_a = e_a * rest_a
            rest_b = e_b * rest_b
            e_a += rest_a * UNIT
            e_b += rest_b * UNIT
        # Half precision is read at twice the pace.
        TERMS: tl.constexpr = (4 if HALF else 2) if OWN else 1
        PRODUCTS: tl.constexpr = 4 if OWN and HALF else 1
        Z, low_Z = exact_parts(grouped(e_a, TERMS), grouped(e_b, TERMS), FIRST, REST, AXIS)
        products_a = grouped_products(e_a, a, PRODUCTS)
        moment, low_moment = exact_parts(products_a, grouped_products(e_b, b, PRODUCTS), FIRST, REST, AXIS)
        if not (OWN and HALF):
            low_moment += sum_over(rest_a, rest_b, REST, AXIS)
        near_Z = Z + low_Z
        root = tl.rsqrt(near_Z)
        near = root * root
        # 1 / Z is near + more, by a step of Newton's.
        more = near * (tl.fma(-Z, near, tl.zeros_like(Z) + 1.0) - low_Z * near)
        n, y = log_parts(near_Z)
        n = n.to(tl.float64)
        y_less = (y - UNIT * (low_moment * near + moment * more)).to(tl.float64)
        part = moment.to(tl.float64) * near.to(tl.float64)
        H = LN2 * (n - part) + y_less if OWN else (LN2 * n - part) + y_less  # NaN where a number was
        scale = near + more
        lost = H != H
        a = e_a
        b = e_b
        wrong = lost & (H == H)  # never: of the right shape
        if INPUT == LOG_PROBS:
            log_sum = top.to(tl.float64) + (LN2 * n + y.to(tl.float64))
            wrong = tl.abs(tl.where(lost, 0.0, log_sum)) > tolerance
    if CHECK:
        wrong = wrong | lost
    return a, b, per_position(scale.to(tl.float32), CLASSES_LAST), H, wrong


@kernel
def score(
    samples,
    single,
    layout,
    bounds,
    first_bad,
    entropy_out,
    bald_out,
    expected_out,
    margin_out,
    least_out,
    variation_out,
    combined_out,
    count: tl.int64,
    K: tl.int64,
    C: tl.int64,
    sample_stride: tl.int64,
    class_stride: tl.int64,
    single_stride: tl.int64,
    ENTROPY: tl.constexpr,
    BALD: tl.constexpr,
    EXPECTED: tl.constexpr,
    MARGIN: tl.constexpr,
    LEAST: tl.constexpr,
    VARIATION: tl.constexpr,
    COMBINED: tl.constexpr,
    DIMS: tl.constexpr,
    INPUT: tl.constexpr,
    SINGLE: tl.constexpr,
    CHECK: tl.constexpr,
    MANY: tl.constexpr,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
    POSITIONS: tl.constexpr,
    CLASSES_LAST: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """All scores of POSITIONS positions, of FIRST + REST classes at most.

    layout: (3, DIMS) sizes and strides; bounds: two tolerances, weight, two limits, 1 / K. PAIRS: positions 2 i and
    2 i + 1 lie side by side on 4 bytes, and `count` is even.
    """
    AXIS: tl.constexpr = 1 if CLASSES_LAST else 0
    SECOND: tl.constexpr = REST if REST else 1
    HALF: tl.constexpr = samples.dtype.element_ty.primitive_bitwidth == 16
    block = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, POSITIONS)
    position = block * POSITIONS + lane
    here = position < count
    # The last one, or pair, is read again where there are no more, and stored once.
    if PAIRS:
        position = tl.minimum(position, count - 2 + lane % 2)
        position = tl.max_contiguous(tl.multiple_of(position, 2), 2)
    else:
        position = tl.minimum(position, count - 1)
    c = tl.arange(0, FIRST).to(tl.int64)
    d = FIRST + tl.arange(0, SECOND).to(tl.int64)
    own, other = offsets(position, layout, DIMS)
    own = samples + own

    share = tl.load(bounds + 5)
    near_share = share.to(tl.float32)
    beginning = 2 * near_share if MANY else 0.0  # beyond any term, so that `add` finds what is lost
    mean = zeros_of(c, position, CLASSES_LAST).to(tl.float32) + beginning
    lost_mean = mean * 0
    votes = zeros_of(c, position, CLASSES_LAST)
    second_mean = zeros_of(d, position, CLASSES_LAST).to(tl.float32) + beginning
    second_lost_mean = second_mean * 0
    second_votes = zeros_of(d, position, CLASSES_LAST)
    inner = tl.zeros((POSITIONS,), tl.float64)
    bad = position < 0
    tl.assume(K > 0)  # else zeros would be made twice
    for k in range(K):
        x, y = load_tiles(own + k * sample_stride, c, d, class_stride, C, INPUT, REST, PAIRS, CLASSES_LAST)
        p, r, scale, H, wrong = read(x, y, tl.load(bounds), INPUT, CHECK, HALF, FIRST, REST, AXIS, CLASSES_LAST)
        scale *= near_share
        mean, lost_mean = add(mean, lost_mean, p * scale, MANY)
        if REST:
            second_mean, second_lost_mean = add(second_mean, second_lost_mean, r * scale, MANY)
        inner += H
        bad = bad | wrong
        if VARIATION:
            x = tl.where(x == x, x, -float("inf"))
            y = tl.where(y == y, y, -float("inf"))
            choice = per_position(first_largest(x, y, FIRST, REST, AXIS), CLASSES_LAST)
            votes += (per_class(c, CLASSES_LAST) == choice).to(tl.int32)
            if REST:
                second_votes += (per_class(d, CLASSES_LAST) == choice).to(tl.int32)
    if MANY:
        mean = (mean - beginning) + lost_mean
        second_mean = (second_mean - beginning) + second_lost_mean
    inner *= share
    ln_classes = tl.load(bounds + 3)
    MEANS: tl.constexpr = 2 if FIRST <= FEW and HALF else 1
    H_mean = inner * 0 - exact_sum(grouped(x_ln_x(mean), MEANS), grouped(x_ln_x(second_mean), MEANS), FIRST, REST, AXIS)
    if FIRST > FEW:  # of the mean over its sum, which is nearly 1
        total, low_total = exact_parts(mean, second_mean, 1, REST, AXIS)
        H_mean += ((total - 1) + low_total) * (1 - H_mean)
    bald = clamp(H_mean - inner, tl.load(bounds + 4))

    q = mean
    second_q = second_mean
    H_q = H_mean
    if SINGLE:
        at = single + other
        x, y = load_tiles(at, c, d, single_stride, C, INPUT, REST, PAIRS, CLASSES_LAST)
        tolerance = tl.load(bounds + 1)
        q, second_q, scale, H_q, wrong = read(x, y, tolerance, INPUT, CHECK, HALF, FIRST, REST, AXIS, CLASSES_LAST)
        q *= scale
        second_q *= scale
        bad = bad | wrong
    H_q = clamp(H_q, ln_classes)

    if ENTROPY:
        tl.store(entropy_out + position, H_q.to(tl.float32), mask=here)
    if BALD:
        tl.store(bald_out + position, bald.to(tl.float32), mask=here)
    if EXPECTED:
        tl.store(expected_out + position, clamp(inner, ln_classes).to(tl.float32), mask=here)
    if COMBINED:
        tl.store(combined_out + position, (H_q + tl.load(bounds + 2) * bald).to(tl.float32), mask=here)
    if MARGIN or LEAST:
        lost = (H_q * 0).to(tl.float32)  # NaN where q is
        q = tl.where(q == q, q, 0.0)
        second_q = tl.where(second_q == second_q, second_q, 0.0)
        most = max_over(q, second_q, REST, AXIS)
        if MARGIN:
            first = per_position(first_largest(q, second_q, FIRST, REST, AXIS), CLASSES_LAST)
            others = tl.where(per_class(c, CLASSES_LAST) == first, 0.0, q)
            second_others = tl.where(per_class(d, CLASSES_LAST) == first, 0.0, second_q)
            runner_up = max_over(others, second_others, REST, AXIS)
            tl.store(margin_out + position, 1 - (most - runner_up) + lost, mask=here)
        if LEAST:
            tl.store(least_out + position, 1 - most + lost, mask=here)
    if VARIATION:
        agreed = max_over(votes, second_votes, REST, AXIS).to(tl.float64) * share
        tl.store(variation_out + position, (1 - agreed + inner * 0).to(tl.float32), mask=here)
    worst = tl.where(bad & here, position, NO_POSITION)
    if PAIRS:
        worst = tl.min(tl.reshape(worst, (POSITIONS // 2, 2)), axis=1)
    tl.atomic_min(first_bad + worst * 0, worst, mask=worst < NO_POSITION, sem="relaxed")
