"""Triton kernels on tiles of the kernel matrix: GEMM, kernel function, and what is done to the values, in one kernel.

Every one makes inner products of SIDE rows with SIDE others and turns them into kernel values while they are still in
registers. `fill` writes them; `sweep` only adds them up, and `gather` only keeps those that are alive, so that without
the matrix nothing N x N is ever stored.
"""

import triton
import triton.language as tl

from difal_kernels.ops._triton import kernel

from .arithmetic import (
    COSINE,
    DEAD,
    UNCERTAIN,
    address_of,
    bound_of,
    dot_tile,
    error_model,
    exact_values,
    multiple,
    value_of,
)

PAIRS = tl.constexpr(16)  # pairs that float64 takes together


@triton.jit
def values_of_tile(
    a, b, units, rows, columns, row_end, column_end, points, sq_norms_a, sq_norms_b, norms_at, sq_dist_rel_err,
    absolute, tolerance, product, KIND: tl.constexpr, WIDEN: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Kernel values of a tile, and s_i + s_j (0 where row and column are one point: that value is exact)."""
    g = dot_tile(a, b, rows, columns, row_end, column_end, units, WIDEN, SIDE) * product
    inside = (rows < row_end)[:, None] & (columns < column_end)[None, :]
    s_i = tl.load(sq_norms_a + rows, mask=rows < row_end, other=0.0)
    s_j = tl.load(sq_norms_b + columns, mask=columns < column_end, other=0.0)
    total = s_i[:, None] + s_j[None, :]
    k = value_of(g, total, sq_dist_rel_err, absolute, tolerance, KIND)
    own = rows[:, None] == points[None, :]
    one = tl.full([SIDE], 1.0, tl.float32)
    if KIND == COSINE:  # of no direction: like nothing, itself included
        norms = address_of(norms_at, tl.float64)
        one = tl.where(tl.load(norms + rows, mask=rows < row_end, other=0.0) > 0, 1.0, 0.0)
    k = tl.where(own, one[:, None], k)
    return tl.where(inside, k, DEAD), tl.where(own, 0.0, total)


@triton.jit
def append(pairs, length, k, rows, columns):
    """Lists the pairs whose values are UNCERTAIN, row * 2^32 + column, in any order."""
    wanted = (k == UNCERTAIN).to(tl.int32)
    each = tl.sum(wanted, axis=0)
    count = tl.sum(each, axis=0)
    if count > 0:
        begin = tl.atomic_add(length, count.to(tl.int64), sem="relaxed")
        index = (tl.cumsum(each, axis=0) - each)[None, :] + tl.cumsum(wanted, axis=0) - 1
        tl.store(pairs + begin + index, (rows[:, None] << 32) + columns[None, :], mask=wanted > 0)


@kernel
def fill(
    a, b, gram, gram_stride: tl.int64, units: tl.int64, rows_from: tl.int64, row_end: tl.int64, column_end: tl.int64,
    points, sq_norms_a, sq_norms_b, norms_at, model, pairs, length, KIND: tl.constexpr, WIDEN: tl.constexpr,
    SYMMETRIC: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """One tile of the matrix, and its mirror image."""
    row_tile = rows_from // SIDE + tl.program_id(0).to(tl.int64)
    column_tile = tl.program_id(1).to(tl.int64)
    if not SYMMETRIC or column_tile <= row_tile:
        lanes = tl.arange(0, SIDE)
        rows = row_tile * SIDE + lanes
        columns = column_tile * SIDE + lanes
        sq_dist_rel_err, _, absolute, tolerance, product = error_model(model)
        point = tl.load(points + columns, mask=columns < column_end, other=-1)
        k, _ = values_of_tile(
            a, b, units, rows, columns, row_end, column_end, point, sq_norms_a, sq_norms_b, norms_at, sq_dist_rel_err,
            absolute, tolerance, product, KIND, WIDEN, SIDE,
        )  # fmt: skip
        transposed = tl.trans(k)
        if SYMMETRIC and column_tile == row_tile:  # bitwise its own mirror image
            k = tl.where(rows[:, None] >= columns[None, :], k, transposed)
            transposed = k
        append(pairs, length, k, rows, columns)
        inside = (rows < row_end)[:, None] & (columns < column_end)[None, :]
        tl.store((gram + rows * gram_stride + column_tile * SIDE)[:, None] + lanes[None, :], k, mask=inside)
        if SYMMETRIC and column_tile < row_tile:
            inside = (columns < column_end)[:, None] & (rows < row_end)[None, :]
            tl.store(
                (gram + columns * gram_stride + row_tile * SIDE)[:, None] + lanes[None, :], transposed, mask=inside
            )


@kernel
def fill_pairs(
    pairs, length, gram, gram_stride: tl.int64, points, features_at, stride: tl.int64, dimension: tl.int64, norms_at,
    reals, KIND: tl.constexpr, DTYPE: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """Float64 values in the place of the uncertain ones."""
    count = tl.load(length)
    features = address_of(features_at, DTYPE)
    norms = address_of(norms_at, tl.float64)
    for first in range(tl.program_id(0).to(tl.int64) * PAIRS, count, tl.num_programs(0) * PAIRS):
        at = first + tl.arange(0, PAIRS).to(tl.int64)
        there = at < count
        pair = tl.load(pairs + at, mask=there, other=0)
        i = pair >> 32
        c = pair & 0xFFFFFFFF
        j = tl.load(points + c, mask=there, other=0)
        value = exact_values(features, stride, dimension, norms, i, features, j, norms, there, tl.load(reals), KIND)
        k = value.to(tl.float32)
        if SYMMETRIC:
            # Both halves of a tile on the diagonal are listed: the two sums differ in sign only, so not at all.
            tl.store(gram + c * gram_stride + i, k, mask=there)
        tl.store(gram + i * gram_stride + c, k, mask=there)


@triton.jit
def take_direction(
    k, reach, i, row_end, j, column_end, levels, weights, taken, alive, points, steps, magic, AXIS: tl.constexpr
):
    """What the points i take from the candidates j at each step, added to their sums. i runs along AXIS of k.

    Sums of a tile are float32, of at most SIDE terms: the bound has a term for that. Then they are rounded to
    multiples of a power of two, so that the order of the atomic additions does not matter.
    """
    most = tl.max(reach)
    w = tl.load(weights + i, mask=i < row_end, other=0.0)
    low = tl.load(levels + i, mask=i < row_end, other=4.0)
    for s in range(0, steps):
        high = tl.load(levels + (s + 1) * points + i, mask=i < row_end, other=4.0)
        if most > tl.min(tl.where((high > low) & (w > 0), low, 4.0)):
            l = tl.expand_dims(low, 1 - AXIS)
            h = tl.expand_dims(high, 1 - AXIS)
            each = tl.expand_dims(w, 1 - AXIS)
            gain = tl.sum(each * (tl.minimum(tl.maximum(k, l), h) - l), axis=AXIS).to(tl.float64)
            dying = tl.sum(tl.where((reach > l) & (reach <= h), each, 0.0), axis=AXIS).to(tl.float64) * 1.0001
            gain = multiple(gain, magic)
            dying = multiple(dying, magic)
            tl.atomic_add(taken + s * points + j, gain, mask=(j < column_end) & (gain != 0), sem="relaxed")
            tl.atomic_add(alive + s * points + j, dying, mask=(j < column_end) & (dying != 0), sem="relaxed")
        low = high


@triton.jit
def is_alive(k, total, rows, row_end, columns, column_end, floor, allowed, sq_dist_rel_err, relative,
             absolute, tolerance, KIND: tl.constexpr):  # fmt: skip
    """Entries that row or column may still use."""
    floor_i = tl.load(floor + rows, mask=rows < row_end, other=4.0)
    floor_j = tl.load(floor + columns, mask=columns < column_end, other=4.0)
    open_i = tl.load(allowed + rows, mask=rows < row_end, other=0) != 0
    open_j = tl.load(allowed + columns, mask=columns < column_end, other=0) != 0
    off = bound_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
    least = tl.minimum(floor_i[:, None], floor_j[None, :])
    return (k != DEAD) & (k + off > least) & (open_i[:, None] | open_j[None, :])


@kernel
def sweep(
    a, units: tl.int64, rows_from: tl.int64, points: tl.int64, sq_norms, norms_at, model, levels, weights, taken, alive,
    steps: tl.int64, magic_at, floor, allowed, counts, pairs, length, counting: tl.int64, KIND: tl.constexpr,
    WIDEN: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """One tile on or left of the diagonal: both directions of its sums, and how many entries stay alive."""
    row_tile = rows_from // SIDE + tl.program_id(0).to(tl.int64)
    column_tile = tl.program_id(1).to(tl.int64)
    if column_tile <= row_tile:
        rows = row_tile * SIDE + tl.arange(0, SIDE)
        columns = column_tile * SIDE + tl.arange(0, SIDE)
        sq_dist_rel_err, relative, absolute, tolerance, product = error_model(model)
        k, total = values_of_tile(
            a, a, units, rows, columns, points, points, columns, sq_norms, sq_norms, norms_at, sq_dist_rel_err,
            absolute, tolerance, product, KIND, WIDEN, SIDE,
        )  # fmt: skip
        append(pairs, length, k, rows, columns)
        magic = tl.load(magic_at)
        if counting != 0:
            left = is_alive(k, total, rows, points, columns, points, floor, allowed,
                            sq_dist_rel_err, relative, absolute, tolerance, KIND).to(tl.int32)  # fmt: skip
            tl.atomic_add(counts + rows, tl.sum(left, axis=1), mask=rows < points, sem="relaxed")
            if column_tile < row_tile:
                tl.atomic_add(counts + columns, tl.sum(left, axis=0), mask=columns < points, sem="relaxed")
        k = tl.where(k == UNCERTAIN, DEAD, k)  # added up by sweep_pairs
        reach = k * (1 + 2 * tolerance + relative) + absolute
        take_direction(k, reach, rows, points, columns, points, levels, weights, taken, alive, points, steps, magic, 0)
        if column_tile < row_tile:  # a tile on the diagonal has both halves
            take_direction(
                k, reach, columns, points, rows, points, levels, weights, taken, alive, points, steps, magic, 1
            )


@triton.jit
def take_pair(k, reach, there, i, j, levels, weights, taken, alive, points, steps, magic):
    w = tl.load(weights + i, mask=there, other=0.0).to(tl.float64)
    low = tl.load(levels + i, mask=there, other=4.0)
    for s in range(0, steps):
        high = tl.load(levels + (s + 1) * points + i, mask=there, other=4.0)
        clipped = tl.minimum(tl.maximum(k, low), high)
        gain = multiple(w * (clipped.to(tl.float64) - low.to(tl.float64)), magic)
        dying = multiple(tl.where((reach > low) & (reach <= high), w * 1.0001, 0.0), magic)
        tl.atomic_add(taken + s * points + j, gain, mask=there & (gain != 0), sem="relaxed")
        tl.atomic_add(alive + s * points + j, dying, mask=there & (dying != 0), sem="relaxed")
        low = high


@kernel
def sweep_pairs(
    pairs, length, features_at, stride: tl.int64, dimension: tl.int64, norms_at, reals, model, levels, weights, taken,
    alive, points: tl.int64, steps: tl.int64, magic_at, KIND: tl.constexpr, DTYPE: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """The sums of the pairs that a sweep left out."""
    count = tl.load(length)
    features = address_of(features_at, DTYPE)
    norms = address_of(norms_at, tl.float64)
    _, relative, absolute, tolerance, _ = error_model(model)
    magic = tl.load(magic_at)
    for first in range(tl.program_id(0).to(tl.int64) * PAIRS, count, tl.num_programs(0) * PAIRS):
        at = first + tl.arange(0, PAIRS).to(tl.int64)
        there = at < count
        pair = tl.load(pairs + at, mask=there, other=0)
        i = pair >> 32
        j = pair & 0xFFFFFFFF
        value = exact_values(features, stride, dimension, norms, i, features, j, norms, there, tl.load(reals), KIND)
        k = value.to(tl.float32)
        reach = k * (1 + 2 * tolerance + relative) + absolute
        take_pair(k, reach, there, i, j, levels, weights, taken, alive, points, steps, magic)
        both = there & (i // SIDE != j // SIDE)
        take_pair(k, reach, both, j, i, levels, weights, taken, alive, points, steps, magic)


@kernel
def gather(
    a, units: tl.int64, points: tl.int64, sq_norms, norms_at, model, floor, allowed, list_begin, list_length,
    list_point, list_value, KIND: tl.constexpr, WIDEN: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """The lists of SIDE rows: what is alive in tile after tile, so that they come out in the order of the columns.

    A list has room up to where the next begins; its length counts what had none, too.
    """
    rows = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    here = rows < points
    sq_dist_rel_err, relative, absolute, tolerance, product = error_model(model)
    begin = tl.load(list_begin + rows, mask=here, other=0)
    room = (tl.load(list_begin + rows + 1, mask=here, other=0) - begin).to(tl.int32)
    length = tl.zeros([SIDE], tl.int32)
    for first in range(0, points, SIDE):
        columns = first + tl.arange(0, SIDE).to(tl.int64)
        k, total = values_of_tile(
            a, a, units, rows, columns, points, points, columns, sq_norms, sq_norms, norms_at, sq_dist_rel_err,
            absolute, tolerance, product, KIND, WIDEN, SIDE,
        )  # fmt: skip
        left = is_alive(k, total, rows, points, columns, points, floor, allowed,
                        sq_dist_rel_err, relative, absolute, tolerance, KIND).to(tl.int32)  # fmt: skip
        index = length[:, None] + tl.cumsum(left, axis=1) - 1
        fits = (left > 0) & (index < room[:, None])
        point = tl.zeros([SIDE, 1], tl.int32) + columns.to(tl.int32)[None, :]
        tl.store((list_point + begin)[:, None] + index, point, mask=fits)
        tl.store((list_value + begin)[:, None] + index, k, mask=fits)
        length += tl.sum(left, axis=1)
    tl.store(list_length + rows, length, mask=here)


@kernel
def repair_lists(
    list_begin, list_length, list_point, list_value, features_at, stride: tl.int64, dimension: tl.int64, norms_at,
    reals, KIND: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Float64 values in the place of the uncertain ones of a row's list."""
    i = tl.program_id(0).to(tl.int64)
    features = address_of(features_at, DTYPE)
    norms = address_of(norms_at, tl.float64)
    begin = tl.load(list_begin + i)
    length = tl.load(list_length + i)
    for first in range(0, length, PAIRS):
        e = first + tl.arange(0, PAIRS)
        unsure = tl.load(list_value + begin + e, mask=e < length, other=0.0) == UNCERTAIN
        if tl.max(unsure.to(tl.int32), axis=0) > 0:
            j = tl.load(list_point + begin + e, mask=unsure, other=0).to(tl.int64)
            value = exact_values(
                features, stride, dimension, norms, j * 0 + i, features, j, norms, unsure, tl.load(reals), KIND
            )
            tl.store(list_value + begin + e, value.to(tl.float32), mask=unsure)
