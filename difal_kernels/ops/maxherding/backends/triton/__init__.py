"""Triton, for a GPU without nvcc: the product of backends/gpu, and the greedy loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from difal_kernels.ops import _triton

from ...dense import symmetric
from ...primitives import DenseMemory, Guessing
from ...problem import Batch, Problem
from ..gpu import GUESSING, GpuBackend, GpuTuning
from . import dense, tiled


@dataclass(frozen=True, kw_only=True)
class TritonBackend(GpuBackend):
    """See `primitives.Device`."""

    guessing: Guessing = GUESSING
    tuning: GpuTuning = field(default_factory=GpuTuning)
    path: str | None = None
    stacked: bool = True

    def unavailable(self) -> str | None:
        return _triton.unavailable()

    def supports(self, batch: Batch) -> str | None:
        return self.unavailable() or _triton.wrong_device(batch.device) or self.supports_rows(batch)

    def active(self, device: torch.device) -> AbstractContextManager[None]:
        return _triton.on(device)

    def dense_memory(self, p: Problem, alone: bool = True) -> DenseMemory:
        return dense.memory(p, self.tuning)

    def tiled_memory(self, p: Problem) -> int:
        return tiled.workspace_bytes(p, self.guessing, self.tuning)

    def alike(self, p: Problem, q: Problem) -> bool:
        """Whether one launch can serve both."""
        return p.features.dtype == q.features.dtype and symmetric(p) == symmetric(q)

    def dense_greedy(self, problems: Sequence[Problem]) -> dense.TritonDenseGreedy:
        return dense.TritonDenseGreedy(problems, self.tuning)

    def tiled_greedy(self, p: Problem, limit: int, horizon: int) -> tiled.TritonTiledGreedy:
        return tiled.TritonTiledGreedy(p, self.guessing, self.tuning, limit, horizon)
