"""Selection without the matrix on the GPU: what is the same for the CUDA and the Triton kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from difal_kernels._progress import Progress

from ...bounds import TOLERANCE, exact_sum_unit
from ...primitives import Guessing
from ...problem import Problem
from .covered import GpuCoverage
from .operands import GpuOperands

BYTES_PER_ENTRY = 8


@dataclass
class Level:
    """Coverage after some guesses."""

    exact: torch.Tensor  # (N,) float64
    rounded: torch.Tensor  # (N,) float32


@dataclass
class PointSet:
    """The pool, or some of its points, as float64 reads them."""

    features: torch.Tensor
    sq_norms: torch.Tensor
    norms: torch.Tensor | None
    weights: torch.Tensor


@dataclass
class Events:
    """The steps that raise each row, and what is left to take after the last: row i has [begin[i], begin[i + 1])."""

    begin: torch.Tensor  # (rows + 1,) int64
    step: torch.Tensor  # int32
    low: torch.Tensor  # float32
    high: torch.Tensor
    weights: torch.Tensor  # (rows,) float64

    @classmethod
    def of(cls, levels: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor | None = None) -> Events:
        """Of rows with rounded coverage `levels`, (rows, steps) float32; of these steps only where `chosen`."""
        high = torch.cat([levels[:, 1:], torch.full_like(levels[:, :1], torch.inf)], dim=1)
        rises = (high > levels) & (weights > 0)[:, None]
        rises = rises if chosen is None else rises & chosen
        begin = torch.zeros(len(levels) + 1, dtype=torch.int64, device=levels.device)
        begin[1:] = rises.sum(1).cumsum(0)
        return cls(begin, rises.nonzero()[:, 1].to(torch.int32), levels[rises], high[rises], weights)


@dataclass
class Lists:
    """The alive entries of each point: those of point i are [begin[i], begin[i] + length[i])."""

    begin: torch.Tensor  # (N + 1,) int64; a list has room up to where the next begins
    length: torch.Tensor  # (N,) int32; may exceed the room, and then tells what there was
    point: torch.Tensor  # int32
    value: torch.Tensor  # float32

    def addresses(self) -> dict[str, int]:
        return {f"list_{name}": getattr(self, name).data_ptr() for name in ("begin", "length", "point", "value")}


@dataclass
class Tile:
    """Kernel values of rows [b, e) and columns [b2, e2), on and left of the diagonal; `place` is b, e, b2, e2."""

    values: torch.Tensor
    place: tuple[int, int, int, int]

    @property
    def on_diagonal(self) -> bool:
        return self.place[0] == self.place[2]


class GpuTiledGreedy(GpuCoverage):
    """See `primitives.TiledGreedy`; a backend's own kernels are in the methods that end this class."""

    rows_rounding = 0.0
    gathers_some = False
    entry_error: torch.Tensor

    def __init__(self, p: Problem, operands: GpuOperands, guessing: Guessing, spare: int, horizon: int):
        self.p, self.operands, self.horizon = p, operands, horizon
        self.n, self.device = len(p.features), p.features.device
        self.report: Callable[[float], None] = lambda share: None  # no kernel says how far it is
        self.weights = p.weights.contiguous()
        self.pool = PointSet(operands.features, operands.sq_norms, operands.norms, self.weights)
        self.total = float(self.weights.sum())
        self.levels = [Level(self.make(torch.float64).zero_(), self.make(torch.float32).zero_())]
        self.exact, self.rounded = self.levels[0].exact, self.levels[0].rounded
        self.allowed = torch.zeros(self.n, dtype=torch.bool, device=self.device)
        self.allowed[slice(None) if p.candidates is None else p.candidates.to(self.device)] = True
        self.max_guesses = guessing.max_guesses
        self.capacity = max(0, min(spare // BYTES_PER_ENTRY, operands.tuning.max_entries))
        self.first, self.terms = 0, 0
        self.counts: torch.Tensor | None = None  # alive entries of each point, from the last sweep
        self.greedy: Any = None

    def make(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.empty(shape or (self.n,), dtype=dtype, device=self.device)

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def values(self, points: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
        """Estimates of k between some points and all, or some others, float32; none is uncertain."""
        columns = self.operands.every if columns is None else columns
        return self.operands.fill(self.make(torch.float32, len(points), len(columns)), points, columns)

    # Guessing.

    def coverage(self, t: int) -> torch.Tensor:
        return self.levels[t].exact

    def guesses(self) -> int:
        return len(self.levels) - 1

    def guess(self, j: int) -> None:
        index = torch.tensor([j], device=self.device)
        self.levels.append(self.raised(self.pool, j, self.values(index)[0], self.levels[-1])[0])

    def raised(self, points: PointSet, j: int, values: torch.Tensor, level: Level) -> tuple[Level, torch.Tensor]:
        """The coverage of `points` with point j of them, and its float64 gain."""
        new = Level(torch.empty_like(level.exact), torch.empty_like(level.rounded))
        gain, _ = self.column(points, j, values, level, new)
        return new, gain.sum()

    def gain(self, t: int) -> float:
        return float((self.weights * (self.levels[t + 1].exact - self.levels[t].exact)).sum())

    def estimate_taken(
        self, out: torch.Tensor, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, weights: torch.Tensor
    ) -> None:
        step = self.operands.tuning.guessed_at_once
        for b in range(0, len(rows), step):
            part = slice(b, b + step)
            taken = torch.minimum(self.values(rows[part]), high[part, None])
            out += weights[part].float() @ taken.sub_(low[part, None]).clamp_(min=0)

    def estimate_gains(self, points: torch.Tensor, t: int) -> torch.Tensor:
        level, weights = self.levels[t].rounded, self.weights.float()
        step = self.operands.tuning.guessed_at_once
        return torch.cat(
            [self.values(some).sub_(level).clamp_(min=0) @ weights for some in points.split(step)]
        ).double()

    # Proving.

    def room(self, guesses: int) -> int:
        return self.capacity

    def share_needed(self, first: int, gather: bool, wanted: torch.Tensor | None = None) -> float:
        return 1.0

    def share_expected(self, points: torch.Tensor, coverage: torch.Tensor) -> float:
        return 1.0

    def forget(self) -> None:
        """Sums and coverage are kept until the next sweep, or `start`."""

    def sweep(self, first: int, gather: bool, wanted: torch.Tensor | None = None) -> None:
        self.first, steps = first, len(self.levels) - first
        # Sums are of multiples of a power of two, so that they are exact in any order.
        self.unit, self.magic = exact_sum_unit(self.total)
        self.taken = torch.zeros(steps, self.n, dtype=torch.float64, device=self.device)
        self.alive = torch.zeros(steps, self.n, dtype=torch.float64, device=self.device)
        events = Events.of(self.rounded_levels(first), self.weights)
        self.terms = len(events.step)
        self.counts = torch.zeros(self.n, dtype=torch.int32, device=self.device) if gather else None
        self.make_tiles(events)

    def rounded_levels(self, first: int, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Coverage of all or some rows at the steps from `first` on, (rows, steps) float32."""
        levels = [level.rounded if rows is None else level.rounded[rows] for level in self.levels[first:]]
        return torch.stack(levels, dim=1)

    def gains(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        step = t - self.first
        return self.taken[step:].sum(0), self.alive[step:].sum(0)

    def drift(self, largest_gain: float) -> float:
        return self.unit * self.terms

    def settle(self, points: torch.Tensor, t: int, threshold: Callable[[], float]) -> Iterator[float]:
        level = self.levels[t]
        for j, row in zip(points.tolist(), self.values(points), strict=True):
            gain, bound = self.column(self.pool, j, row, level, None)
            if float(gain.sum() + bound.sum()) < threshold():
                yield -1.0
            else:
                yield float(self.raised(self.pool, j, row, level)[1])

    def replace(self, t: int, points: Sequence[int], moved: int) -> int:
        old, base = self.levels, self.levels[t]
        winner = torch.tensor(points[:1], device=self.device)
        new, _ = self.raised(self.pool, points[0], self.values(winner)[0], base)
        changed = ((new.exact > base.exact) | (old[t + moved].exact > base.exact)).nonzero()[:, 0]
        before = self.rounded_levels(t, changed)
        self.levels = [*old[: t + 1], *self.covered_anew(changed, old[t:], points)]
        after = self.rounded_levels(t, changed)
        differs = (before != after).any(1)
        changed, before, after = changed[differs], before[differs], after[differs]
        weights = self.weights[changed]
        # Of a row only the steps at which it rises otherwise than before are undone and done.
        ends = torch.cat([before != after, torch.zeros_like(before[:, :1], dtype=torch.bool)], dim=1)
        differs = ends[:, :-1] | ends[:, 1:]
        step = self.operands.tuning.corrected_at_once(self.n)
        for b in range(0, len(changed), step):
            some = slice(b, b + step)
            kernel = self.values(changed[some])
            done = Events.of(after[some], weights[some], differs[some])
            undone = Events.of(before[some], weights[some], differs[some])
            undone_sums = torch.zeros_like(self.taken[t - self.first :])
            # Of both the error counts: entries of `kernel` need not be those of the sweep to the last bit.
            self.take(kernel, done, self.taken[t - self.first :], self.alive[t - self.first :])
            self.take(kernel, undone, undone_sums, self.alive[t - self.first :])
            self.taken[t - self.first :] -= undone_sums
            self.terms += len(done.step) + len(undone.step)
            if self.counts is not None:
                self.count_again(kernel, changed[some], before[some][:, -1], after[some][:, -1])
        return len(changed)

    def drop(self, t: int) -> None:
        self.levels, self.counts = self.levels[: t + 1], None

    def covered_anew(self, rows: torch.Tensor, old: list[Level], points: Sequence[int]) -> list[Level]:
        """The levels after old[0] with these guesses instead, of which only `rows` are covered otherwise."""
        levels, count = [], len(rows)
        index = torch.tensor(points, device=self.device)
        values = self.values(index, rows) if count else None
        both = torch.cat([rows, index])
        own = PointSet(
            self.operands.aligned_rows(self.operands.features[both]),
            self.operands.sq_norms[both],
            None if self.operands.norms is None else self.operands.norms[both],
            self.weights[both],
        )
        level = Level(old[0].exact[rows], old[0].rounded[rows])
        for g, was in enumerate(old[1:]):
            if count:
                level, _ = self.raised(own, count + g, values[g], level)
            new = Level(was.exact.clone(), was.rounded.clone())
            new.exact[rows], new.rounded[rows] = level.exact, level.rounded
            levels.append(new)
        return levels

    def count_again(self, kernel: torch.Tensor, rows: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        """Correct `counts` for rows whose last coverage has changed; never too low but for last bits of `kernel`."""
        error, m = self.operands.error, self.levels[-1].rounded
        reach = kernel * (1 + 2 * TOLERANCE + error.relative) + error.absolute
        open_ = self.allowed[rows][:, None] | self.allowed[None, :]
        now = (reach > torch.minimum(after[:, None], m[None])) & open_
        then = (reach > torch.minimum(before[:, None], m[None])) & open_
        self.counts += (now & ~then).sum(0, dtype=torch.int32)
        self.counts[rows] = now.sum(1, dtype=torch.int32)

    def gather(self) -> bool:
        counts, room = self.counts.to(torch.int64), self.operands.tuning.list_room
        if int(counts.sum()) > self.capacity:
            return False
        floor, allowed = self.levels[-1].rounded, self.allowed.to(torch.uint8)
        while True:
            begin = torch.zeros(self.n + 1, dtype=torch.int64, device=self.device)
            begin[1:] = (counts + room).cumsum(0)
            entries = int(begin[-1])
            length = torch.zeros(self.n, dtype=torch.int32, device=self.device)
            self.lists = Lists(begin, length, self.make(torch.int32, entries), self.make(torch.float32, entries))
            self.fill_lists(floor, allowed, self.lists)
            if bool((length <= begin[1:] - begin[:-1]).all()):
                return True
            counts = length.to(torch.int64)  # more than was counted: now it is known

    # Greedy on what was gathered.

    def start(self, first_gain: float, picked: Sequence[int]) -> None:
        level, open_ = self.levels[-1], self.allowed.clone()
        open_[list(picked)] = False
        self.levels, self.taken, self.alive, self.counts = [], self.taken[:0], self.alive[:0], None
        self.greedy = self.greedy_on(self.lists, level, open_, self.horizon - len(picked))
        self.greedy.start(first_gain)

    def entries(self) -> int:
        return len(self.lists.value)

    def resume(self, picks: int) -> None:
        raise NotImplementedError("all that is alive was gathered")

    def select(self, count: int, bar: Progress, least: float) -> tuple[torch.Tensor, torch.Tensor]:
        (made,) = self.greedy.select(bar)
        return made

    def covered(self) -> float:
        return self.greedy.covered(0)

    def contested(self) -> int:
        return self.greedy.contested(0)

    # Tiles, which are kernel values when a backend's own kernels read them.

    def tiles(self) -> Iterator[Tile]:
        """Make each tile of the half matrix in turn, in the place of the last one; those on the diagonal are whole."""
        n, operands = self.n, self.operands
        step = min(operands.tuning.tile_points, n)
        space = self.make(torch.float32, step * step)
        for b in range(0, n, step):
            e = min(b + step, n)
            for b2 in range(0, b + 1, step):
                e2 = min(b2 + step, n)
                values = space[: (e - b) * (e2 - b2)].view(e - b, e2 - b2)
                operands.fill(values, operands.every[b:e], operands.every[b2:e2], mirrored=b == b2)
                yield Tile(values, (b, e, b2, e2))

    def make_tiles(self, events: Events) -> None:
        """Add to `taken` and `alive`, and to `counts` where that is not None."""
        floor, allowed = self.levels[-1].rounded, self.allowed.to(torch.uint8)
        for tile in self.tiles():
            self.take_tile(tile, events)
            if self.counts is not None:
                self.gather_tile(tile, floor, allowed, self.counts, None)

    def fill_lists(self, floor: torch.Tensor, allowed: torch.Tensor, lists: Lists) -> None:
        """Gather what is alive at coverage `floor`; no list beyond its room."""
        for tile in self.tiles():
            self.gather_tile(tile, floor, allowed, lists.length, lists)

    # Each backend's own.

    def column(
        self, points: PointSet, j: int, values: torch.Tensor, level: Level, new: Level | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Partial sums of the gain of point j of `points` from as many of them as `level` has, whose estimated `values`
        are given: in float64, and the coverage with it to `new`; or, without that, estimated, and of the bound."""
        raise NotImplementedError

    def take_tile(self, tile: Tile, events: Events) -> None:
        """Add to `taken` and `alive` what rows take from columns, and, off the diagonal, columns from rows."""
        raise NotImplementedError

    def gather_tile(
        self, tile: Tile, floor: torch.Tensor, allowed: torch.Tensor, length: torch.Tensor, lists: Lists | None
    ) -> None:
        """Add to `length` the alive entries of each point in a tile, and put them at the ends of `lists`."""
        raise NotImplementedError

    def take(self, kernel: torch.Tensor, events: Events, taken: torch.Tensor, alive: torch.Tensor) -> None:
        """Add what rows take from all candidates, given their rows of `kernel`, (rows, N)."""
        raise NotImplementedError

    def greedy_on(self, lists: Lists, level: Level, open_: torch.Tensor, budget: int) -> Any:
        """The greedy loop on lists."""
        raise NotImplementedError
