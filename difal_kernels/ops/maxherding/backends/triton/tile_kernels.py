"""Triton kernels on stored tiles of the kernel: what is taken from candidates at each step, and what stays alive."""

import triton
import triton.language as tl

from difal_kernels.ops._triton import kernel

from ..gpu.arithmetic import error_model, multiple, reach_of

OTHERS = tl.constexpr(32)  # entries of a list that `gather` takes together: with 64 the registers do not suffice


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


@kernel
def take(
    tile, stride: tl.int64, row_begin: tl.int64, row_end: tl.int64, column_begin: tl.int64, column_end: tl.int64, model,
    levels, weights, taken, alive, points: tl.int64, steps: tl.int64, magic_at, both: tl.int64, SIDE: tl.constexpr,
):  # fmt: skip
    """A square of a tile: what its rows take from its columns, and, if `both`, its columns from its rows."""
    rows = row_begin + tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    columns = column_begin + tl.program_id(1).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    inside = (rows < row_end)[:, None] & (columns < column_end)[None, :]
    at = tile + ((rows - row_begin) * stride)[:, None] + (columns - column_begin)[None, :]
    k = tl.load(at, mask=inside, other=-1.0)
    _, relative, absolute, tolerance, _ = error_model(model)
    magic = tl.load(magic_at)
    reach = tl.where(inside, k * (1 + 2 * tolerance + relative) + absolute, -1.0)
    take_direction(k, reach, rows, row_end, columns, column_end, levels, weights, taken, alive, points, steps, magic, 0)
    if both != 0:
        take_direction(
            k, reach, columns, column_end, rows, row_end, levels, weights, taken, alive, points, steps, magic, 1
        )


@kernel
def gather(
    tile, stride: tl.int64, row_begin: tl.int64, row_end: tl.int64, column_begin: tl.int64, column_end: tl.int64,
    sq_norms, model, floor, allowed, list_begin, list_length, list_point, list_value, KIND: tl.constexpr,
    TURNED: tl.constexpr, WRITING: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """The lists of SIDE rows of a tile, or, TURNED, of SIDE columns: what is alive, in the order of the others.

    Lists go on where the tiles before have left them, or, unless WRITING, are only counted. One has room up to where
    the next begins; its length counts what had none, too.
    """
    own_begin = column_begin if TURNED else row_begin
    own_end = column_end if TURNED else row_end
    other_begin = row_begin if TURNED else column_begin
    other_end = row_end if TURNED else column_end
    own = own_begin + tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    here = own < own_end
    sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model)
    if WRITING:
        begin = tl.load(list_begin + own, mask=here, other=0)
        room = (tl.load(list_begin + own + 1, mask=here, other=0) - begin).to(tl.int32)
    length = tl.load(list_length + own, mask=here, other=0)
    floor_own = tl.load(floor + own, mask=here, other=4.0)
    open_own = tl.load(allowed + own, mask=here, other=0) != 0
    s_own = tl.load(sq_norms + own, mask=here, other=0.0)
    for first in range(other_begin, other_end, OTHERS):
        other = first + tl.arange(0, OTHERS).to(tl.int64)
        there = other < other_end
        inside = here[:, None] & there[None, :]
        if TURNED:
            at = tile + ((other - row_begin) * stride)[:, None] + (own - column_begin)[None, :]
            k = tl.trans(tl.load(at, mask=tl.trans(inside), other=-1.0))
        else:
            at = tile + ((own - row_begin) * stride)[:, None] + (other - column_begin)[None, :]
            k = tl.load(at, mask=inside, other=-1.0)
        total = s_own[:, None] + tl.load(sq_norms + other, mask=there, other=0.0)[None, :]
        total = tl.where(own[:, None] == other[None, :], 0.0, total)
        reach = reach_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
        least = tl.minimum(floor_own[:, None], tl.load(floor + other, mask=there, other=4.0)[None, :])
        may = open_own[:, None] | (tl.load(allowed + other, mask=there, other=0) != 0)[None, :]
        left = (inside & (reach > least) & may).to(tl.int32)
        if WRITING:
            place = length[:, None] + tl.cumsum(left, axis=1) - 1
            fits = (left > 0) & (place < room[:, None])
            point = tl.zeros([SIDE, 1], tl.int32) + other.to(tl.int32)[None, :]
            tl.store((list_point + begin)[:, None] + place, point, mask=fits)
            tl.store((list_value + begin)[:, None] + place, k, mask=fits)
        length += tl.sum(left, axis=1)
    tl.store(list_length + own, length, mask=here)
