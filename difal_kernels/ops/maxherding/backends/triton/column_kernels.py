"""Triton kernels on columns and rows of the kernel: lowering estimates, one candidate, labeled points."""

import triton
import triton.language as tl

from difal_kernels.ops._triton import kernel

from ..gpu.arithmetic import (
    UNCERTAIN,
    address_of,
    bound_of,
    charge_of,
    error_model,
    exact_values,
    multiple,
    reach_of,
)
from .greedy_kernels import BOUND_MAGIC, COLUMNS, GROUP, KNOWN, MAGIC, OPEN, RISES, SETTLED, TILE, WIDTH

RISEN = tl.constexpr(16)  # rows that are lowered together


@triton.jit
def taken_by_rise(
    k, total, low, high, w, there, magic, bound_magic, sq_dist_rel_err, relative, absolute, tolerance,
    KIND: tl.constexpr,
):  # fmt: skip
    """What a rise from low to high takes from entries k: of the gain, and of its bound where the entry dies; what is
    charged to a column that was settled before; and which entries were live."""
    clipped = tl.minimum(tl.maximum(k, low), high)
    taken = multiple(w * (clipped.to(tl.float64) - low.to(tl.float64)), magic)
    off = bound_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
    reach = reach_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
    live = there & (reach > low)
    died = tl.where(live & (reach <= high), multiple(w * off.to(tl.float64), bound_magic), 0.0)
    charge = multiple(w * charge_of(k, off, low, high, relative).to(tl.float64), bound_magic)
    return taken, died, tl.where(live, charge, 0.0), live


@kernel
def lower(
    gram, gram_stride: tl.int64, gram_step: tl.int64, sizes, control, reals, model, weights, sq_norms, points, gains,
    bounds, touched, flag, rise_row, rise_low, rise_high, rows_step: tl.int64, columns_step: tl.int64,
    KIND: tl.constexpr,
):  # fmt: skip
    """Lowers the estimates of a tile of columns for a share of the rows that rose, and their bounds by the entries that
    die of it; exact, so in any order."""
    b = tl.program_id(2).to(tl.int64)
    count = tl.load(control + b * WIDTH + RISES)
    share = tl.program_id(1).to(tl.int64)
    if share * RISEN < count:
        columns = tl.load(sizes + b * WIDTH + COLUMNS)
        j = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
        here = j < columns
        at = b * columns_step + j
        magic = tl.load(reals + b * WIDTH + MAGIC)
        sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model + b * WIDTH)
        bound_magic = tl.load(reals + b * WIDTH + BOUND_MAGIC)
        state = tl.load(flag + at, mask=here, other=OPEN)
        known = (state == SETTLED) | (state == KNOWN)
        point = tl.load(points + at, mask=here, other=0)
        sq_norm_j = tl.load(sq_norms + b * rows_step + point, mask=here, other=0.0)
        taken = tl.zeros([TILE], tl.float64)
        died = tl.zeros([TILE], tl.float64)
        charge = tl.zeros([TILE], tl.float64)
        reached = tl.zeros([TILE], tl.int32)
        for first in range(share * RISEN, count, tl.num_programs(1) * RISEN):
            r = first + tl.arange(0, RISEN).to(tl.int64)
            rise = b * rows_step + r
            i = tl.load(rise_row + rise, mask=r < count, other=0)
            low = tl.load(rise_low + rise, mask=r < count, other=4.0)[:, None]
            high = tl.load(rise_high + rise, mask=r < count, other=4.0)[:, None]
            w = tl.load(weights + b * rows_step + i, mask=r < count, other=0.0)[:, None]
            s = tl.load(sq_norms + b * rows_step + i, mask=r < count, other=0.0)[:, None]
            inside = (r < count)[:, None] & here[None, :]
            k = tl.load(gram + b * gram_step + i[:, None] * gram_stride + j[None, :], mask=inside, other=-1.0)
            total = tl.where(i[:, None] == point[None, :], 0.0, s + sq_norm_j[None, :])
            own_taken, own_died, own_charge, live = taken_by_rise(
                k, total, low, high, w, inside, magic, bound_magic, sq_dist_rel_err, relative, absolute, tolerance, KIND
            )
            taken += tl.sum(own_taken, axis=0)
            died += tl.sum(own_died, axis=0)
            charge += tl.sum(own_charge, axis=0)
            reached += tl.sum(live.to(tl.int32), axis=0)
        tl.atomic_add(gains + at, -taken, mask=here & (taken != 0), sem="relaxed")
        tl.atomic_add(bounds + at, -died, mask=here & (died != 0), sem="relaxed")
        tl.atomic_add(touched + at, charge, mask=here & known & (charge != 0), sem="relaxed")
        tl.store(flag + at, tl.full([TILE], KNOWN, tl.int8), mask=here & (state == SETTLED) & (reached > 0))


@kernel
def lower_sparse(
    list_begin, list_length, list_point, list_value, control, reals, model, weights, sq_norms, gains, bounds,
    touched, flag, rise_row, rise_low, rise_high, KIND: tl.constexpr,
):  # fmt: skip
    """The same by lists: each risen row lowers the columns on its own."""
    count = tl.load(control + RISES)
    magic = tl.load(reals + MAGIC)
    bound_magic = tl.load(reals + BOUND_MAGIC)
    sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model)
    for r in range(tl.program_id(0), count, tl.num_programs(0)):
        i = tl.load(rise_row + r)
        low = tl.load(rise_low + r)
        high = tl.load(rise_high + r)
        w = tl.load(weights + i)
        sq_norm_i = tl.load(sq_norms + i)
        begin = tl.load(list_begin + i)
        length = tl.load(list_length + i)
        for first in range(0, length, 128):
            e = first + tl.arange(0, 128)
            there = e < length
            j = tl.load(list_point + begin + e, mask=there, other=0).to(tl.int64)
            k = tl.load(list_value + begin + e, mask=there, other=-1.0)
            total = tl.where(i == j, 0.0, sq_norm_i + tl.load(sq_norms + j, mask=there, other=0.0))
            taken, died, charge, live = taken_by_rise(
                k, total, low, high, w, there, magic, bound_magic, sq_dist_rel_err, relative, absolute, tolerance, KIND
            )
            tl.atomic_add(gains + j, -taken, mask=there & (taken != 0), sem="relaxed")
            tl.atomic_add(bounds + j, -died, mask=died != 0, sem="relaxed")
            state = tl.load(flag + j, mask=there, other=OPEN)
            known = (state == SETTLED) | (state == KNOWN)
            tl.atomic_add(touched + j, charge, mask=known & (charge != 0), sem="relaxed")
            tl.store(flag + j, tl.full([128], KNOWN, tl.int8), mask=live & (state == SETTLED))


@kernel
def column(
    values, features_at, stride: tl.int64, dimension: tl.int64, norms_at, reals, model, sq_norms, weights, exact,
    rounded, new_exact, new_rounded, gain, bound, rows: tl.int64, point: tl.int64, KIND: tl.constexpr,
    DTYPE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """One candidate against a coverage, GROUP rows a program, from estimates of the kernel between it and all.

    EXACT: its float64 gain and the coverage with it; else its estimated gain and the bound of that.
    """
    group = tl.program_id(0).to(tl.int64)
    i = group * GROUP + tl.arange(0, GROUP)
    here = i < rows
    sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model)
    total = tl.load(sq_norms + i, mask=here, other=0.0) + tl.load(sq_norms + point)
    total = tl.where(i == point, 0.0, total)
    k = tl.load(values + i, mask=here, other=-1.0)
    m = tl.load(rounded + i, mask=here, other=4.0)
    w = tl.load(weights + i, mask=here, other=0.0)
    off = bound_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
    if EXACT:
        wanted = here & ((k + off > m) | (i == point))
        value = tl.zeros([GROUP], tl.float64)
        if tl.max(wanted.to(tl.int32), axis=0) > 0:
            features = address_of(features_at, DTYPE)
            norms = address_of(norms_at, tl.float64)
            value = exact_values(
                features, stride, dimension, norms, i, features, i * 0 + point, norms, wanted, tl.load(reals), KIND
            )
        before = tl.load(exact + i, mask=here, other=4.0)
        rises = wanted & (value > before)
        tl.store(new_exact + i, tl.where(rises, value, before), mask=here)
        tl.store(new_rounded + i, tl.where(rises, value.to(tl.float32), m), mask=here)
        tl.store(gain + group, tl.sum(tl.where(rises, w * (value - before), 0.0), axis=0))
    else:
        above = tl.where(here & (k > m), w * (k.to(tl.float64) - m.to(tl.float64)), 0.0)
        tl.store(gain + group, tl.sum(above, axis=0))
        tl.store(bound + group, tl.sum(tl.where(here & (k + off > m), w * off.to(tl.float64), 0.0), axis=0))


@kernel
def cover(
    values, values_stride: tl.int64, features_at, stride: tl.int64, dimension: tl.int64, norms_at, reals, model,
    sq_norms, others_at, other_sq_norms, other_norms_at, exact, rounded, begin: tl.int64,
    end: tl.int64, count: tl.int64, KIND: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Coverage of rows [begin, end) by `count` labeled points: a floor from estimates, then float64 for what may
    reach above it."""
    i = begin + tl.program_id(0).to(tl.int64) * GROUP + tl.arange(0, GROUP)
    here = i < end
    sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model)
    line = values + (i - begin)[:, None] * values_stride
    sq_norm_i = tl.load(sq_norms + i, mask=here, other=0.0)
    best = tl.load(exact + i, mask=here, other=4.0)
    floor = best
    lanes = tl.arange(0, 64).to(tl.int64)
    for first in range(0, count, 64):
        l = first + lanes
        inside = here[:, None] & (l < count)[None, :]
        total = sq_norm_i[:, None] + tl.load(other_sq_norms + l, mask=l < count, other=0.0)[None, :]
        k = tl.load(line + l[None, :], mask=inside, other=0.0)
        off = bound_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
        least = k.to(tl.float64) - off.to(tl.float64)
        sure = inside & (k != UNCERTAIN)
        floor = tl.maximum(floor, tl.max(tl.where(sure, least, 0.0), axis=1))
    features = address_of(features_at, DTYPE)
    norms = address_of(norms_at, tl.float64)
    others = address_of(others_at, DTYPE)
    other_norms = address_of(other_norms_at, tl.float64)
    bandwidth = tl.load(reals)
    for first in range(0, count, 64):
        l = first + lanes
        inside = here[:, None] & (l < count)[None, :]
        total = sq_norm_i[:, None] + tl.load(other_sq_norms + l, mask=l < count, other=0.0)[None, :]
        k = tl.load(line + l[None, :], mask=inside, other=0.0)
        off = bound_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
        reaches = inside & ((k == UNCERTAIN) | (k.to(tl.float64) + off.to(tl.float64) >= floor[:, None]))
        columns = tl.sum(reaches.to(tl.int32), axis=0)
        last = tl.min(tl.where(columns > 0, l, count), axis=0)
        while last < count:
            wanted = tl.sum((reaches & (l == last)[None, :]).to(tl.int32), axis=1) > 0
            value = exact_values(
                features, stride, dimension, norms, i, others, i * 0 + last, other_norms,
                wanted, bandwidth, KIND,
            )  # fmt: skip
            best = tl.where(wanted, tl.maximum(best, value), best)
            last = tl.min(tl.where((columns > 0) & (l > last), l, count), axis=0)
    tl.store(exact + i, best, mask=here)
    tl.store(rounded + i, best.to(tl.float32), mask=here)
