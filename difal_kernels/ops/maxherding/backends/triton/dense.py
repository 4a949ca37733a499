"""Stored kernel matrices of several problems, then the greedy loop on all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from difal_kernels._progress import Progress

from ...bounds import precomputed_model
from ...dense import columns, padded, points_of_columns, symmetric
from ...primitives import DenseMemory
from ...problem import Problem
from ..gpu import GpuTuning
from ..gpu.operands import GpuOperands, copy_bytes, label_bytes, operand_bytes, packed_model
from .covered import TritonCoverage
from .greedy import Engine, Task
from .greedy import workspace_bytes as engine_bytes


def memory(p: Problem, tuning: GpuTuning) -> DenseMemory:
    n = len(p.features)
    given = p.kernel == "precomputed"
    held = n * n * 8 if given else copy_bytes(p)
    kept = 4 * n * padded(columns(p), tuning.row_multiple) + held + engine_bytes(n, columns(p))
    return DenseMemory(kept, 12 * p.features.numel() if given else operand_bytes(p) + label_bytes(p, tuning))


class TritonMatrix(TritonCoverage):
    """The stored matrix of one problem while it is made, and the task that follows."""

    def __init__(self, p: Problem, gram: torch.Tensor, tuning: GpuTuning):
        n, device = len(p.features), p.features.device
        self.p, self.gram, self.tuning = p, gram, tuning
        points = points_of_columns(p)
        self.points = (torch.arange(n) if points is None else points).to(device)
        self.allowed: torch.Tensor | None = None
        if points is None and p.candidates is not None:
            self.allowed = torch.zeros(n, dtype=torch.bool, device=device)
            self.allowed[p.candidates.to(device)] = True
        self.exact = torch.zeros(n, dtype=torch.float64, device=device)
        self.rounded = torch.zeros(n, dtype=torch.float32, device=device)
        if p.kernel != "precomputed":
            self.operands = GpuOperands(p, tuning)

    def fill(self) -> None:
        own, n = self.operands, len(self.exact)
        own.fill(self.gram[:n, : len(self.points)], own.every, self.points, mirrored=symmetric(self.p))

    def copy(self) -> None:
        """The kernel itself is the matrix, copied once."""
        p, n = self.p, len(self.p.features)
        exact = (p.features if p.features.dtype == torch.float64 else p.features.float()).contiguous()
        self.given = exact.clone() if exact.data_ptr() % 16 else exact
        self.gram[:n, : len(self.points)] = exact if p.candidates is None else exact[:, self.points]

    def task(self) -> Task:
        p, n = self.p, len(self.p.features)
        width = len(self.points)
        if p.kernel == "precomputed":
            sq_norms = torch.zeros(n, dtype=torch.float32, device=self.gram.device)
            model = packed_model(precomputed_model(self.given.dtype, self.tuning.roundings), 1.0, self.gram.device)
            return Task(p, width, self.points, self.allowed, self.given, None, sq_norms, model, p.budget, self.exact)
        own = self.operands
        return Task(
            p, width, self.points, self.allowed, own.features, own.norms, own.sq_norms, own.model, p.budget, self.exact
        )


class TritonDenseGreedy:
    """See `primitives.DenseGreedy`. The problems are alike; their arrays are stacked."""

    def __init__(self, problems: Sequence[Problem], tuning: GpuTuning):
        self.problems, self.tuning = problems, tuning
        rows = max(len(p.features) for p in problems)
        width = padded(max(columns(p) for p in problems), tuning.row_multiple)
        device = problems[0].features.device
        self.gram = torch.empty(len(problems), rows, width, dtype=torch.float32, device=device)
        self.tasks: list[Task] = []

    @contextmanager
    def matrix(self, b: int) -> Iterator[TritonMatrix]:
        made = TritonMatrix(self.problems[b], self.gram[b], self.tuning)
        yield made
        self.tasks.append(made.task())

    def start(self) -> None:
        self.greedy = Engine(self.tasks, self.gram, symmetric(self.problems[0]))
        self.greedy.start(-1.0)

    def select(self, counts: Sequence[int], bar: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self.greedy.select(bar)

    def covered(self, b: int) -> float:
        return self.greedy.covered(b)

    def contested(self, b: int) -> int:
        return self.greedy.contested(b)
