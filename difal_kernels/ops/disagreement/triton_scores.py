"""The Triton kernel behind `disagreement`.

A block takes some positions, and of each all classes of one sample at a time: what the samples share, the mean of
their probabilities and their votes, stays in registers. exp is float32 within 2 ulp, sums and logarithms float64, as
on the other backends: the relative error of a probability stays below 3e-7, which moves an entropy by less than 5e-7.
"""

import triton
import triton.language as tl

from .._triton import kernel
from ..maxherding.backends.gpu.arithmetic import exp_minus

PROBS = tl.constexpr(2)  # of problem.INPUTS; log-probabilities are logits with one more check
LOG_PROBS = tl.constexpr(1)
NO_POSITION = tl.constexpr(2**63 - 1)
TINY = tl.constexpr(1e-300)


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
def tile_of(start, class_stride, c, C, here, CLASSES_LAST: tl.constexpr):
    """Addresses of a tile and which of them there are."""
    if CLASSES_LAST:
        return start[:, None] + c[None, :], (c < C)[None, :] & here[:, None]
    else:
        return start[None, :] + c[:, None] * class_stride, (c < C)[:, None] & here[None, :]


@triton.jit
def per_position(v, CLASSES_LAST: tl.constexpr):
    """(positions,) to what a tile broadcasts with."""
    return v[:, None] if CLASSES_LAST else v[None, :]


@triton.jit
def per_class(c, CLASSES_LAST: tl.constexpr):
    return c[None, :] if CLASSES_LAST else c[:, None]


@triton.jit
def plogp(p):
    return tl.where(p > 0, p * tl.log(tl.maximum(p, TINY)), 0.0)


@triton.jit
def clamp(v, high):
    """To [0, high]; NaN stays."""
    v = tl.where(v < 0, 0.0, v)
    return tl.where(v > high, high, v)


@triton.jit
def read(x, tolerance, INPUT: tl.constexpr, CHECK: tl.constexpr, AXIS: tl.constexpr, CLASSES_LAST: tl.constexpr):
    """Float64 p and its entropy, the first most probable class of the input, and which positions are no valid input.

    x is NOTHING where there is no class. NaN, +inf or no possible class at a position make p and entropy NaN.
    """
    nan = tl.max((x != x).to(tl.int32), axis=AXIS) > 0
    x = tl.where(x != x, -float("inf"), x)
    if INPUT == PROBS:
        wide = tl.where(x > -float("inf"), x, -1.0).to(tl.float64)
        lowest = tl.min(wide, axis=AXIS)
        largest = tl.max(wide, axis=AXIS)
        total = tl.sum(wide, axis=AXIS)
        wrong = ((lowest < 0) | ((tl.abs(total - 1) > tolerance) & (largest < float("inf")))) & (nan == 0)
        lost = nan | (largest == float("inf")) | (total == 0)
        scale = tl.where(lost, float("nan"), 1 / total)
        p = wide * per_position(scale, CLASSES_LAST)
        H = -tl.sum(plogp(p), axis=AXIS) + scale * 0
    else:
        top = tl.max(x, axis=AXIS)
        lost = nan | (top == float("inf")) | (top == -float("inf"))
        down = per_position(tl.where(lost, 0.0, top), CLASSES_LAST) - x  # at least 0
        down = down.to(tl.float32)
        e = exp_minus(down).to(tl.float64)
        Z = tl.sum(e, axis=AXIS)
        moment = tl.sum(tl.where(e > 0, e * down.to(tl.float64), 0.0), axis=AXIS)
        scale = tl.where(lost, float("nan"), 1 / Z)
        p = e * per_position(scale, CLASSES_LAST)
        log_z = tl.log(tl.where(lost, 1.0, Z))
        H = log_z + moment * scale
        wrong = lost & (tl.abs(top) != tl.abs(top))  # never: of the right shape
        if INPUT == LOG_PROBS:
            excess = tl.where(lost, 0.0, top.to(tl.float64) + log_z)
            wrong = tl.abs(excess) > tolerance
    if CHECK:
        wrong = wrong | lost
    return p, H, tl.argmax(x, axis=AXIS, tie_break_left=True), wrong


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
    CLASSES: tl.constexpr,
    POSITIONS: tl.constexpr,
    CLASSES_LAST: tl.constexpr,
):
    """All scores of POSITIONS positions.

    layout: (3, DIMS) sizes and strides; bounds: two tolerances, weight, two limits.
    """
    AXIS: tl.constexpr = 1 if CLASSES_LAST else 0
    block = tl.program_id(0).to(tl.int64)
    position = block * POSITIONS + tl.arange(0, POSITIONS)
    here = position < count
    c = tl.arange(0, CLASSES).to(tl.int64)
    start = offsets(position, layout, layout + DIMS, DIMS)
    own, there = tile_of(start, class_stride, c, C, here, CLASSES_LAST)
    NOTHING: tl.constexpr = 0.0 if INPUT == PROBS else -float("inf")
    # Positions beyond the last are read as if they had one possible class, so that nothing there is wrong or NaN.
    absent = tl.where(per_class(c, CLASSES_LAST) == 0, 1.0, NOTHING)
    nobody = per_position(here, CLASSES_LAST) == 0

    mean = tl.zeros(there.shape, tl.float64)
    votes = tl.zeros(there.shape, tl.int32)
    inner = tl.zeros((POSITIONS,), tl.float64)
    bad = position < 0
    for k in range(K):
        x = tl.load(samples + own + k * sample_stride, mask=there, other=NOTHING)
        x = x if x.dtype == tl.float64 else x.to(tl.float32)
        x = tl.where(nobody, absent.to(x.dtype), x)
        p, H, choice, wrong = read(x, tl.load(bounds), INPUT, CHECK, AXIS, CLASSES_LAST)
        mean += p
        inner += H
        bad = bad | wrong
        if VARIATION:
            votes += (per_class(c, CLASSES_LAST) == per_position(choice, CLASSES_LAST)).to(tl.int32)
    mean = mean / K
    inner = inner / K
    ln_classes = tl.load(bounds + 3)
    H_mean = -tl.sum(plogp(mean), axis=AXIS) + inner * 0
    bald = clamp(H_mean - inner, tl.load(bounds + 4))

    q = mean
    H_q = H_mean
    if SINGLE:
        start = offsets(position, layout, layout + 2 * DIMS, DIMS)
        if CLASSES_LAST:
            at = start[:, None] + c[None, :] * single_stride
        else:
            at = start[None, :] + c[:, None] * single_stride
        x = tl.load(single + at, mask=there, other=NOTHING)
        x = x if x.dtype == tl.float64 else x.to(tl.float32)
        x = tl.where(nobody, absent.to(x.dtype), x)
        q, H_q, choice, wrong = read(x, tl.load(bounds + 1), INPUT, CHECK, AXIS, CLASSES_LAST)
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
        lost = H_q * 0  # NaN where q is
        q = tl.where(q == q, q, 0.0)
        most = tl.max(q, axis=AXIS)
        first = tl.argmax(q, axis=AXIS, tie_break_left=True)
        others = tl.where(per_class(c, CLASSES_LAST) == per_position(first, CLASSES_LAST), 0.0, q)
        if MARGIN:
            tl.store(margin_out + position, (1 - (most - tl.max(others, axis=AXIS)) + lost).to(tl.float32), mask=here)
        if LEAST:
            tl.store(least_out + position, (1 - most + lost).to(tl.float32), mask=here)
    if VARIATION:
        share = tl.max(votes, axis=AXIS).to(tl.float64) / K
        tl.store(variation_out + position, (1 - share + inner * 0).to(tl.float32), mask=here)
    tl.store(first_bad + block, tl.min(tl.where(bad & here, position, NO_POSITION)))
