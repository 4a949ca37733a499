"""Stored kernel matrices of several problems at once, then launches that pick from all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from difal_kernels._progress import Progress
from difal_kernels.ops._gpu import FLOAT_CODES

from ...bounds import precomputed_model
from ...dense import columns, padded, points_of_columns, symmetric
from ...kernel_functions import KERNEL_FUNCTIONS
from ...primitives import DenseMemory
from ...problem import Problem
from ..gpu import GpuTuning
from ..gpu.operands import copy_bytes, label_bytes, operand_bytes
from .greedy import CudaGreedy, Task, workspace_bytes
from .operands import CudaOperands


def memory(p: Problem, tuning: GpuTuning) -> DenseMemory:
    n = len(p.features)
    copy = copy_bytes(p)
    if p.kernel == "precomputed":
        copy = n * n * (8 if p.features.dtype == torch.float64 else 4)
        passing = 12 * p.features.numel()
    else:
        passing = operand_bytes(p) + label_bytes(p, tuning)
    width = padded(columns(p), tuning.row_multiple)
    return DenseMemory(kept=4 * n * width + copy + workspace_bytes(n, columns(p)), passing=passing)


class CudaMatrix(Task):
    """The stored matrix of one problem, and its selection."""

    def __init__(self, p: Problem, tuning: GpuTuning):
        super().__init__(p, columns(p), p.budget)
        self.p, self.tuning, device = p, tuning, p.features.device
        n, width = len(p.features), padded(columns(p), tuning.row_multiple)
        self.gram = torch.empty(n, width, dtype=torch.float32, device=device)
        points = points_of_columns(p)
        self.points = None if points is None else points.to(device)
        self.native = {"gram": self.gram.data_ptr(), "gram_stride": width, "symmetric": symmetric(p)}
        if self.points is not None:
            self.native["candidates"] = self.points.data_ptr()
        elif p.candidates is not None:
            self.allowed = torch.zeros(n, dtype=torch.uint8, device=device)
            self.allowed[p.candidates.to(device)] = 1
            self.native["allowed"] = self.allowed.data_ptr()
        if p.kernel != "precomputed":
            self.operands = CudaOperands(p, tuning)
            self.native |= self.operands.native()

    def fill(self) -> None:
        own, square = self.operands, symmetric(self.p)
        chosen = own.every if self.points is None else self.points
        own.fill(self.gram[:, : self.columns], own.every, chosen, mirrored=square)

    def copy(self) -> None:
        """The kernel itself is the matrix, copied once."""
        p = self.p
        exact = (p.features if p.features.dtype == torch.float64 else p.features.float()).contiguous()
        self.gram[:, : self.columns] = exact if self.points is None else exact[:, self.points]
        sq_norms = torch.zeros(self.rows, dtype=torch.float32, device=exact.device)
        self.keep = exact, sq_norms
        self.native |= {
            "features": exact.data_ptr(),
            "feature_stride": exact.stride(0),
            "dimension": 0,
            "bandwidth": 1.0,
            "type": FLOAT_CODES[exact.dtype],
            "kind": KERNEL_FUNCTIONS["precomputed"].code,
            "sq_norms": sq_norms.data_ptr(),
            **precomputed_model(exact.dtype, self.tuning.roundings).native(),
        }

    def release(self) -> None:
        """Let go what only the making of the matrix needs."""
        if self.p.kernel != "precomputed":
            del self.operands.matrix


class CudaDenseGreedy:
    """See `primitives.DenseGreedy`."""

    def __init__(self, problems: Sequence[Problem], tuning: GpuTuning):
        self.problems, self.tuning = problems, tuning
        self.matrices: list[CudaMatrix] = []

    @contextmanager
    def matrix(self, b: int) -> Iterator[CudaMatrix]:
        made = CudaMatrix(self.problems[b], self.tuning)
        yield made
        made.release()
        self.matrices.append(made)

    def start(self) -> None:
        self.greedy = CudaGreedy(self.matrices, sparse=False)
        self.greedy.start()

    def select(self, counts: Sequence[int], bar: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self.greedy.select(bar)

    def covered(self, b: int) -> float:
        return self.greedy.covered(b)

    def contested(self, b: int) -> int:
        return self.greedy.contested(b)
