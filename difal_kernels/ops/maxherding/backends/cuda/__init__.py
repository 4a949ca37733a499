"""An NVIDIA GPU: kernel values by the product of backends/gpu, which is in Triton, all that follows in csrc/cuda."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from difal_kernels.ops import _gpu, _triton

from ...primitives import DenseMemory, Guessing
from ...problem import Batch, Problem
from ..gpu import GUESSING, GpuBackend, GpuTuning
from . import dense, tiled


@dataclass(frozen=True, kw_only=True)
class CudaBackend(GpuBackend):
    """See `primitives.Device`."""

    guessing: Guessing = GUESSING
    tuning: GpuTuning = field(default_factory=GpuTuning)
    path: str | None = None
    stacked: bool = False

    def unavailable(self) -> str | None:
        return _gpu.unavailable() or _triton.unavailable()

    def supports(self, batch: Batch) -> str | None:
        return self.unavailable() or _gpu.wrong_device(batch.device) or self.supports_rows(batch)

    def active(self, device: torch.device) -> AbstractContextManager[None]:
        return _triton.on(device)

    def dense_memory(self, p: Problem, alone: bool = True) -> DenseMemory:
        return dense.memory(p, self.tuning)

    def tiled_memory(self, p: Problem) -> int:
        return tiled.workspace_bytes(p, self.guessing, self.tuning)

    def alike(self, p: Problem, q: Problem) -> bool:
        return True

    def dense_greedy(self, problems: Sequence[Problem]) -> dense.CudaDenseGreedy:
        return dense.CudaDenseGreedy(problems, self.tuning)

    def tiled_greedy(self, p: Problem, limit: int, horizon: int) -> tiled.CudaTiledGreedy:
        return tiled.CudaTiledGreedy(p, self.guessing, self.tuning, limit, horizon)
