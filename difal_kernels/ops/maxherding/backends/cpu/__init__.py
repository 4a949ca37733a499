"""The CPU: inner products by torch's GEMM or in 16-bit integers, everything around them in csrc/cpu."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from difal_kernels._native import num_threads
from difal_kernels._progress import Progress
from difal_kernels._workers import Workers
from difal_kernels.ops import _cpu

from ...plan import PlannedBackend
from ...primitives import DenseMemory, Guessing, Solve
from ...problem import Batch, Problem
from ...result import Result
from . import dense, tiled
from .tuning import CpuTuning


@dataclass(frozen=True, kw_only=True)
class CpuBackend(PlannedBackend):
    """See `primitives.Device`.

    Attributes:
        threads: how many to use; None for torch's setting.
        storage: bytes that a matrix may be stored in; None for fresh ones.
    """

    guessing: Guessing = field(default_factory=Guessing)
    tuning: CpuTuning = field(default_factory=CpuTuning)
    path: str | None = None
    threads: int | None = None
    storage: torch.Tensor | None = None
    memory_name: str = "the memory that is free"
    max_problems: int = 1 << 30
    stacked: bool = True

    def unavailable(self) -> str | None:
        return _cpu.unavailable()

    def supports(self, batch: Batch) -> str | None:
        return _cpu.supports(batch)

    def default_memory_limit(self, device: torch.device) -> int:
        return free_memory() // 2

    def active(self, device: torch.device) -> AbstractContextManager[None]:
        return nullcontext()

    def at_a_time(self) -> int:
        return self.threads or num_threads()

    def dense_memory(self, p: Problem, alone: bool = True) -> DenseMemory:
        return DenseMemory(kept=dense.workspace_bytes(p, self.at_a_time() if alone else 1, self.tuning), passing=0)

    def tiled_memory(self, p: Problem) -> int:
        return tiled.workspace_bytes(p, self.guessing.among(len(p.features)), self.tuning)

    def entry_bits(self, p: Problem) -> int:
        return 8 * dense.entry_dtype(p, self.tuning).itemsize

    def alike(self, p: Problem, q: Problem) -> bool:
        """Small ones side by side, a thread each; a large one is better solved by all threads together."""
        return max(len(p.features), len(q.features)) <= self.tuning.side_by_side_max_points

    def in_groups(self, problems: Sequence[Problem], solve: Solve, bar: Progress) -> list[Result]:
        count = min(len(problems), self.at_a_time())
        if count == 1:
            return [result for p in problems for result in solve(self, [p], bar)]
        results: list[list[Result]] = [[] for _ in problems]
        size = max(dense.matrix_bytes(p, self.tuning) for p in problems)
        # Fresh pages for every problem would cost as much as its arithmetic.
        storage = torch.empty(count, size, dtype=torch.uint8)
        lanes = [replace(self, threads=1, storage=own) for own in storage]

        def work(b: int, slot: int) -> None:
            results[b] = solve(lanes[slot], [problems[b]], bar)

        with Workers(count) as workers:
            workers.run(work, sorted(range(len(results)), key=lambda b: -len(problems[b].features)))  # largest first
        return [result for made in results for result in made]

    def dense_greedy(self, problems: Sequence[Problem]) -> dense.CpuDenseGreedy:
        (p,) = problems
        few = len(p.features) ** 2 * p.features.shape[1] < self.tuning.one_thread_max_multiplications
        return dense.CpuDenseGreedy(p, self.tuning, 1 if few else self.at_a_time(), self.storage)

    def tiled_greedy(self, p: Problem, limit: int, horizon: int) -> tiled.CpuTiledGreedy:
        spare = max(0, limit - self.tiled_memory(p)) // 8
        threads = max(1, min(self.at_a_time(), 1 + spare // tiled.worker_bytes(p, self.tuning)))  # each has buffers
        return tiled.CpuTiledGreedy(p, self.guessing.among(len(p.features)), self.tuning, limit, threads)


def free_memory() -> int:
    """Bytes of memory that can be had without swapping; 8 GiB where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 8 << 30
