"""Features on their way into the Triton kernels: rows that begin on 16 bytes and are a multiple of 64 numbers long."""

from __future__ import annotations

from typing import Any

import torch

from difal_kernels.ops._triton import interpreted

from ...bounds import ErrorModel
from ...kernel_functions import KERNEL_FUNCTIONS
from ...problem import Problem
from ..gpu import GpuTuning
from ..gpu.covered import GpuCoverage
from ..gpu.operands import HALVES, GpuOperands

WIDTH = 8  # numbers of an error model, as in greedy_kernels.py
STEP = 64  # numbers of a row that the kernels take at a time
SUMMED = 512  # products that a tensor core adds up, as in `dot_tile` of arithmetic.py
GROUP = 16  # rows that float64 takes together, as in greedy_kernels.py
OPTIONS = {"enable_fp_fusion": True}  # given, since its default changes from one Triton to the next


class TritonOperands(GpuOperands):
    """As `GpuOperands`, with rows as the kernels read them.

    Attributes:
        units: numbers from row to row of `matrix`, over 64.
        model: (8,) float32, the error model and `product`.
    """

    def __init__(self, p: Problem, tuning: GpuTuning):
        super().__init__(p, tuning)
        self.matrix = self.features if self.raw else aligned(self.matrix, STEP)
        self.units = self.matrix.stride(0) // STEP
        self.model = packed_model(self.error, self.product, self.device)

    def products_summed(self) -> int:
        return SUMMED

    def rows_of(self, features: torch.Tensor) -> torch.Tensor:
        """Rows of half precision may be multiplied as they are."""
        return aligned(features, STEP if features.dtype in HALVES else 16 // features.element_size())

    def where(self, features: torch.Tensor | None = None, norms: torch.Tensor | None = None) -> dict[str, int]:
        """What kernels that compute in float64 are told; of other points where these are given."""
        if features is None:
            features, norms = self.features, self.norms
        return {
            "features_at": features.data_ptr(),
            "stride": features.stride(0),
            "dimension": features.shape[1],
            "norms_at": 0 if norms is None else norms.data_ptr(),
        }

    def constants(self) -> dict[str, Any]:
        """`tl.constexpr` arguments of those kernels, and how they are compiled."""
        return {"KIND": KERNEL_FUNCTIONS[self.kernel].code, "DTYPE": triton_type(self.features.dtype), **OPTIONS}

    def reals(self) -> torch.Tensor:
        return torch.tensor([self.bandwidth], dtype=torch.float64, device=self.device)


class TritonCoverage(GpuCoverage):
    operands: TritonOperands

    def cover_block(
        self,
        products: torch.Tensor,
        begin: int,
        end: int,
        rows: torch.Tensor,
        sq_norms: torch.Tensor,
        norms: torch.Tensor | None,
    ) -> None:
        from . import column_kernels as kernels

        operands = self.operands
        apart = torch.zeros(len(rows), operands.features.stride(0), dtype=rows.dtype, device=rows.device)
        apart[:, : rows.shape[1]] = rows  # as far apart as the pool's
        kernels.cover[(-(-(end - begin) // GROUP),)](
            products, products.stride(0), *operands.where().values(), operands.reals(), operands.model,
            operands.sq_norms, apart.data_ptr(), sq_norms, 0 if norms is None else norms.data_ptr(), self.exact,
            self.rounded, begin, end, len(rows), num_warps=4, **operands.constants(),
        )  # fmt: skip


def triton_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return {
        torch.float16: tl.float16,
        torch.bfloat16: tl.bfloat16,
        torch.float32: tl.float32,
        torch.float64: tl.float64,
    }[dtype]


def packed_model(error: ErrorModel, product: float, device: torch.device) -> torch.Tensor:
    """sq_dist_rel_err, relative, absolute, tolerance and product, where `error_model` of arithmetic.py reads them."""
    values = [error.sq_dist_rel_err, error.relative, error.absolute, error.tolerance, product]
    return torch.tensor(values + [0.0] * (WIDTH - len(values)), dtype=torch.float32, device=device)


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
