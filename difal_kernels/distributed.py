"""MaxHerding over a pool whose rows are spread over many processes, with the picks of one process.

Each rank holds its rows and the gains of its candidates. Rows visit in tiles, one rank's after another's; nothing
N x N is stored. A gain is a sum over all ranks' rows, so it must not depend on how they are split: each term is
float64, cut into two integers (units of 2^-40 and 2^-80 of a common scale), and integers are summed, exactly and in
any order. When a point is picked only the rows that it covers better than before visit, and what they took from a
gain leaves it exactly: the integers of the old term minus those of the new. So there is no drift to settle.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import torch

from ._checks import as_choice, as_features, as_int, back_converter, check_finite
from ._group import Group, RankLostError, connect, default_timeout
from .ops.maxherding.bandwidth import pair_distances, sample_rows
from .ops.maxherding.directions import warn_of_zero_rows
from .ops.maxherding.kernel_functions import OF_FEATURES, SCALE_FREE, kernel_matrix
from .ops.maxherding.problem import _bandwidths, _candidates, _labeled, _weights
from .ops.maxherding.result import TIE

__all__ = ["RankLostError", "ShardedSelection", "connect", "default_timeout", "maxherding_sharded"]

ENTRIES = 1 << 21  # kernel values made at a time
TILE = 1024  # most rows of a visiting tile
UNIT = 2.0**40
SMALLEST = 1e-30  # kernel values below count as 0
MAX_ROWS = 1 << 22  # of the whole pool: more terms could overflow 63 bits


class ShardedSelection(NamedTuple):
    """The answer of `maxherding_sharded(..., return_info=True)`.

    Attributes:
        indices: (budget,) int64 into the whole pool, in pick order; the same on every rank.
        gains: (budget,) float64, the rise of C(S) at each pick; the same on every rank.
        coverage: C(S) at the end, labeled points included.
        bandwidth: the kernel's bandwidth in feature units; NaN for kernels that have none.
        world_size: ranks.
        bytes: that this rank took part in sending or receiving.
        pairs: kernel values that this rank computed.
    """

    indices: Any
    gains: Any
    coverage: float
    bandwidth: float
    world_size: int
    bytes: int
    pairs: int


def maxherding_sharded(
    features: Any,
    budget: int,
    *,
    group: Any = None,
    labeled: Any = None,
    candidates: Any = None,
    weights: Any = None,
    kernel: str = "rbf",
    bandwidth: Any = "median",
    return_info: bool = False,
) -> Any:
    """Pick `budget` points that together cover a pool spread over the ranks of a process group, greedily and exactly.

    Every rank calls it; the pool is the ranks' rows one after another, N in all. The picks are those of `maxherding`
    on the whole pool, at any number of ranks and any split of the rows.

    Args:
        features: (n, D), this rank's rows; n may be 0, and differ from rank to rank. torch.Tensor or numpy.ndarray of
            float16, bfloat16, float32 or float64, the same dtype on all ranks, on the CPU (gloo) or CUDA (nccl).
        budget: how many points to pick, from 0 to the number of candidates; the same on all ranks.
        group: a torch.distributed process group; the default one, or this process alone where there is none.
        labeled: (L, D) features of points labeled already, the same on all ranks.
        candidates: indices into the whole pool that may be picked, the same on all ranks; all by default.
        weights: (n,) numbers >= 0 for this rank's rows; 1 by default. On all ranks or none.
        kernel: as for `maxherding`, but not "precomputed".
        bandwidth: h in feature units, or "median", as for `maxherding`.
        return_info: return a `ShardedSelection` instead of the indices alone.

    Returns:
        (budget,) int64 indices into the whole pool in pick order, the same on every rank, of the library and on the
        device of `features`; or a `ShardedSelection`.

    Raises:
        TypeError, ValueError: as for `maxherding`, on the rank whose argument is wrong; ValueError on all others,
            naming that rank; ValueError where the ranks' arguments do not agree.
        RankLostError: another rank died, or did not answer within the group's timeout.

    Notes:
        Everything is float64; no float32 filter finds contenders, so `maxherding` in one process is many
        times faster where its memory holds the pool.
        Work of a rank is N n D for the first gains, and n D for each row that a pick raises.
        Memory of a rank beyond its features: a visiting tile of at most 1,024 rows, some 2 million float64 kernel
        values a few times over, 16 bytes a candidate, and the N/100 rows of the median bandwidth. At most 4,194,304
        rows in all. Candidates are tied when their gains differ by less than 1e-12 of the first gain; ties go to the
        lowest index.

    References:
        Bae, Noh, Sutherland. Generalized Coverage for More Robust Low-Budget Active Learning. ECCV 2024,
        arXiv 2407.12212.
    """
    device = features.device if isinstance(features, torch.Tensor) else torch.device("cpu")
    ranks = Group(group, device)
    with torch.no_grad():
        pool = _agreed(ranks, features, budget, labeled, candidates, weights, kernel, bandwidth)
        picks, gains, coverage = pool.select()
    back = back_converter(features)
    if not return_info:
        return back(torch.tensor(picks, dtype=torch.int64))
    return ShardedSelection(
        back(torch.tensor(picks, dtype=torch.int64)),
        back(torch.tensor(gains, dtype=torch.float64)),
        coverage,
        math.nan if pool.bandwidth is None else pool.bandwidth,
        ranks.size,
        ranks.bytes,
        pool.pairs,
    )


def _agreed(ranks, features, budget, labeled, candidates, weights, kernel, bandwidth) -> _Shard:
    """The checked problem; an error on one rank is an error on all, and nobody waits for it."""

    def everywhere(check):
        result = error = None
        try:
            result = check()
        except (TypeError, ValueError) as caught:
            error = caught
        told = ranks.texts("" if error is None else str(error))
        if error is not None:
            raise error
        for rank, text in enumerate(told):
            if text:
                raise ValueError(f"rank {rank}: {text}")
        return result

    def check_own():
        as_choice(kernel, "kernel", OF_FEATURES)
        x = as_features(features, "features")
        if x.ndim != 2:
            raise ValueError(f"`features` must be 2-D (n, D), got shape {tuple(x.shape)}")
        if x.shape[1] == 0:
            raise ValueError(f"`features` must have at least one column, got shape {tuple(x.shape)}")
        check_finite(x, "features")
        if kernel == "cosine" and len(x):
            warn_of_zero_rows(x, "features")
        labels = _labeled(labeled, x, kernel)
        (width,) = _bandwidths(bandwidth, 1, False)
        w = _weights(weights, x, len(x))
        return x, as_int(budget, "budget", low=0), labels, w, width

    x, count, labels, w, width = everywhere(check_own)
    sizes = ranks.gather([len(x)], torch.int64)[:, 0].tolist()

    def check_pool():
        total = sum(sizes)
        if not 0 < total <= MAX_ROWS:
            raise ValueError(f"`features` must be 1 to {MAX_ROWS} rows on all ranks together, got {total}")
        return _candidates(candidates, total, count)

    allowed = everywhere(check_pool)
    shared = {
        "features' columns": x.shape[1],
        "features' dtype": x.dtype,
        "budget": count,
        "kernel": kernel,
        "bandwidth": width,
        "labeled": _digest(labels),
        "candidates": _digest(allowed),
        "weights": "given" if weights is not None else "none",
    }
    told = [text.split("\n") for text in ranks.texts("\n".join(map(str, shared.values())))]
    for rank, values in enumerate(told):
        for name, zero, own in zip(shared, told[0], values, strict=True):
            if own != zero:
                raise ValueError(f"`{name}` must be the same on all ranks, got {zero} on rank 0 and {own} on {rank}")
    return _Shard(ranks, x.contiguous(), count, labels, allowed, w, kernel, width, sizes)


def _digest(values: torch.Tensor | None) -> str:
    if values is None:
        return "none"
    data = values.contiguous().cpu().view(torch.uint8).numpy().tobytes()
    return f"{tuple(values.shape)} {values.dtype} {hashlib.sha256(data).hexdigest()[:12]}"


def _integers(terms: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the columns of `terms` in units of 2^-40 and, for the rest, 2^-80 of the scale; exact in any order."""
    terms = terms * scale * UNIT
    high = terms.floor()
    low = ((terms - high) * UNIT).floor_()
    return high.long().sum(0), low.long().sum(0)


class _Shard:
    """This rank's rows `[begin, begin + n)` of the pool, their coverage, and its candidates' gains as integers."""

    def __init__(self, ranks, features, budget, labeled, candidates, weights, kernel, bandwidth, sizes):
        self.ranks, self.x, self.budget, self.kernel, self.sizes = ranks, features, budget, kernel, sizes
        self.device, self.pairs = features.device, 0
        self.starts = [sum(sizes[:rank]) for rank in range(ranks.size)]
        self.begin, self.total = self.starts[ranks.rank], sum(sizes)
        n = len(features)
        mine = torch.arange(n)
        if candidates is not None:
            mine = candidates[(candidates >= self.begin) & (candidates < self.begin + n)] - self.begin
        self.mine = mine.to(self.device)
        self.columns = features if candidates is None else features[self.mine]
        most = ranks.gather([len(mine)], torch.int64).max()
        self.tile = int(max(16, min(TILE, ENTRIES // max(1, int(most)))))
        heaviest = float(ranks.gather([float(weights.max()) if n else 0.0], torch.float64).max())
        self.exponent = math.frexp(heaviest)[1] if heaviest else 0
        self.w = torch.ldexp(weights, torch.tensor(-self.exponent, device=self.device))  # at most 1, exactly scaled
        self.bandwidth = self._bandwidth(bandwidth)
        self.m = torch.zeros(n, dtype=torch.float64, device=self.device)
        self.scale = 1.0
        self.seen = False  # a term above zero, however small
        self.high = self.low = torch.empty(0, dtype=torch.int64, device=self.device)
        if labeled is not None and n:
            for rows in labeled.split(self.tile):
                self.m = torch.maximum(self.m, self._kernel(features, rows).amax(1))

    def _bandwidth(self, given: float | None) -> float | None:
        """`given`, or the median rule on the same rows as in one process, computed once and sent to all."""
        if self.kernel in SCALE_FREE or given is not None:
            return None if self.kernel in SCALE_FREE else given
        wanted = sample_rows(self.total, min(self.total, max(10, self.total // 100)))
        parts = []
        for rank, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            local = wanted[(wanted >= start) & (wanted < start + size)] - start
            parts.append(self._send(self.x, local.to(self.device), rank, len(local)))
        width = torch.ones(1, dtype=torch.float64, device=self.device)
        if self.ranks.rank == 0:
            distances = pair_distances(torch.cat(parts).double())
            distances = distances[distances > 0]
            if len(distances):  # the mean of the two middle ones where they are even in number, as numpy has it
                ordered = distances.sort().values
                middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
                width[0] = 2 * middle.mean()
        return float(self.ranks.broadcast(width, 0))

    def _send(self, values: torch.Tensor, index: torch.Tensor, source: int, count: int) -> torch.Tensor:
        """values[index] of rank `source`, on all ranks."""
        if source == self.ranks.rank:
            return self.ranks.broadcast(values[index].contiguous(), source)
        empty = torch.empty(count, *values.shape[1:], dtype=values.dtype, device=self.device)
        return self.ranks.broadcast(empty, source)

    def _kernel(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.pairs += len(x) * len(y)
        k = kernel_matrix(x, y, self.kernel, self.bandwidth)
        return k.where(k >= SMALLEST, 0.0)

    def _visit(self, rows: torch.Tensor, before: torch.Tensor, after: torch.Tensor | None) -> None:
        """Take every rank's `rows` round: add what they give at coverage `before`, less what they give at `after`.

        With `after` the rows were raised by a pick, and the difference is subtracted from the gains.
        """
        counts = self.ranks.gather([len(rows)], torch.int64)[:, 0].tolist()
        levels = [self.w, before] if after is None else [self.w, before, after]
        table = torch.stack(levels, 1)
        for source, count in enumerate(counts):
            for b in range(0, count, self.tile):
                size = min(self.tile, count - b)
                index = rows[b : b + size] if source == self.ranks.rank else rows[:0]
                visitors = self._send(self.x, index, source, size)
                numbers = self._send(table, index, source, size)
                if not len(self.columns):
                    continue
                w = numbers[:, 0]
                k = self._kernel(visitors, self.columns)
                terms = w[:, None] * (k - numbers[:, 1, None]).clamp_(min=0)
                high, low = _integers(terms, self.scale)
                if after is None:
                    self.seen = self.seen or bool((terms > 0).any())
                    self.high += high
                    self.low += low
                    continue
                kept_high, kept_low = _integers(w[:, None] * (k - numbers[:, 2, None]).clamp_(min=0), self.scale)
                self.high -= high - kept_high
                self.low -= low - kept_low

    def _gains(self) -> torch.Tensor:
        return (self.high.double() + self.low.double() / UNIT) / UNIT

    def _first_gains(self) -> None:
        """All gains; with a finer scale again where the largest is so small that units of 2^-80 are coarse."""
        self.scale, self.seen = 1.0, False
        everyone = torch.arange(len(self.x), device=self.device)
        while True:
            self.high = torch.zeros(len(self.columns), dtype=torch.int64, device=self.device)
            self.low = torch.zeros_like(self.high)
            self._visit(everyone, self.m, None)
            own = float(self._gains().max()) if len(self.columns) else 0.0
            largest = float(self.ranks.gather([own], torch.float64).max())
            seen = bool(self.ranks.gather([float(self.seen)], torch.float64).any())
            if largest >= 0.25 or not seen:
                return
            # What is cut off is below 2^-80 a term, so below 2^-58 in all: with at most 2^58 more, sums still fit.
            self.scale *= 2.0 ** (min(58, -math.frexp(largest)[1]) if largest else 58)

    def _coverage(self) -> float:
        high, low = _integers((self.w * self.m)[:, None], 1.0)
        parts = self.ranks.gather([int(high), int(low)], torch.int64).sum(0).tolist()
        return math.ldexp((parts[0] + parts[1] / UNIT) / UNIT, self.exponent) / self.total

    def select(self) -> tuple[list[int], list[float], float]:
        picks: list[int] = []
        gains: list[float] = []
        if not self.budget:
            return picks, gains, self._coverage()
        self._first_gains()
        open_ = torch.ones(len(self.columns), dtype=torch.bool, device=self.device)
        unit = math.ldexp(1 / self.scale, self.exponent) / self.total
        first = 0.0
        while len(picks) < self.budget:
            gain = self._gains().where(open_, -torch.inf)
            own = float(gain.max()) if len(gain) else -math.inf
            best = float(self.ranks.gather([own], torch.float64).max())
            first = first if picks else best
            near = (gain >= best - TIE * first).nonzero()[:, 0]
            position = int(near[0]) if len(near) else -1
            j = self.begin + int(self.mine[position]) if len(near) else self.total
            value = float(gain[position]) if len(near) else 0.0
            found = self.ranks.gather([j, value], torch.float64)  # indices below 2^53: exact
            owner = int(found[:, 0].argmin())
            picks.append(int(found[owner, 0]))
            gains.append(float(found[owner, 1]) * unit)
            if owner == self.ranks.rank:
                open_[position] = False
            self._raise(picks[-1] - self.starts[owner], owner)
        return picks, gains, self._coverage()

    def _raise(self, row: int, owner: int) -> None:
        """Cover by the row `row` of rank `owner`."""
        index = torch.tensor([row], device=self.device) if owner == self.ranks.rank else self.mine[:0]
        point = self._send(self.x, index, owner, 1)
        risen = torch.maximum(self.m, self._kernel(self.x, point)[:, 0]) if len(self.x) else self.m
        before, self.m = self.m, risen
        self._visit((risen > before).nonzero()[:, 0], before, risen)
