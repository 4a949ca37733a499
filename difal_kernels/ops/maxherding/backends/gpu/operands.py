"""Features on their way into a GEMM on the GPU, and the error bound that follows from how it multiplies.

float32 products are exact to a rounding each, as on the CPU. float16 and bfloat16 features go to the tensor cores as
they are, neither centred nor scaled: the products are exact there and only sums are rounded, but not as IEEE says, so
that the bound is a wider one (docs/kernels.md). It must leave room, else the features are widened and centred.
"""

from __future__ import annotations

from functools import cache

import torch

from ...bounds import error_model, gemm_rel_err, tensor_core_rel_err
from ...problem import Problem
from . import GpuTuning

HALVES = (torch.float16, torch.bfloat16)
# Bandwidths at which raw products need no scaling. Features are not much larger than the bandwidth, or the room for a
# tensor core's error forbids it: so beyond these sums might overflow float32, and below so much might underflow that
# it counts.
RAW_BANDWIDTHS = (2.0**-26, 2.0**50)
ROWS = 4096  # rows of features centred and scaled at a time


class GpuOperands:
    """The pool's features, `a`, with <a_i, a_j> * product the inner product in units of the bandwidth.

    Attributes:
        features: (N, D) the problem's values in their dtype, rows contiguous.
        matrix: (N, D) what the GEMM gets: `features` itself, or float32 centred and scaled.
        raw: whether it is `features` itself.
        sq_norms: (N,) float32, s_i = |a_i|^2 in units of the bandwidth; zeros for cosine.
        norms: (N,) float64 norms of the features for cosine, else None.
        error: the bounds.ErrorModel of kernel values made from them.
    """

    def __init__(self, p: Problem, tuning: GpuTuning):
        self.kernel, self.bandwidth, self.tuning = p.kernel, p.bandwidth or 1.0, tuning
        self.features = self.rows_of(p.features)
        self.device = self.features.device
        d = self.features.shape[1]
        self.cosine = p.kernel == "cosine"
        self.norms = self.norms_of(self.features) if self.cosine else None
        self.chunk, self.product, self.center, self.raw = d, 1.0, None, False
        rel_err = gemm_rel_err(d, tuning.roundings)
        if not self.cosine and self.features.dtype in HALVES and self._multiplies_halves():
            self.raw = self._use_raw_rows(d)
        if self.raw:
            rel_err = tensor_core_rel_err(d, self.chunk, tuning.roundings)
            self.matrix, self.product = self.features, 1 / self.bandwidth**2
        else:
            if not self.cosine:
                self.center = self.features.mean(0, dtype=torch.float64)
            self.matrix = self.center_and_scale(self.features, self.norms)
            self.sq_norms = self._sq_norms(self.matrix)
        self.error = error_model(p.kernel, rel_err, r=tuning.roundings)

    def rows_of(self, features: torch.Tensor) -> torch.Tensor:
        """Rows as the kernels read them."""
        return features.contiguous()

    def norms_of(self, features: torch.Tensor) -> torch.Tensor:
        """(N,) float64 norms of rows."""
        out = torch.empty(len(features), dtype=torch.float64, device=features.device)
        for begin in range(0, len(features), ROWS):
            out[begin : begin + ROWS] = features[begin : begin + ROWS].double().norm(dim=1)
        return out

    def _multiplies_halves(self) -> bool:
        own = self.tuning.half_products
        return multiplies_halves(self.features.dtype, self.device) if own is None else own

    def _use_raw_rows(self, d: int) -> bool:
        """Whether the tensor cores are good enough for these features; then `sq_norms` and `chunk` are set."""
        if not RAW_BANDWIDTHS[0] <= self.bandwidth <= RAW_BANDWIDTHS[1]:
            return False
        sq_norms = self._raw_sq_norms(self.features)
        roundings, chunk = self.tuning.roundings, self.products_summed()
        error = roundings.second_order * tensor_core_rel_err(d, chunk, roundings)
        if 2 * error * float(sq_norms.max()) > self.tuning.max_tensor_core_err:
            return False
        self.sq_norms, self.chunk = sq_norms, chunk
        return True

    def products_summed(self) -> int:
        """Products that a tensor core adds up before they go to a float32 sum."""
        return self.tuning.chunk

    def _raw_sq_norms(self, features: torch.Tensor) -> torch.Tensor:
        return (self.norms_of(features) / self.bandwidth).square().float()

    def center_and_scale(self, features: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
        """float32 rows whose inner products give kernel values."""
        # Beyond these bandwidths float32 has no reciprocal of full precision; csrc/cpu/rows.cpp does the same.
        in_double = features.dtype == torch.float64 or not 1e-37 < self.bandwidth < 1e37
        out = torch.empty(features.shape, dtype=torch.float32, device=features.device)
        for begin in range(0, len(features), ROWS):
            rows = features[begin : begin + ROWS]
            if self.cosine:
                out[begin : begin + ROWS] = rows / norms[begin : begin + ROWS, None].clamp(min=1e-300)
            elif in_double:
                out[begin : begin + ROWS] = (rows.double() - self.center.double()) / self.bandwidth
            else:
                out[begin : begin + ROWS] = (rows.float() - self.center.float()) * (1 / self.bandwidth)
        return out

    def _sq_norms(self, matrix: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(matrix), dtype=torch.float32, device=matrix.device)
        if not self.cosine:
            for begin in range(0, len(matrix), ROWS):
                norms = torch.linalg.vector_norm(matrix[begin : begin + ROWS], dim=1, dtype=torch.float64)
                out[begin : begin + ROWS] = norms.square().float()
        return out

    def others(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What `matrix`, `sq_norms` and `norms` are for rows that are not of the pool, contiguous and of its dtype."""
        norms = self.norms_of(rows) if self.cosine else None
        if self.raw:
            return rows, self._raw_sq_norms(rows), norms
        matrix = self.center_and_scale(rows, norms)
        return matrix, self._sq_norms(matrix), norms

    def multiply(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        """out = a @ b.T in float32; call within `full_precision(gpu=True)`."""
        if a.dtype == torch.float32:
            torch.mm(a, b.T, out=out)
        elif a.device.type != "cuda":  # no CPU has this product
            torch.mm(a.float(), b.float().T, out=out)
        else:
            rows = max(512, self.tuning.cached_sums // (4 * max(1, len(b)))) if a.shape[1] > self.chunk else len(a)
            for strip, sums in zip(a.split(rows), out.split(rows), strict=True):
                for c in range(0, a.shape[1], self.chunk):
                    own, other = strip[:, c : c + self.chunk], b[:, c : c + self.chunk].T
                    if c == 0:
                        torch.ops.aten.mm.dtype_out(own, other, torch.float32, out=sums)
                    else:
                        torch.ops.aten.addmm.dtype_out(sums, own, other, torch.float32, out=sums)


@cache
def multiplies_halves(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this torch makes float32 products of half precision and adds to them: before 2.8 it does neither, and 2.8
    does not add."""
    if device.type != "cuda":
        return True  # emulated: see `GpuOperands.multiply`
    a = torch.ones(16, 16, dtype=dtype, device=device)
    out = torch.zeros(16, 16, dtype=torch.float32, device=device)
    try:
        torch.ops.aten.mm.dtype_out(a, a.T, torch.float32, out=out)
        torch.ops.aten.addmm.dtype_out(out, a, a.T, torch.float32, out=out)
    except (AttributeError, RuntimeError):
        return False
    return bool((out == 32).all())


def operand_bytes(p: Problem) -> int:
    """The most that `GpuOperands` holds beyond the features."""
    n, d = p.features.shape
    copy = 0 if p.features.is_contiguous() else n * d * p.features.element_size()
    return copy + 4 * n * d + 3 * 8 * ROWS * d + 16 * n


def label_bytes(p: Problem, tuning: GpuTuning) -> int:
    """Bytes held while labeled rows are covered."""
    if p.labeled is None:
        return 0
    count, d = p.labeled.shape
    return count * (8 * d + 16) + 4 * tuning.rows_at_once * min(tuning.labels_at_once, count)
