"""Features on their way into the Triton kernels: rows that begin on 16 bytes and are a multiple of 64 numbers long."""

from __future__ import annotations

import torch

from difal_kernels.ops._triton import interpreted

from ...kernel_functions import KERNELS
from ...problem import Problem
from ..cpu.operands import TOLERANCE, UNIT
from ..cuda import operands as cuda_panels
from ..cuda.operands import ROWS

WIDTH = 8  # numbers of an error model, as in greedy_kernels.py
STEP = 64  # numbers of a row that the kernels take at a time


class Panels(cuda_panels.Panels):
    """As for CUDA, with the same bounds; `matrix` and `features` are padded with zeros where they need it.

    The kernels add up 512 products on the tensor cores, never more than `chunk`, so that the bound holds for them too.

    Attributes:
        units: numbers from row to row of `matrix`, over 64.
        model: (8,) float32, the error model and `product`.
    """

    def __init__(self, p: Problem):
        super().__init__(p)
        raw = self.matrix is self.features
        self.features = aligned(self.features, STEP if raw else 16 // self.features.element_size())
        self.matrix = self.features if raw else aligned(self.matrix, STEP)
        self.raw = raw
        self.units = self.matrix.stride(0) // STEP
        self.model = model_of({**self.error, "product": self.product}, self.device)

    def _norms(self, features: torch.Tensor) -> torch.Tensor:
        return norms_of(features)

    def others(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        norms = norms_of(features) if self.cosine else None
        if self.raw:
            return features, (norms_of(features) / self.bandwidth).square().float(), norms
        matrix = self.turned(features, norms)
        return matrix, self._scale(matrix), norms

    def where(self) -> dict[str, int]:
        """What kernels that compute in float64 are told."""
        return {
            "features_at": self.features.data_ptr(),
            "stride": self.features.stride(0),
            "dimension": self.features.shape[1],
            "norms_at": 0 if self.norms is None else self.norms.data_ptr(),
        }

    def constants(self) -> dict:
        """`tl.constexpr` arguments of those kernels."""
        return {"KIND": KERNELS.index(self.kernel), "DTYPE": triton_type(self.features.dtype)}


def triton_type(dtype: torch.dtype):
    import triton.language as tl

    return {
        torch.float16: tl.float16,
        torch.bfloat16: tl.bfloat16,
        torch.float32: tl.float32,
        torch.float64: tl.float64,
    }[dtype]


def model_of(error: dict[str, float], device: torch.device) -> torch.Tensor:
    names = ("lambda_", "relative", "absolute", "tolerance", "product")
    values = [error[name] for name in names] + [0.0] * (WIDTH - len(names))
    return torch.tensor(values, dtype=torch.float32, device=device)


def precomputed_model(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    relative = 4 * UNIT if dtype == torch.float64 else 0.0
    error = {"lambda_": 0.0, "relative": relative, "absolute": 0.0, "tolerance": TOLERANCE, "product": 1.0}
    return model_of(error, device)


def norms_of(features: torch.Tensor) -> torch.Tensor:
    """(N,) float64 norms of the rows."""
    out = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for begin in range(0, len(features), ROWS):
        out[begin : begin + ROWS] = features[begin : begin + ROWS].double().norm(dim=1)
    return out


def aligned(matrix: torch.Tensor, step: int) -> torch.Tensor:
    """The matrix, or a copy with zeros behind each row: rows a multiple of `step` numbers apart, from 16 bytes on."""
    n, d = matrix.shape
    if matrix.stride() == (d, 1) and d % step == 0 and matrix.data_ptr() % 16 == 0:
        return matrix
    padded = torch.zeros(n, -(-d // step) * step, dtype=matrix.dtype, device=matrix.device)
    padded[:, :d] = matrix
    return padded[:, :d]


def widened() -> bool:
    """Whether kernels must widen half precision before a product: the interpreter's products know no bfloat16."""
    return interpreted()
