"""Labeled rows that raise the coverage, by Triton."""

from __future__ import annotations

import torch

from ..gpu.covered import GpuCoverage, LabeledRows
from .greedy import GROUP


class TritonCoverage(GpuCoverage):
    def cover_block(self, values: torch.Tensor, begin: int, end: int, labeled: LabeledRows) -> None:
        from . import column_kernels as kernels

        operands, (rows, sq_norms, norms) = self.operands, labeled
        kernels.cover[(-(-(end - begin) // GROUP),)](
            values, values.stride(0), *operands.where().values(), operands.reals, operands.model, operands.sq_norms,
            rows.data_ptr(), sq_norms, 0 if norms is None else norms.data_ptr(), self.exact, self.rounded, begin, end,
            len(rows), num_warps=4, **operands.constants(),
        )  # fmt: skip
