"""The dense algorithm: the kernel matrix is stored once, then each pick lowers all gains by what it took.

Half of the matrix is made by symmetry. Low precision tells who may be the best, float64 who is; docs/exactness.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..._progress import Progress
from .primitives import Covers, DenseGreedy, Device
from .problem import Problem, labeled_coverage
from .result import Result


def symmetric(p: Problem) -> bool:
    """Whether the whole square matrix is made: half of it by symmetry costs less than a column per candidate."""
    return p.kernel != "precomputed" and (p.candidates is None or 2 * len(p.candidates) > len(p.features))


def columns(p: Problem) -> int:
    """M, how many columns the matrix has."""
    return len(p.features) if p.candidates is None or symmetric(p) else len(p.candidates)


def points_of_columns(p: Problem) -> torch.Tensor | None:
    """The point that each column stands for, (M,) int64 on the CPU; None where column j is point j."""
    return None if symmetric(p) else p.candidates


def describe(p: Problem, bits: int) -> str:
    passes = "no GEMM pass" if p.kernel == "precomputed" else f"{0.5 if symmetric(p) else 1} GEMM passes"
    return f"dense, {len(p.features)} x {columns(p)} kernel in {bits} bits an entry, {passes}"


def cover_labeled(target: Covers, p: Problem) -> None:
    """Raise the coverage to what the labeled rows of `p` give."""
    if p.labeled is None:
        return
    if p.kernel == "precomputed":
        target.cover_with(labeled_coverage(p))
        return
    for rows in p.labeled.split(target.labels_at_once):
        target.cover(rows)


def select(device: Device, problems: Sequence[Problem], bar: Progress) -> list[Result]:
    """Solve problems whose matrices fit in memory together."""
    selection = DenseSelection(device, problems)
    made = selection.more([p.budget for p in problems], bar)
    return [
        Result(picks, gains, selection.coverage(b), selection.contested_picks(b))
        for b, (picks, gains) in enumerate(made)
    ]


class DenseSelection:
    """Greedy selection on stored matrices, as far as wanted."""

    def __init__(self, device: Device, problems: Sequence[Problem]):
        self.problems = problems
        self.greedy: DenseGreedy = device.dense_greedy(problems)
        for b, p in enumerate(problems):
            with self.greedy.matrix(b) as self.matrix:
                cover_labeled(self.matrix, p)
                if p.kernel == "precomputed":
                    self.matrix.copy()
                else:
                    self.matrix.fill()
        self.greedy.start()

    def more(self, counts: Sequence[int], bar: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Make the next picks of each problem: indices into its pool, and gains."""
        made = []
        for p, (picks, gains) in zip(self.problems, self.greedy.select(counts, bar), strict=True):
            points = points_of_columns(p)
            picks = picks if points is None else points.to(picks.device)[picks]
            made.append((picks, gains / len(p.features)))
        return made

    def add_labeled(self, labeled: torch.Tensor) -> None:
        """Cover the one problem by more labeled rows."""
        cover_labeled(self.matrix, replace(self.problems[0], labeled=labeled))

    def coverage(self, b: int = 0) -> float:
        return self.greedy.covered(b) / len(self.problems[b].features)

    def contested_picks(self, b: int = 0) -> int:
        return self.greedy.contested(b)


def padded(columns: int, multiple: int) -> int:
    """Numbers from row to row of a matrix, so that rows begin on a cache line."""
    return math.ceil(columns / multiple) * multiple
