"""ProbCover on the CPU: pairs within the radius from tiles of torch's GEMM, greedy on them in csrc/cpu/balls.cpp.

float32 finds the pairs that are surely inside or outside, float64 decides the others; docs/exactness.md has the bound.
"""

from __future__ import annotations

from typing import Any

import torch

from ..._native import load, num_threads
from ..._precision import full_precision
from ..._progress import Progress
from ..._workers import Workers
from .._cpu import supports, unavailable
from ..maxherding.backends.cpu import free_memory
from ..maxherding.backends.cpu.greedy import NUMBER_TYPES, cover, run_picks
from ..maxherding.backends.cpu.operands import GemmOperands, copy_bytes, cut
from ..maxherding.kernel_functions import KERNEL_FUNCTIONS
from ..maxherding.problem import Batch, Problem
from ..maxherding.result import Result

__all__ = ["plan", "run", "supports", "unavailable"]

TILE = 1024  # rows and columns of a tile
SLICE_ROWS, SLICE_NUMBERS = 1024, 1 << 22  # of features that are prepared at a time, at most
BYTES_PER_PAIR = 16  # a list that may double as it grows, then two lists of neighbours


def plan(batch: Batch) -> str:
    limit, lines = _limit(batch), []
    _check_limit(batch, limit)
    for b, p in enumerate(batch.problems):
        name = f"problem {b}: " if batch.batched else ""
        lines.append(
            f"   {name}0.5 GEMM passes if at most {_capacity(p, limit):.3g} pairs are within the radius, else 2.5; "
            f"workspace {_fixed_bytes(p) / 2**20:.1f} MiB and the pairs, of {limit / 2**20:.0f} MiB"
        )
    return "\n".join(lines)


def run(batch: Batch) -> list[Result]:
    limit = _limit(batch)
    _check_limit(batch, limit)
    with Progress(sum(p.budget for p in batch.problems), "probcover", batch.progress) as bar:
        return [_Selection(p, _capacity(p, limit), bar).run() for p in batch.problems]


def _check_limit(batch: Batch, limit: int) -> None:
    for p in batch.problems:
        if _fixed_bytes(p) > limit:
            source = "`memory_limit`" if batch.memory_limit is not None else "the memory that is free"
            raise ValueError(
                f"{source} is {limit} bytes and a selection of {len(p.features)} points needs at least "
                f"{_fixed_bytes(p)}; raise it"
            )


def _limit(batch: Batch) -> int:
    return batch.memory_limit if batch.memory_limit is not None else free_memory() // 2


def _capacity(p: Problem, limit: int) -> int:
    return max(0, limit - _fixed_bytes(p)) // BYTES_PER_PAIR


def _slice_rows(n: int, d: int) -> int:
    """Rows of a slice: two of them stay within a twenty-fifth of an N x N matrix where N is large enough."""
    return min(n, max(64, min(SLICE_ROWS, SLICE_NUMBERS // d, n * n // (50 * d))))


def _fixed_bytes(p: Problem) -> int:
    n, d = p.features.shape
    height = _slice_rows(n, d)
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), TILE) * n
    return copy_bytes(p.features) + labels + 4 * min(TILE, n) ** 2 + 4 * 4 * height * d + 160 * n


class _Selection:
    def __init__(self, p: Problem, capacity: int, bar: Progress):
        self.p, self.capacity, self.bar = p, capacity, bar
        self.n = len(p.features)
        height = _slice_rows(*p.features.shape)
        self.operands = GemmOperands(p, [height, height])
        self.step = min(TILE, height)
        self.features = self.operands.features
        self.allowed = torch.zeros(self.n, dtype=torch.uint8)
        self.allowed[slice(None) if p.candidates is None else p.candidates] = 1
        self.balls = self._engine()

    def _engine(self) -> Any:
        return load("_cpu").Balls(
            rows=self.n,
            columns=self.n,
            dimension=self.features.shape[1],
            type=NUMBER_TYPES.index(self.features.dtype),
            features=self.features.data_ptr(),
            points=self.n,
            feature_stride=self.features.stride(0),
            weights=0,
            candidates=0,
            allowed=self.allowed.data_ptr(),
            kind=KERNEL_FUNCTIONS["tophat"].code,
            bandwidth=self.p.bandwidth,
            sq_norms=self.operands.sq_norms.data_ptr(),
            symmetric=True,
            first_gain=-1.0,
            threads=num_threads(),
            **self.operands.error.native(),
        )

    def run(self) -> Result:
        budget = self.p.budget
        picks, gains = torch.empty(budget, dtype=torch.int64), torch.empty(budget, dtype=torch.float64)
        if self.p.labeled is not None:
            for rows in self.p.labeled.split(self.operands.heights[0]):
                cover(self.balls, self.operands, rows, Workers(1))
        done = 0
        if budget:
            gathered = self.sweep(self.capacity)
            while not gathered and done < budget:
                if self.balls.pairs() <= self.capacity:
                    gathered = self.sweep(self.capacity)
                    break
                picks[done], gains[done] = self.pick()
                done += 1
                self.bar.update(1)
            run_picks(self.balls, picks[done:], gains[done:], self.bar)
        return Result(picks, gains / self.n, self.balls.covered() / self.n, 0)

    def products(self, own: torch.Tensor, count: int, begin: int, end: int, out: torch.Tensor) -> torch.Tensor:
        """Inner products of `count` prepared rows with a block of the pool, into a contiguous part of `out`."""
        tile = out.view(-1)[: count * (end - begin)].view(count, end - begin)
        self.operands.products.multiply(own, self.operands.block(begin, end, 1), tile)
        return tile

    def blocks(self) -> list[tuple[int, int]]:
        return cut(self.n, self.step)

    def sweep(self, capacity: int) -> bool:
        """All pairs once: whether those within the radius, of which one is uncovered, were gathered."""
        self.balls.begin(capacity)
        tile = torch.empty(self.step, self.step, dtype=torch.float32)
        with full_precision():
            for b, e in self.blocks():
                own = self.operands.block(b, e, 0)
                for b2, e2 in self.blocks():
                    if b2 <= b:
                        self.balls.tile(b, e, b2, e2, self.products(own, e - b, b2, e2, tile).data_ptr())
        return self.balls.end()

    def pick(self) -> tuple[int, float]:
        """One pick, and what it newly covers taken off the counts of all others."""
        j, gain = self.balls.best()
        newly = torch.empty(self.n, dtype=torch.int64)
        with full_precision():
            row = torch.empty(1, self.n, dtype=torch.float32)
            own = self.operands.rows(self.features[j : j + 1], 0)
            for b, e in self.blocks():
                self.operands.products.multiply(own, self.operands.block(b, e, 1), row[:, b:e])
            newly = newly[: self.balls.take(j, row.data_ptr(), newly.data_ptr())]
            tile = torch.empty(self.step, self.step, dtype=torch.float32)
            for some in newly.split(self.step):
                own = self.operands.rows(self.features[some], 0)
                for b, e in self.blocks():
                    self.balls.lower(
                        some.data_ptr(), len(some), b, e, self.products(own, len(some), b, e, tile).data_ptr()
                    )
        return j, gain
