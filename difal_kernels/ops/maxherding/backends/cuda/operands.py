"""What the CUDA kernels are told of the features."""

from __future__ import annotations

from typing import Any

import torch

from difal_kernels._native import load
from difal_kernels.ops._gpu import FLOAT_CODES, queue

from ...kernel_functions import KERNEL_FUNCTIONS
from ..gpu.covered import GpuCoverage, LabeledRows
from ..gpu.operands import GpuOperands


class CudaOperands(GpuOperands):
    def norms_of(self, features: torch.Tensor) -> torch.Tensor:
        """As the kernels sum inner products."""
        out = torch.empty(len(features), dtype=torch.float64, device=features.device)
        load("_cuda").coverage_norms(
            queue(features.device),
            len(features),
            out.data_ptr(),
            features=features.data_ptr(),
            feature_stride=features.stride(0),
            dimension=features.shape[1],
            bandwidth=1.0,
            type=FLOAT_CODES[features.dtype],
            kind=KERNEL_FUNCTIONS["rbf"].code,
        )
        return out

    def native(
        self,
        features: torch.Tensor | None = None,
        sq_norms: torch.Tensor | None = None,
        norms: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """The arguments of csrc's Points and Estimate; of other points where these are given."""
        own = features is None
        features = self.features if features is None else features
        sq_norms = self.sq_norms if sq_norms is None else sq_norms
        norms = self.norms if own else norms
        return {
            "features": features.data_ptr(),
            "feature_stride": features.stride(0),
            "dimension": features.shape[1],
            "norms": 0 if norms is None else norms.data_ptr(),
            "bandwidth": self.bandwidth,
            "type": FLOAT_CODES[features.dtype],
            "kind": KERNEL_FUNCTIONS[self.kernel].code,
            "sq_norms": sq_norms.data_ptr(),
            **self.error.native(),
        }


class CudaCoverage(GpuCoverage):
    operands: CudaOperands

    def cover_block(self, values: torch.Tensor, begin: int, end: int, labeled: LabeledRows) -> None:
        rows, sq_norms, norms = labeled
        load("_cuda").coverage_cover(
            queue(rows.device),
            values.data_ptr(),
            values.stride(0),
            begin,
            end,
            len(rows),
            rows.data_ptr(),
            sq_norms.data_ptr(),
            0 if norms is None else norms.data_ptr(),
            self.exact.data_ptr(),
            self.rounded.data_ptr(),
            **self.operands.native(),
        )
