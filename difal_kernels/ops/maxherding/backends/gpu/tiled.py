"""Selection without the matrix on the GPU: what is the same for the CUDA and the Triton kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from difal_kernels._precision import full_precision
from difal_kernels._progress import Progress

from ...bounds import TOLERANCE, exact_sum_unit
from ...kernel_functions import kernel_of_scaled_square
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

    def products(self, index: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
        """Inner products of some points with all, or with rows of `operands.matrix`; float32."""
        others = self.operands.matrix if others is None else others
        out = self.make(torch.float32, len(index), len(others))
        with full_precision(gpu=True):
            self.operands.multiply(self.operands.matrix[index], others, out)
        return out

    # Guessing.

    def estimated_rows(self, index: torch.Tensor) -> torch.Tensor:
        """Kernel values of some points with all as torch estimates them, (len(index), N) float32: for guesses alone."""
        k, sq_norms = self.products(index), self.operands.sq_norms
        if self.p.kernel == "cosine":
            return k.clamp_(min=0)
        k.mul_(-2 * self.operands.product).add_(sq_norms).add_(sq_norms[index][:, None]).clamp_(min=0)
        return kernel_of_scaled_square(k, self.p.kernel)

    def coverage(self, t: int) -> torch.Tensor:
        return self.levels[t].exact

    def guesses(self) -> int:
        return len(self.levels) - 1

    def guess(self, j: int) -> None:
        index = torch.tensor([j], device=self.device)
        self.levels.append(self.raised(self.pool, j, self.products(index)[0], self.levels[-1])[0])

    def raised(self, points: PointSet, j: int, products: torch.Tensor, level: Level) -> tuple[Level, torch.Tensor]:
        """The coverage of `points` with point j of them, and its float64 gain."""
        new = Level(torch.empty_like(level.exact), torch.empty_like(level.rounded))
        gain, _ = self.column(points, j, products, level, new)
        return new, gain.sum()

    def gain(self, t: int) -> float:
        return float((self.weights * (self.levels[t + 1].exact - self.levels[t].exact)).sum())

    def estimate_taken(
        self, out: torch.Tensor, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, weights: torch.Tensor
    ) -> None:
        step = self.operands.tuning.guessed_at_once
        for b in range(0, len(rows), step):
            part = slice(b, b + step)
            taken = torch.minimum(self.estimated_rows(rows[part]), high[part, None])
            out += weights[part].float() @ taken.sub_(low[part, None]).clamp_(min=0)

    def estimate_gains(self, points: torch.Tensor, t: int) -> torch.Tensor:
        level, weights = self.levels[t].rounded, self.weights.float()
        step = self.operands.tuning.guessed_at_once
        return torch.cat(
            [self.estimated_rows(some).sub_(level).clamp_(min=0) @ weights for some in points.split(step)]
        ).double()

    # Proving.

    def room(self, guesses: int) -> int:
        return self.capacity

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
        for j, row in zip(points.tolist(), self.products(points), strict=True):
            gain, bound = self.column(self.pool, j, row, level, None)
            if float(gain.sum() + bound.sum()) < threshold():
                yield -1.0
            else:
                yield float(self.raised(self.pool, j, row, level)[1])

    def replace(self, t: int, points: Sequence[int], moved: int) -> None:
        old, base = self.levels, self.levels[t]
        winner = torch.tensor(points[:1], device=self.device)
        new, _ = self.raised(self.pool, points[0], self.products(winner)[0], base)
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
        step = self.operands.tuning.rows_at_once
        for b in range(0, len(changed), step):
            some = slice(b, b + step)
            kernel = self.kernel_columns(changed[some]).T.contiguous()  # (rows, N)
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

    def covered_anew(self, rows: torch.Tensor, old: list[Level], points: Sequence[int]) -> list[Level]:
        """The levels after old[0] with these guesses instead, of which only `rows` are covered otherwise."""
        levels, count = [], len(rows)
        index = torch.tensor(points, device=self.device)
        products = self.products(index, self.operands.matrix[rows]) if count else None
        both = torch.cat([rows, index])
        own = PointSet(
            self.operands.rows_of(self.operands.features[both]),
            self.operands.sq_norms[both],
            None if self.operands.norms is None else self.operands.norms[both],
            self.weights[both],
        )
        level = Level(old[0].exact[rows], old[0].rounded[rows])
        for g, was in enumerate(old[1:]):
            if count:
                level, _ = self.raised(own, count + g, products[g], level)
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

    # Each backend's own.

    def column(
        self, points: PointSet, j: int, products: torch.Tensor, level: Level, new: Level | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Partial sums of the gain of point j of `points` from as many of them as `level` has: in float64, and the
        coverage with it to `new`; or, without that, estimated, and of the estimate's bound."""
        raise NotImplementedError

    def make_tiles(self, events: Events) -> None:
        """Make all tiles of the half matrix: add to `taken` and `alive`, and to `counts` where that is not None."""
        raise NotImplementedError

    def kernel_columns(self, points: torch.Tensor) -> torch.Tensor:
        """Estimates of k between all and `points`, (N, len(points)) float32; none is uncertain."""
        raise NotImplementedError

    def take(self, kernel: torch.Tensor, events: Events, taken: torch.Tensor, alive: torch.Tensor) -> None:
        """Add what rows take from all candidates, given their rows of `kernel`, (rows, N)."""
        raise NotImplementedError

    def fill_lists(self, floor: torch.Tensor, allowed: torch.Tensor, lists: Lists) -> None:
        """Gather what is alive at coverage `floor`; no list beyond its room."""
        raise NotImplementedError

    def greedy_on(self, lists: Lists, level: Level, open_: torch.Tensor, budget: int) -> Any:
        """The greedy loop on lists."""
        raise NotImplementedError
