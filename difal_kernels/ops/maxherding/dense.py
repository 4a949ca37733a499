"""The dense path: the kernel matrix is stored once, float32, and half of it made by symmetry."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..._memory import large_empty
from ..._progress import Progress
from ..._workers import Workers
from .engine import cover_labeled, make_engine, run_picks
from .panels import TOLERANCE, UNIT, Panels, full_precision, is_native, panel_rows
from .problem import Problem
from .reference import initial_coverage
from .result import Result

TILE = 512  # rows and columns of the matrix that are made at once: turned into kernel values while in cache
GROUP = 4  # tiles per task
KEPT = 6  # the prepared rows are kept where they are at most a sixth of the matrix


def workspace_bytes(p: Problem, threads: int) -> int:
    """Bytes used beyond the features: the kernel matrix, panels, copies that the dtype or strides ask for."""
    n, d = p.features.shape
    columns = _columns(p)
    if p.kernel == "precomputed":
        in_place = p.features.dtype == torch.float32 and p.features.stride(1) == 1
        own = 0 if in_place and columns == n else 4 * n * columns
        return own + (0 if in_place or is_native(p.features) else 8 * n * n) + 64 * (n + columns)
    copies = 0 if is_native(p.features) else n * d * (8 if p.features.dtype == torch.float64 else 4)
    sides, height = 2 * threads, _height(p, threads)
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), height) * n
    panels = 4 * n * d if _keeps_rows(p) else sides * 4 * height * d
    gathered = 0 if columns == n else threads * 8 * height * d
    return 4 * n * columns + copies + labels + panels + gathered + 64 * (n + columns)


def _keeps_rows(p: Problem) -> bool:
    """Whether all rows are prepared once, beside the matrix, or again for each tile."""
    return KEPT * p.features.shape[1] <= _columns(p)


def _height(p: Problem, threads: int) -> int:
    n, d = p.features.shape
    return min(n, TILE, panel_rows(n, d, 2 * threads)) if not _keeps_rows(p) else min(n, TILE)


def plan(p: Problem) -> str:
    passes = "no GEMM pass" if p.kernel == "precomputed" else f"{0.5 if _symmetric(p) else 1} GEMM passes"
    return f"dense, {len(p.features)} x {_columns(p)} kernel in float32, {passes}"


def matrix_size(p: Problem) -> int:
    """Numbers in the matrix that `select` can be lent."""
    return 0 if p.kernel == "precomputed" else len(p.features) * _columns(p)


def select(p: Problem, bar: Progress, workers: Workers, storage: torch.Tensor | None = None) -> Result:
    """Solve one problem, in `storage` if given: float32, at least `matrix_size(p)` long."""
    selection = DenseSelection(p, workers, storage)
    picks, gains = selection.more(p.budget, bar)
    return Result(picks, gains, selection.coverage(), selection.settled())


class DenseSelection:
    """Greedy selection on a stored matrix, as far as wanted."""

    def __init__(self, p: Problem, workers: Workers, storage: torch.Tensor | None = None):
        self.p = p
        if p.kernel == "precomputed":
            self.engine, self.keep = _precomputed(p, workers.count)
        else:
            keep = workers if _keeps_rows(p) else None
            self.panels = Panels(p, 2 * workers.count, _height(p, workers.count), keep)
            self.engine, self.keep = _from_features(p, self.panels, workers, storage)
        self.engine.start()

    def more(self, count: int, bar: Progress) -> tuple[torch.Tensor, torch.Tensor]:
        """The next `count` picks and their gains."""
        picks = torch.empty(count, dtype=torch.int64)
        gains = torch.empty(count, dtype=torch.float64)
        run_picks(self.engine, picks, gains, bar)
        if self.p.candidates is not None and not _symmetric(self.p):
            picks = self.p.candidates[picks]
        return picks, gains / len(self.p.features)

    def add_labeled(self, labeled: torch.Tensor) -> None:
        p = replace(self.p, labeled=labeled)
        if p.kernel == "precomputed":
            m = initial_coverage(p)
            self.engine.cover_with(m.data_ptr())
        else:
            cover_labeled(self.engine, p, self.panels)

    def coverage(self) -> float:
        return self.engine.covered() / len(self.p.features)

    def settled(self) -> int:
        return self.engine.stats()["contested"]


def _symmetric(p: Problem) -> bool:
    """Whether the whole square matrix is made: half of it by symmetry costs less than a column per candidate."""
    return p.kernel != "precomputed" and (p.candidates is None or 2 * len(p.candidates) > len(p.features))


def _columns(p: Problem) -> int:
    return len(p.features) if p.candidates is None or _symmetric(p) else len(p.candidates)


def _from_features(p: Problem, panels: Panels, workers: Workers, storage: torch.Tensor | None):
    symmetric = _symmetric(p)
    features, n, columns = panels.features, len(p.features), _columns(p)
    storage = large_empty(n * columns) if storage is None else storage
    gram = storage[: n * columns].view(n, columns)
    coverage, keep = make_engine("Coverage", p, features, panels.scale, gram, symmetric, panels.error, workers.count)
    cover_labeled(coverage, p, panels)

    def other_rows(begin: int, end: int, side: int) -> torch.Tensor:
        return panels.block(begin, end, side) if symmetric else panels.take(p.candidates[begin:end], side)

    def work(task: tuple[int, int, int, int], slot: int) -> None:
        b, e, first, last = task
        own = panels.block(b, e, 2 * slot)
        for c in range(first, last, panels.height):
            stop = min(c + panels.height, last)
            other = own if symmetric and c == b else other_rows(c, stop, 2 * slot + 1)
            torch.mm(own, other.T, out=gram[b:e, c:stop])
            coverage.fill(b, e, c, stop)
            if symmetric and c == b:
                coverage.mirror(b, e)

    width = GROUP * panels.height
    tasks = [
        (b, e, first, min(first + width, e if symmetric else columns))
        for b, e in panels.blocks
        for first in range(0, e if symmetric else columns, width)
    ]
    tasks.sort(key=lambda task: (task[1] - task[0]) * (task[2] - task[3]))  # the long ones first
    with full_precision():
        workers.run(work, tasks)
    return coverage, keep


def _precomputed(p: Problem, threads: int):
    """The kernel itself is the matrix: used in place where it is float32 with contiguous rows, else copied once."""
    exact = p.features if p.features.dtype == torch.float64 else p.features.float()
    exact = exact if exact.stride(1) == 1 else exact.contiguous()
    gram = exact if p.candidates is None else exact[:, p.candidates]
    rounding = 4 * UNIT if exact.dtype == torch.float64 else 0.0
    error = {"lambda_": 0.0, "relative": rounding, "absolute": 0.0, "tolerance": TOLERANCE}
    scale = torch.zeros(len(exact), dtype=torch.float32)
    coverage, keep = make_engine("Coverage", p, exact, scale, gram.float(), False, error, threads)
    m = initial_coverage(p)
    coverage.cover_with(m.data_ptr())
    return coverage, keep
