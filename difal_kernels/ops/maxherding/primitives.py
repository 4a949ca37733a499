"""What the algorithms ask of a backend: memory and grouping for `plan`, a stored matrix for `dense`, tiles for
`matrix_free`. Each backend's folder under `backends` holds these and nothing else; `plan.PlannedBackend` adds the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ..._progress import Progress
from .problem import Batch, Problem
from .result import Result


@dataclass(frozen=True, kw_only=True)
class Guessing:
    """How the matrix-free algorithm guesses picks. No value changes a pick; each is sound.

    Attributes:
        max_guesses: guesses before a sweep that there is always room for.
        first_guesses: guesses before the first sweep, which gives all gains to start the others from.
        sample_rows: rows, of those that a guess raises, that the next guess looks at.
        tried: candidates whose gain is estimated over the whole pool at each guess.
        first_rows: in place of `sample_rows` before the first sweep: the first guesses are dear to correct.
        first_tried: divided by t, at guess t before the first sweep, where that is more than `tried`.
        next_tried: divided by t^2, after it, where that is more; both at most `first_rows`.
        close: candidates whose gain is computed in float64 at each guess, where products are too coarse to tell.
        most_tried: and at most so many, where the sample does not tell which are the best.
        largest_error: of the estimates, relative to the best gain, beyond which no more is guessed before a sweep.
        points_a_row: of so many points one row at least is looked at, and half a candidate tried; eight rows before
            the first sweep.
        growth: guesses before a sweep for each pick made: the more steps since a sweep, the worse the estimates.
        most_corrected: kernel values made for corrections, as a share of a sweep's, after which the other guesses go.
        least_gathered: picks that are worth gathering for some candidates alone.
        settled_together: rivals of a guess whose kernel columns are made together.
        watched_points: points whose kernel tells how much is alive.
        slack: how much more may be alive than they say.
        shares_gathered: of the candidates, tried in this order where there is no room for what all of them may use.
    """

    max_guesses: int = 64
    first_guesses: int = 2
    sample_rows: int = 1024
    tried: int = 64
    first_rows: int = 2048
    first_tried: int = 8192
    next_tried: int = 8192
    close: int = 16
    most_tried: int = 1024
    largest_error: float = 0.25
    points_a_row: float = math.inf
    growth: float = math.inf
    most_corrected: float = math.inf
    least_gathered: int = 64
    settled_together: int = 64
    watched_points: int = 2048
    slack: float = 1.2
    shares_gathered: tuple[float, ...] = (0.7, 0.5, 0.35, 0.25, 0.15, 0.1)

    def among(self, points: int) -> Guessing:
        """The rules for so many points: a sweep's cost grows by their square, a guess's by each row it looks at."""
        rows = int(points / self.points_a_row)
        return replace(
            self,
            sample_rows=max(self.sample_rows, rows),
            first_rows=max(self.first_rows, 8 * rows),
            tried=max(self.tried, rows // 2),
            most_tried=max(self.most_tried, rows // 2),
        )


class Covers(Protocol):
    """Where labeled rows raise the coverage m of the pool."""

    @property
    def labels_at_once(self) -> int: ...

    def cover(self, rows: torch.Tensor) -> None:
        """Raise m to what these labeled rows give, at most `labels_at_once` of them."""

    def cover_with(self, coverage: torch.Tensor) -> None:
        """Raise m to `coverage`, (N,) float64; before any other."""


class KernelMatrix(Covers, Protocol):
    """The stored kernel matrix of one problem, N x M, while it is made."""

    def fill(self) -> None:
        """Make it from the features: products of all pairs, then kernel values."""

    def copy(self) -> None:
        """Make it from the kernel that the user gave."""


class DenseGreedy(Protocol):
    """Greedy selection on the stored matrices of some problems."""

    def matrix(self, b: int) -> AbstractContextManager[KernelMatrix]:
        """Make the matrix of problem b within this context; the problems come in order."""

    def start(self) -> None:
        """Compute the first gains."""

    def select(self, counts: Sequence[int], bar: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Make the next picks of each problem: columns of its matrix, and gains not divided by N."""

    def covered(self, b: int) -> float:
        """sum_i w_i m_i of problem b."""

    def contested(self, b: int) -> int:
        """Picks at which more than one candidate was compared in float64."""


class TiledGreedy(Covers, Protocol):
    """Greedy selection of one problem without its matrix; `matrix_free` says in which order these are called.

    Attributes:
        capacity: alive entries that there is room for, without a guess to prove.
        gathers_some: whether `sweep` can gather for some candidates alone.
        max_guesses: guesses in one sweep that there is room for.
        entry_error: (N,) float64, the most that any estimated entry of a column can be wrong by.
        rows_rounding: how far rows are moved before they are multiplied, relative to their norms.
        report: called in `sweep` with the share that is done, where that takes long.
    """

    capacity: int
    gathers_some: bool
    max_guesses: int
    entry_error: torch.Tensor
    rows_rounding: float
    report: Callable[[float], None]

    def working(self) -> AbstractContextManager[None]:
        """Threads that the other methods need; may be nested."""

    def drift(self, largest_gain: float) -> float:
        """The most that rounding of sums moves one of `gains`, of which `largest_gain` is the largest."""

    def coverage(self, t: int) -> torch.Tensor:
        """m after t guesses, (N,) float64."""

    def guess(self, j: int) -> None:
        """Add the point j as the next guess."""

    def guesses(self) -> int:
        """Guesses so far, proven ones included."""

    def gain(self, t: int) -> float:
        """What the guess at step t gains, in float64."""

    def estimate_taken(
        self, out: torch.Tensor, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, weights: torch.Tensor
    ) -> None:
        """Add to out[j] what `rows`, whose coverage rises from low to high, take from candidate j; an estimate."""

    def estimate_gains(self, points: torch.Tensor, t: int) -> torch.Tensor:
        """Gains of `points` at step t over the whole pool, estimated."""

    def room(self, guesses: int) -> int:
        """Alive entries that there is room for, in a sweep that proves so many guesses."""

    def sweep(self, first: int, gather: bool, wanted: torch.Tensor | None = None) -> None:
        """Make all tiles once: gains at all steps from `first` on; with `gather`, what is alive after the last.

        With `wanted`, (N,) flags, only what these candidates may use is gathered: no other one will be picked until
        `resume`.
        """

    def share_needed(self, first: int, gather: bool, wanted: torch.Tensor | None = None) -> float:
        """How much of the half matrix such a `sweep` goes over."""

    def share_expected(self, points: torch.Tensor, coverage: torch.Tensor) -> float:
        """The same of a sweep that begins where these points are covered so far, float32; an estimate."""

    def forget(self) -> None:
        """Let go of the sums of the last sweep, and of coverage before the last guess."""

    def gains(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All gains at step t, and for each the weight of the rows it can still raise; (N,) float64."""

    def settle(self, points: torch.Tensor, t: int, threshold: Callable[[], float]) -> Iterator[float]:
        """Gains of `points` at step t in float64, one by one; -1 where a bound says that it is below threshold()."""

    def replace(self, t: int, points: Sequence[int], moved: int) -> int:
        """Put these guesses in the place of those from step t on, as many, and correct the sums of the last sweep.

        points[0] is new; the `moved` - 1 that follow were one step earlier; the rest is as it was. Returns how many
        rows of the kernel that took.
        """

    def drop(self, t: int) -> None:
        """Let go of the guesses after the first t, and of what the last sweep gathered, after all of them."""

    def gather(self) -> bool:
        """Whether all that is alive after the last guess was gathered; corrections may have added to it."""

    def start(self, first_gain: float, picked: Sequence[int]) -> None:
        """Go on with what was gathered; `picked` are the picks so far. first_gain < 0: there were none."""

    def select(self, count: int, bar: Progress, least: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the next picks: points, and gains not divided by N; fewer if one would gain no more than `least`."""

    def entries(self) -> int:
        """Alive entries at the start."""

    def resume(self, picks: int) -> None:
        """Go back to sweeps after so many picks in all; what was gathered is let go."""

    def covered(self) -> float:
        """sum_i w_i m_i."""

    def contested(self) -> int:
        """Picks of `select` at which more than one candidate was compared in float64."""


@dataclass(frozen=True)
class DenseMemory:
    """Bytes of one problem on the dense path: until its last pick, and while its matrix is made."""

    kept: int
    passing: int

    @property
    def total(self) -> int:
        return self.kept + self.passing


class Device(Protocol):
    """What differs between backends before any kernel runs.

    Attributes:
        guessing: see `Guessing`.
        path: "dense" or "matrix-free" to have no other; None to take the fastest that fits.
        memory_name: what the default memory limit is a share of, for messages.
        max_problems: problems of one group at most.
        stacked: whether each problem of a group takes as much memory as the largest of them.
    """

    @property
    def guessing(self) -> Guessing: ...

    @property
    def path(self) -> str | None: ...

    @property
    def memory_name(self) -> str: ...

    @property
    def max_problems(self) -> int: ...

    @property
    def stacked(self) -> bool: ...

    def unavailable(self) -> str | None:
        """Why no kernel can run on this machine, or None."""

    def supports(self, batch: Batch) -> str | None:
        """Why this batch cannot be solved here, or None."""

    def default_memory_limit(self, device: torch.device) -> int:
        """Bytes, where the user names none."""

    def active(self, device: torch.device) -> AbstractContextManager[None]:
        """Make `device` the current one."""

    def dense_memory(self, p: Problem, alone: bool = True) -> DenseMemory:
        """Of a problem by itself, or of one of a group."""

    def tiled_memory(self, p: Problem) -> int:
        """The least bytes that the matrix-free algorithm can work with."""

    def entry_bits(self, p: Problem) -> int:
        """Of the stored matrix."""

    def alike(self, p: Problem, q: Problem) -> bool:
        """Whether the two may be in one group."""

    def at_a_time(self) -> int:
        """Problems of a group that are in memory at a time."""

    def in_groups(self, problems: Sequence[Problem], solve: Solve, bar: Progress) -> list[Result]:
        """Call solve(device, problems, bar) on a group: once for all, or side by side for each."""

    def dense_greedy(self, problems: Sequence[Problem]) -> DenseGreedy:
        """For one group."""

    def tiled_greedy(self, p: Problem, limit: int, horizon: int) -> TiledGreedy:
        """For at most `horizon` picks, in `limit` bytes."""


Solve = Callable[[Device, Sequence[Problem], Progress], "list[Result]"]
