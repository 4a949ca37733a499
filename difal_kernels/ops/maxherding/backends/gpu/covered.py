"""The coverage of a pool on the GPU, and labeled rows that raise it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .operands import GpuOperands


class LabeledRows(NamedTuple):
    """Labeled rows, as far apart as the pool's, with their `sq_norms` and `norms` of `GpuOperands`."""

    features: torch.Tensor
    sq_norms: torch.Tensor
    norms: torch.Tensor | None


class GpuCoverage:
    """m of the pool, `exact` (N,) float64 and `rounded` (N,) float32. A backend says how a block is covered."""

    operands: GpuOperands
    exact: torch.Tensor
    rounded: torch.Tensor

    @property
    def labels_at_once(self) -> int:
        return self.operands.tuning.labels_at_once

    def cover(self, rows: torch.Tensor) -> None:
        operands, n = self.operands, len(self.exact)
        rows = operands.aligned_rows(rows.to(operands.features.dtype))
        matrix, *norms = operands.others(rows)
        labeled = LabeledRows(rows, *norms)
        step = min(operands.tuning.rows_at_once, n)
        values = torch.empty(step, len(rows), dtype=torch.float32, device=rows.device)
        for b in range(0, n, step):
            e = min(b + step, n)
            operands.fill_with(values[: e - b], operands.every[b:e], matrix, labeled.sq_norms)
            self.cover_block(values[: e - b], b, e, labeled)

    def cover_with(self, coverage: torch.Tensor) -> None:
        self.exact.copy_(coverage)
        self.rounded.copy_(coverage)

    def cover_block(self, values: torch.Tensor, begin: int, end: int, labeled: LabeledRows) -> None:
        """Raise m of points [begin, end) to what `labeled` gives. `values` has the estimates, some UNCERTAIN."""
        raise NotImplementedError
