"""The greedy loop in Triton: short kernels, queued one after the other; the host asks how far they are every few turns.

Triton has no barrier across a grid, so where csrc/cuda/greedy.cu is one launch with barriers, this is a launch per
phase. What the next phase needs is in memory (`control`): a phase that has nothing to do ends at once, so the host
can queue turns without knowing how they end. One launch serves many selections, each a row b of every array.

    look    per tile of 64 columns: what settled last turn is added up; best settled gain, best bounds       ── survey
    survey  one program a selection: who contends? If nobody does, the lowest index within a tie has won
    settle  parts of the contenders' columns: float64 gains
    take    rows that the winner covers better rise, in float64, and are listed
    lower   estimates of all columns, and their bounds, are lowered for the rows on the list

Estimates are sums of multiples of one power of two (`multiple`), so that atomic additions are exact and their order
does not matter. Float64 gains are added up in a fixed order.
"""

import triton
import triton.language as tl

from difal_kernels.ops._triton import kernel

from ..gpu.arithmetic import address_of, bound_of, error_model, exact_values, multiple, reach_of

OPEN = tl.constexpr(0)
SETTLED = tl.constexpr(1)
TAKEN = tl.constexpr(2)
KNOWN = tl.constexpr(3)  # settled before a live row rose
TILE = tl.constexpr(64)  # columns that look together
GROUP = tl.constexpr(16)  # rows that float64 takes together
TIE = tl.constexpr(1e-12)  # of the first gain: closer than this is a tie
UNIT = tl.constexpr(2.0**-50)  # of the largest gain: rounding per row raised, at most

# Indices into `control` (int64), `reals` (float64) and `sizes` (int64) of one selection.
PICKS = tl.constexpr(0)
CONTESTED = tl.constexpr(1)
ROWS_UPDATED = tl.constexpr(2)
RISES = tl.constexpr(3)
COUNT = tl.constexpr(4)  # of contenders
WINNER = tl.constexpr(5)
SETTLED_NOW = tl.constexpr(6)
SETTLED_IN_ALL = tl.constexpr(7)
BANDWIDTH = tl.constexpr(0)
MAGIC = tl.constexpr(1)
LARGEST = tl.constexpr(2)
FIRST_GAIN = tl.constexpr(3)
BOUND_MAGIC = tl.constexpr(4)
BOUND_SCALE = tl.constexpr(5)
ROWS = tl.constexpr(0)
COLUMNS = tl.constexpr(1)
BUDGET = tl.constexpr(2)
FEATURES = tl.constexpr(3)
NORMS = tl.constexpr(4)
FEATURE_STRIDE = tl.constexpr(5)
DIMENSION = tl.constexpr(6)
WIDTH = tl.constexpr(8)  # of each of the three


@triton.jit
def entries_of(
    gram_stride, list_begin, list_length, list_point, j, e, rows, SPARSE: tl.constexpr, SYMMETRIC: tl.constexpr
):
    """Entries e of column j: which exist, their rows, and where their values lie (as offsets)."""
    if SPARSE:
        begin = tl.load(list_begin + j)
        there = e < tl.load(list_length + j)
        row = tl.load(list_point + begin + e, mask=there, other=0).to(tl.int64)
        return there, row, begin + e
    elif SYMMETRIC:
        return e < rows, e, j * gram_stride + e
    else:
        return e < rows, e, e * gram_stride + j


@triton.jit
def first_terms(k, m, w, total, sq_dist_rel_err, relative, absolute, tolerance, KIND: tl.constexpr):
    """What entries add to first gains, and to their bounds; 0 for one that is not there (k = -1)."""
    off = bound_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
    reach = reach_of(k, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
    gain = tl.where(k > m, w * (k.to(tl.float64) - m.to(tl.float64)), 0.0)
    return gain, tl.where(reach > m, w * off.to(tl.float64), 0.0)


@triton.jit
def live_entries(
    gram, gram_stride, list_begin, list_length, list_point, rounded, sq_norms, j, point, e, rows, sq_norm_j,
    sq_dist_rel_err, relative, absolute, tolerance, KIND: tl.constexpr, SPARSE: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """Of entries e of column j, which is `point`: their rows, the coverage of these, and which may gain."""
    there, i, at = entries_of(gram_stride, list_begin, list_length, list_point, j, e, rows, SPARSE, SYMMETRIC)
    k = tl.load(gram + at, mask=there, other=-1.0)
    m = tl.load(rounded + i, mask=there, other=4.0)
    s = tl.load(sq_norms + i, mask=there, other=0.0)
    off = bound_of(k, tl.where(i == point, 0.0, s + sq_norm_j), sq_dist_rel_err, relative, absolute, tolerance, KIND)
    return i, m, there & (k + off > m)


@triton.jit
def values_of_column(features, sizes, reals, i, point, live, KIND: tl.constexpr):
    """Float64 kernel values between the rows i and `point`, where they are live."""
    norms = address_of(tl.load(sizes + NORMS), tl.float64)
    stride = tl.load(sizes + FEATURE_STRIDE)
    dimension = tl.load(sizes + DIMENSION)
    bandwidth = tl.load(reals + BANDWIDTH)
    return exact_values(features, stride, dimension, norms, i, features, i * 0 + point, norms, live, bandwidth, KIND)


@kernel
def start(
    gram, gram_stride: tl.int64, gram_step: tl.int64, sizes, model, weights, rounded, sq_norms, points, gains, bounds,
    flag, rows_step: tl.int64, columns_step: tl.int64, KIND: tl.constexpr,
):  # fmt: skip
    """First estimates and bounds, a program per tile of columns."""
    b = tl.program_id(1).to(tl.int64)
    rows = tl.load(sizes + b * WIDTH + ROWS)
    columns = tl.load(sizes + b * WIDTH + COLUMNS)
    j = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    here = j < columns
    sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model + b * WIDTH)
    point = tl.load(points + b * columns_step + j, mask=here, other=0)
    sq_norm_j = tl.load(sq_norms + b * rows_step + point, mask=here, other=0.0)
    gain = tl.zeros([TILE], tl.float64)
    bound = tl.zeros([TILE], tl.float64)
    for first in range(0, rows, 32):
        i = first + tl.arange(0, 32).to(tl.int64)
        inside = (i < rows)[:, None] & here[None, :]
        k = tl.load(gram + b * gram_step + i[:, None] * gram_stride + j[None, :], mask=inside, other=-1.0)
        m = tl.load(rounded + b * rows_step + i, mask=i < rows, other=4.0)[:, None]
        w = tl.load(weights + b * rows_step + i, mask=i < rows, other=0.0)[:, None]
        s = tl.load(sq_norms + b * rows_step + i, mask=i < rows, other=0.0)[:, None]
        total = tl.where(i[:, None] == point[None, :], 0.0, s + sq_norm_j[None, :])
        own_gain, own_bound = first_terms(k, m, w, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
        gain += tl.sum(own_gain, axis=0)
        bound += tl.sum(own_bound, axis=0)
    tl.store(gains + b * columns_step + j, gain, mask=here)
    tl.store(bounds + b * columns_step + j, bound, mask=here)


@kernel
def start_sparse(
    list_begin, list_length, list_point, list_value, reals, model, weights, rounded, sq_norms, gains, bounds,
    KIND: tl.constexpr,
):  # fmt: skip
    """The same from lists, a program per row: entry (i, j) as row i has it, of which `lower_sparse` takes it again.

    With the numbers to round by in `reals`, sums of multiples, which are exact; with zeros, about what they will be.
    """
    i = tl.program_id(0).to(tl.int64)
    sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model)
    begin = tl.load(list_begin + i)
    length = tl.load(list_length + i)
    sq_norm_i = tl.load(sq_norms + i)
    m = tl.load(rounded + i)
    w = tl.load(weights + i)
    magic = tl.load(reals + MAGIC)
    bound_magic = tl.load(reals + BOUND_MAGIC)
    for first in range(0, length, 128):
        e = first + tl.arange(0, 128)
        there = e < length
        j = tl.load(list_point + begin + e, mask=there, other=0).to(tl.int64)
        k = tl.load(list_value + begin + e, mask=there, other=-1.0)
        total = tl.where(i == j, 0.0, sq_norm_i + tl.load(sq_norms + j, mask=there, other=0.0))
        gain, bound = first_terms(k, m, w, total, sq_dist_rel_err, relative, absolute, tolerance, KIND)
        gain = multiple(gain, magic)
        bound = multiple(bound, bound_magic)
        tl.atomic_add(gains + j, gain, mask=there & (gain != 0), sem="relaxed")
        tl.atomic_add(bounds + j, bound, mask=there & (bound != 0), sem="relaxed")


@kernel
def look(
    sizes, control, gains, bounds, settled, offset, touched, flag, partial, best, lower_bound, upper_bound, proposal,
    slot, columns_step: tl.int64, tiles_step: tl.int64, CONTENDERS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """What each tile of columns has to say; its contender of the last turn is settled first."""
    b = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0).to(tl.int64)
    columns = tl.load(sizes + b * WIDTH + COLUMNS)
    j = tile * TILE + tl.arange(0, TILE)
    at = b * columns_step + j
    here = j < columns
    report = b * tiles_step + tile
    gain = tl.load(gains + at, mask=here, other=0.0)
    bound = tl.load(bounds + at, mask=here, other=0.0)
    exact = tl.load(settled + at, mask=here, other=0.0)
    moved = tl.load(offset + at, mask=here, other=0.0)
    charge = tl.load(touched + at, mask=here, other=0.0)
    state = tl.load(flag + at, mask=here, other=TAKEN)
    index = tl.load(slot + report)
    if index >= 0:
        own = j == tl.load(proposal + report)
        parts = partial + (b * CONTENDERS + index) * PARTS + tl.arange(0, PARTS)
        exact = tl.where(own, tl.sum(tl.load(parts), axis=0), exact)
        state = tl.where(own, SETTLED, state).to(state.dtype)
        tl.store(settled + at, exact, mask=own)
        tl.store(offset + at, exact - gain, mask=own)
        tl.store(touched + at, tl.zeros([TILE], tl.float64), mask=own)
        tl.store(flag + at, state, mask=own)
        tl.store(slot + report, -1)
    none = -float("inf")
    # An estimate is off by `bound` at most; and if it was settled once, by `moved` then, and by `charge` since.
    known = state == KNOWN
    open_ = known | (state == OPEN)
    highest = tl.where(open_, gain + tl.where(known, tl.minimum(bound, moved + charge), bound), none)
    lowest = tl.where(open_, gain - tl.where(known, tl.minimum(bound, charge - moved), bound), none)
    upper = tl.max(highest, axis=0)
    tl.store(best + report, tl.max(tl.where(state == SETTLED, exact, none), axis=0))
    tl.store(lower_bound + report, tl.max(lowest, axis=0))
    tl.store(upper_bound + report, upper)
    chosen = tl.min(tl.where(open_ & (highest == upper), j, columns), axis=0)
    tl.store(proposal + report, tl.where(chosen < columns, chosen, -1))


@kernel
def survey(
    sizes, control, reals, settled, flag, best, lower_bound, upper_bound, proposal, contender, picks, pick_gains,
    columns_step: tl.int64, tiles_step: tl.int64, picks_step: tl.int64, picking: tl.int64, CONTENDERS: tl.constexpr,
):  # fmt: skip
    """Who contends; if nobody and `picking`, who has won. A program a selection.

    Whoever picks must be followed by `take` and `lower` before the next look: hence not every survey may.
    """
    b = tl.program_id(0).to(tl.int64)
    control += b * WIDTH
    reals += b * WIDTH
    columns = tl.load(sizes + b * WIDTH + COLUMNS)
    rows = tl.load(sizes + b * WIDTH + ROWS)
    tiles = (columns + TILE - 1) // TILE
    done = tl.load(control + PICKS)
    updated = tl.load(control + ROWS_UPDATED) + tl.load(control + RISES)
    tl.debug_barrier()  # each warp loads for itself: all have, before one of them stores
    tl.store(control + ROWS_UPDATED, updated)
    tl.store(control + RISES, 0)
    tl.store(control + COUNT, 0)
    tl.store(control + WINNER, -1)
    if done < tl.load(sizes + b * WIDTH + BUDGET):
        report = b * tiles_step
        lanes = tl.arange(0, 1024).to(tl.int64)
        most = tl.full([1024], -float("inf"), tl.float64)
        least = tl.full([1024], -float("inf"), tl.float64)
        for first in range(0, tiles, 1024):
            t = first + lanes
            most = tl.maximum(most, tl.load(best + report + t, mask=t < tiles, other=-float("inf")))
            least = tl.maximum(least, tl.load(lower_bound + report + t, mask=t < tiles, other=-float("inf")))
        most = tl.max(most, axis=0)
        least = tl.max(least, axis=0)
        first_gain = tl.load(reals + FIRST_GAIN)
        largest = tl.load(reals + LARGEST)
        drift = (updated + rows + 2).to(tl.float64) * (largest + tl.load(reals + BOUND_SCALE)) * UNIT
        slack = tl.where(first_gain < 0, 2.0 * largest, first_gain) * TIE + drift
        reach = tl.maximum(most, least - drift) - slack
        enough = most - tl.where(first_gain < 0, tl.maximum(most, 0.0), first_gain) * TIE
        count = tl.zeros([], tl.int64)
        holder = tiles
        for first in range(0, tiles, 1024):
            t = first + lanes
            proposed = tl.load(proposal + report + t, mask=t < tiles, other=-1)
            upper = tl.load(upper_bound + report + t, mask=t < tiles, other=-float("inf"))
            contends = (proposed >= 0) & (upper >= reach)
            index = count + tl.cumsum(contends.to(tl.int64), axis=0) - 1
            tl.store(contender + b * CONTENDERS + index, t, mask=contends & (index < CONTENDERS))
            count += tl.sum(contends.to(tl.int64), axis=0)
            holds = tl.load(best + report + t, mask=t < tiles, other=-float("inf")) >= enough
            holder = tl.minimum(holder, tl.min(tl.where(holds & (t < tiles), t, tiles), axis=0))
        tl.store(control + COUNT, tl.minimum(count, CONTENDERS))
        if (count == 0) & (picking != 0):
            j = holder * TILE + tl.arange(0, TILE)
            at = b * columns_step + j
            state = tl.load(flag + at, mask=j < columns, other=TAKEN)
            exact = tl.load(settled + at, mask=j < columns, other=0.0)
            winner = tl.min(tl.where((state == SETTLED) & (exact >= enough), j, columns), axis=0)
            gain = tl.load(settled + b * columns_step + winner)
            tl.store(control + WINNER, winner)
            tl.store(picks + b * picks_step + done, winner)
            tl.store(pick_gains + b * picks_step + done, gain)
            tl.store(control + PICKS, done + 1)
            tl.store(flag + b * columns_step + winner, tl.full([], TAKEN, tl.int8))
            tl.store(reals + FIRST_GAIN, tl.where(first_gain < 0, tl.maximum(gain, 0.0), first_gain))
            now = tl.load(control + SETTLED_NOW)
            tl.store(control + CONTESTED, tl.load(control + CONTESTED) + (now > 1).to(tl.int64))
            tl.store(control + SETTLED_IN_ALL, tl.load(control + SETTLED_IN_ALL) + now)
            tl.store(control + SETTLED_NOW, 0)


@kernel
def settle(
    gram, gram_stride: tl.int64, gram_step: tl.int64, list_begin, list_length, list_point, sizes, control, reals,
    model, weights, exact, rounded, sq_norms, points, proposal, contender, slot, partial, rows_step: tl.int64,
    columns_step: tl.int64, tiles_step: tl.int64, KIND: tl.constexpr, DTYPE: tl.constexpr, SPARSE: tl.constexpr,
    SYMMETRIC: tl.constexpr, CONTENDERS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One part of one contender's column: its float64 gain."""
    part = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    control += b * WIDTH
    if index < tl.load(control + COUNT):
        sizes += b * WIDTH
        tile = tl.load(contender + b * CONTENDERS + index)
        j = tl.load(proposal + b * tiles_step + tile)
        gram += b * gram_step
        weights += b * rows_step
        exact += b * rows_step
        rounded += b * rows_step
        sq_norms += b * rows_step
        point = tl.load(points + b * columns_step + j)
        rows = tl.load(sizes + ROWS)
        length = rows
        if SPARSE:
            length = tl.load(list_length + j).to(tl.int64)
        sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model + b * WIDTH)
        features = address_of(tl.load(sizes + FEATURES), DTYPE)
        sq_norm_j = tl.load(sq_norms + point)
        gain = tl.zeros([GROUP], tl.float64)
        for first in range(part * GROUP, length, PARTS * GROUP):
            e = first + tl.arange(0, GROUP).to(tl.int64)
            i, _m, live = live_entries(
                gram, gram_stride, list_begin, list_length, list_point, rounded, sq_norms, j, point, e, rows,
                sq_norm_j, sq_dist_rel_err, relative, absolute, tolerance, KIND, SPARSE, SYMMETRIC,
            )  # fmt: skip
            if tl.max(live.to(tl.int32), axis=0) > 0:
                value = values_of_column(features, sizes, reals + b * WIDTH, i, point, live, KIND)
                w = tl.load(weights + i, mask=live, other=0.0)
                before = tl.load(exact + i, mask=live, other=4.0)
                gain += tl.where(live & (value > before), w * (value - before), 0.0)
        tl.store(partial + (b * CONTENDERS + index) * PARTS + part, tl.sum(gain, axis=0))
        if part == 0:
            tl.store(slot + b * tiles_step + tile, index.to(tl.int32))
            tl.atomic_add(control + SETTLED_NOW, 1, sem="relaxed")


@kernel
def take(
    gram, gram_stride: tl.int64, gram_step: tl.int64, list_begin, list_length, list_point, sizes, control, reals,
    model, weights, exact, rounded, sq_norms, points, rise_row, rise_low, rise_high, rows_step: tl.int64,
    columns_step: tl.int64, KIND: tl.constexpr, DTYPE: tl.constexpr, SPARSE: tl.constexpr, SYMMETRIC: tl.constexpr,
):  # fmt: skip
    """Raises the coverage of the rows that the winner covers better, and lists them."""
    b = tl.program_id(1).to(tl.int64)
    control += b * WIDTH
    j = tl.load(control + WINNER)
    if j >= 0:
        sizes += b * WIDTH
        gram += b * gram_step
        weights += b * rows_step
        exact += b * rows_step
        rounded += b * rows_step
        sq_norms += b * rows_step
        point = tl.load(points + b * columns_step + j)
        rows = tl.load(sizes + ROWS)
        length = rows
        if SPARSE:
            length = tl.load(list_length + j).to(tl.int64)
        sq_dist_rel_err, relative, absolute, tolerance, _ = error_model(model + b * WIDTH)
        features = address_of(tl.load(sizes + FEATURES), DTYPE)
        sq_norm_j = tl.load(sq_norms + point)
        step = tl.num_programs(0).to(tl.int64) * GROUP
        for first in range(tl.program_id(0).to(tl.int64) * GROUP, length, step):
            e = first + tl.arange(0, GROUP).to(tl.int64)
            i, m, live = live_entries(
                gram, gram_stride, list_begin, list_length, list_point, rounded, sq_norms, j, point, e, rows,
                sq_norm_j, sq_dist_rel_err, relative, absolute, tolerance, KIND, SPARSE, SYMMETRIC,
            )  # fmt: skip
            if tl.max(live.to(tl.int32), axis=0) > 0:
                value = values_of_column(features, sizes, reals + b * WIDTH, i, point, live, KIND)
                rises = live & (value > tl.load(exact + i, mask=live, other=4.0))
                tl.debug_barrier()  # several warps may hold one row: all have loaded it
                tl.store(exact + i, value, mask=rises)
                tl.store(rounded + i, value.to(tl.float32), mask=rises)
                w = tl.load(weights + i, mask=live, other=0.0)
                listed = (rises & (w != 0)).to(tl.int64)
                begin = tl.atomic_add(control + RISES, tl.sum(listed, axis=0), sem="relaxed")
                index = b * rows_step + begin + tl.cumsum(listed, axis=0) - 1
                tl.store(rise_row + index, i, mask=listed > 0)
                tl.store(rise_low + index, m, mask=listed > 0)
                tl.store(rise_high + index, value.to(tl.float32), mask=listed > 0)
