"""The Triton kernel behind `disagreement`.

A block takes some positions, and of each all classes of one sample at a time: what the samples share, the mean of
their probabilities and their votes, stays in registers. Where the classes are few a position is one thread's, and its
classes are two tiles, 16 + 4 for 19: a tile has a power of two of them, and what is not there costs as much as what is.
exp and ln are float32, sums as good as float64, and what is done once a position is float64: GPUs have few units for
that, and fewer for conversions. Up to 32 classes exp is the device's instruction for powers of two, within 2^-22, and
an entropy within 6e-7, as in csrc/cuda/disagreement.cu; beyond, a polynomial within 2 ulp.
"""

import triton
import triton.language as tl

from .._triton import kernel
from ..maxherding.backends.gpu.arithmetic import exp_to_87, log_of, log_parts

PROBS = tl.constexpr(2)  # of problem.INPUTS; log-probabilities are logits with one more check
LOG_PROBS = tl.constexpr(1)
NO_POSITION = tl.constexpr(2**63 - 1)
SMALLEST = tl.constexpr(1e-37)  # stands for 0 under ln; 0 ln 0 comes out as 0
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.44269504)
FEW = tl.constexpr(32)  # classes up to here, exp is the device's instruction
FARTHEST = tl.constexpr(87.0)  # below the largest logit: a class that is farther has 1e-38, which counts for nothing


@triton.jit
def offsets(position, sizes, strides, DIMS: tl.constexpr):
    """Where the predictions of these positions begin; sizes and strides are (DIMS,) in memory, the last one fastest."""
    offset = position * 0
    rest = position
    for back in tl.static_range(DIMS):
        size = tl.load(sizes + (DIMS - 1 - back))
        offset += rest % size * tl.load(strides + (DIMS - 1 - back))
        rest = rest // size
    return offset


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
def load_tile(at, c, stride, C, NOTHING: tl.constexpr, WHOLE: tl.constexpr, CLASSES_LAST: tl.constexpr):
    """Classes c of the positions that `at` points to, float32 or float64. WHOLE: there is no class beyond C."""
    if CLASSES_LAST:  # side by side
        place = at[:, None] + c[None, :]
    else:
        # Said to be side by side in pairs, so that a warp takes 32 positions and a thread its own: Triton 3.6
        # would have a warp take classes first. Nothing is read in pairs, since no position is said to be aligned.
        place = tl.max_contiguous(at[None, :] + (c * stride)[:, None], (1, 2))
    if WHOLE:
        x = tl.load(place)
    else:
        x = tl.load(place, mask=per_class(c < C, CLASSES_LAST), other=NOTHING)
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def load_tiles(at, c, d, stride, C, INPUT: tl.constexpr, REST: tl.constexpr, CLASSES_LAST: tl.constexpr):
    """Both tiles, or twice the first."""
    NOTHING: tl.constexpr = 0.0 if INPUT == PROBS else -float("inf")
    x = load_tile(at, c, stride, C, NOTHING, REST > 0, CLASSES_LAST)
    y = x
    if REST:
        y = load_tile(at, d, stride, C, NOTHING, False, CLASSES_LAST)
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
def exact_sum(a, b, FIRST: tl.constexpr, REST: tl.constexpr, AXIS: tl.constexpr):
    """Float64 sum of float32 numbers from -1 to 1 over the classes, at most 2 FIRST of them.

    Multiples of 2^-22 FIRST are summed apart, without a rounding: no sum of them has more than 24 bits. What is left
    of each is so little that rounding does not count.
    """
    MAGIC: tl.constexpr = 3.0 * FIRST
    high_a = (a + MAGIC) - MAGIC
    high_b = (b + MAGIC) - MAGIC
    high = sum_over(high_a, high_b, REST, AXIS)
    return high.to(tl.float64) + sum_over(a - high_a, b - high_b, REST, AXIS).to(tl.float64)


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
    return x * log_of(tl.maximum(x, SMALLEST))


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
def read(
    a, b, tolerance, INPUT: tl.constexpr, CHECK: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
    AXIS: tl.constexpr, CLASSES_LAST: tl.constexpr,
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
        top = max_over(a, b, REST, AXIS)
        down = per_position(top, CLASSES_LAST)
        a = tl.minimum((down - a).to(tl.float32), FARTHEST, propagate_nan=tl.PropagateNan.ALL)  # at least 0, or NaN
        b = tl.minimum((down - b).to(tl.float32), FARTHEST, propagate_nan=tl.PropagateNan.ALL)
        UNIT: tl.constexpr = LN2 if FIRST <= FEW else 1.0
        if FIRST <= FEW:  # powers of two, of exponents as rounded
            a = a * LOG2E
            b = b * LOG2E
            e_a = tl.exp2(-a)
            e_b = tl.exp2(-b)
        else:
            e_a = exp_to_87(a)
            e_b = exp_to_87(b)
        Z = exact_sum(e_a, e_b, FIRST, REST, AXIS)
        moment = UNIT * exact_sum(e_a * a, e_b * b, FIRST, REST, AXIS)  # NaN where a number was
        near = (1 / Z.to(tl.float32)).to(tl.float64)
        scale = near * (2 - Z * near)  # 1 / Z, by a step of Newton's
        log_z = wide_log_of(Z.to(tl.float32))
        H = log_z + moment * scale
        lost = H != H
        scale += H * 0
        a = e_a
        b = e_b
        wrong = lost & (H == H)  # never: of the right shape
        if INPUT == LOG_PROBS:
            wrong = tl.abs(tl.where(lost, 0.0, top.to(tl.float64) + log_z)) > tolerance
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
):
    """All scores of POSITIONS positions, of FIRST + REST classes at most.

    layout: (3, DIMS) sizes and strides; bounds: two tolerances, weight, two limits.
    """
    AXIS: tl.constexpr = 1 if CLASSES_LAST else 0
    SECOND: tl.constexpr = REST if REST else 1
    block = tl.program_id(0).to(tl.int64)
    position = block * POSITIONS + tl.arange(0, POSITIONS)
    here = position < count
    position = tl.minimum(position, count - 1)  # the last one is read again where there are no more, and stored once
    c = tl.arange(0, FIRST).to(tl.int64)
    d = FIRST + tl.arange(0, SECOND).to(tl.int64)
    own = samples + offsets(position, layout, layout + DIMS, DIMS)

    BEGINNING: tl.constexpr = 2.0 if MANY else 0.0  # beyond any term, so that `add` finds what is lost
    mean = zeros_of(c, position, CLASSES_LAST).to(tl.float32) + BEGINNING
    lost_mean = mean * 0
    votes = zeros_of(c, position, CLASSES_LAST)
    second_mean = zeros_of(d, position, CLASSES_LAST).to(tl.float32) + BEGINNING
    second_lost_mean = second_mean * 0
    second_votes = zeros_of(d, position, CLASSES_LAST)
    inner = tl.zeros((POSITIONS,), tl.float64)
    bad = position < 0
    for k in range(K):
        x, y = load_tiles(own + k * sample_stride, c, d, class_stride, C, INPUT, REST, CLASSES_LAST)
        p, r, scale, H, wrong = read(x, y, tl.load(bounds), INPUT, CHECK, FIRST, REST, AXIS, CLASSES_LAST)
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
    share = 1 / K.to(tl.float64)
    if MANY:
        mean = (mean - BEGINNING) + lost_mean
        second_mean = (second_mean - BEGINNING) + second_lost_mean
    mean *= share.to(tl.float32)
    second_mean *= share.to(tl.float32)
    inner *= share
    ln_classes = tl.load(bounds + 3)
    H_mean = inner * 0 - exact_sum(x_ln_x(mean), x_ln_x(second_mean), FIRST, REST, AXIS)
    bald = clamp(H_mean - inner, tl.load(bounds + 4))

    q = mean
    second_q = second_mean
    H_q = H_mean
    if SINGLE:
        at = single + offsets(position, layout, layout + 2 * DIMS, DIMS)
        x, y = load_tiles(at, c, d, single_stride, C, INPUT, REST, CLASSES_LAST)
        q, second_q, scale, H_q, wrong = read(x, y, tl.load(bounds + 1), INPUT, CHECK, FIRST, REST, AXIS, CLASSES_LAST)
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
    tl.store(first_bad + block, tl.min(tl.where(bad & here, position, NO_POSITION)))
