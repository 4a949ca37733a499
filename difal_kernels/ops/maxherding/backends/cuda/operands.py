"""Features on their way into a GEMM on the GPU, and the error bound that follows from how it multiplies.

float32 products are exact to a rounding each, as on the CPU. float16 and bfloat16 features go to the tensor cores as
they are, neither centred nor scaled: the products are exact there and only sums are rounded, but not as IEEE says, so
that the bound is a wider one (docs/kernels.md). It must leave room, else the features are widened and centred.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from difal_kernels._native import load
from difal_kernels.ops._gpu import FLOAT_CODES, queue

from ...kernel_functions import KERNELS
from ...problem import Problem
from ..cpu import operands as panels
from ..cpu.operands import TOLERANCE, UNIT

HALVES = (torch.float16, torch.bfloat16)
CHUNKS = (8192, 4096, 2048, 1024, 512)  # products that a tensor core adds up before they go to a float32 sum
ROOM = 2.0**-11  # most relative error of a kernel value that tensor-core sums may cause
# Bandwidths at which raw products need no scaling. Features are not much larger than the bandwidth, or ROOM forbids it:
# so beyond these sums might overflow float32, and below so much might underflow that it counts.
RAW_BANDWIDTHS = (2.0**-26, 2.0**50)
ROWS = 4096  # rows of features turned at a time


class Panels:
    """The pool's features, `a`, with <a_i, a_j> * product the inner product in units of the bandwidth.

    Attributes:
        features: (N, D) contiguous, the problem's values in their dtype.
        matrix: (N, D) what the GEMM gets: `features` itself, or float32 centred and scaled.
        scale: (N,) float32 squared norms of a in units of the bandwidth; zeros for cosine.
        norms: (N,) float64 norms of the features for cosine, else None.
        error: lambda_, relative, absolute and tolerance of csrc's ErrorModel.
    """

    def __init__(self, p: Problem):
        self.kernel, self.bandwidth = p.kernel, p.bandwidth or 1.0
        self.features = p.features.contiguous()
        self.device = self.features.device
        d = self.features.shape[1]
        self.cosine = p.kernel == "cosine"
        self.norms = self._norms(self.features) if self.cosine else None
        self.chunk, self.product, self.center = d, 1.0, None
        growth = d * UNIT / (1 - d * UNIT)
        raw = None
        if not self.cosine and self.features.dtype in HALVES and multiplied(self.features.dtype, self.device):
            raw = self._raw_sums(d)
        if raw is not None:
            self.matrix, (self.scale, growth, self.chunk) = self.features, raw
            self.product = 1 / self.bandwidth**2
        else:
            if not self.cosine:
                self.center = self.features.mean(0, dtype=torch.float64)
            self.matrix = self.turned(self.features, self.norms)
            self.scale = self._scale(self.matrix)
        self.error = {
            "lambda_": 0.0 if self.cosine else 1.01 * (growth + 20 * UNIT),
            "relative": 0.0 if p.kernel == "tophat" else 8 * UNIT,
            "absolute": 1.01 * (growth + 8 * UNIT) if self.cosine else 0.0,
            "tolerance": TOLERANCE,
        }

    def _raw_sums(self, d: int) -> tuple[torch.Tensor, float, int] | None:
        """Scale, growth of the error and chunk if the tensor cores are good enough for these features, else None."""
        if not RAW_BANDWIDTHS[0] <= self.bandwidth <= RAW_BANDWIDTHS[1]:
            return None
        scale = (self._norms(self.features) / self.bandwidth).square().float()
        largest = float(scale.max())
        for chunk in CHUNKS:
            growth = 4 * (min(chunk, d) + -(-d // chunk)) * UNIT
            if 2.02 * growth * largest <= ROOM:
                return scale, growth, chunk
        return None

    def turned(self, features: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
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

    def _scale(self, matrix: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(matrix), dtype=torch.float32, device=matrix.device)
        if not self.cosine:
            for begin in range(0, len(matrix), ROWS):
                norms = torch.linalg.vector_norm(matrix[begin : begin + ROWS], dim=1, dtype=torch.float64)
                out[begin : begin + ROWS] = norms.square().float()
        return out

    def _norms(self, features: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(features), dtype=torch.float64, device=features.device)
        native = {"features": features.data_ptr(), "feature_stride": features.stride(0)}
        load("_cuda").coverage_norms(
            queue(features.device),
            len(features),
            out.data_ptr(),
            **native,
            dimension=features.shape[1],
            bandwidth=1.0,
            type=FLOAT_CODES[features.dtype],
            kind=0,
        )
        return out

    def others(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Matrix, scale and norms of points outside of the pool, contiguous and of its dtype."""
        norms = self._norms(features) if self.cosine else None
        if self.product != 1.0 or self.matrix is self.features:
            return features, (self._norms(features) / self.bandwidth).square().float(), norms
        matrix = self.turned(features, norms)
        return matrix, self._scale(matrix), norms

    def multiply(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        """out = a @ b.T in float32; call within `full_precision()`."""
        if a.dtype == torch.float32:
            torch.mm(a, b.T, out=out)
        elif a.device.type != "cuda":  # no CPU has this product
            torch.mm(a.float(), b.float().T, out=out)
        else:
            for c in range(0, a.shape[1], self.chunk):
                own, other = a[:, c : c + self.chunk], b[:, c : c + self.chunk].T
                if c == 0:
                    torch.ops.aten.mm.dtype_out(own, other, torch.float32, out=out)
                else:
                    torch.ops.aten.addmm.dtype_out(out, own, other, torch.float32, out=out)

    def native(self) -> dict:
        """The arguments of csrc's Points and Estimate."""
        return {
            "features": self.features.data_ptr(),
            "feature_stride": self.features.stride(0),
            "dimension": self.features.shape[1],
            "norms": 0 if self.norms is None else self.norms.data_ptr(),
            "bandwidth": self.bandwidth,
            "type": FLOAT_CODES[self.features.dtype],
            "kind": KERNELS.index(self.kernel),
            "product": self.product,
            "scale": self.scale.data_ptr(),
            **self.error,
        }


@cache
def multiplied(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this torch makes float32 products of half precision and adds to them: before 2.8 it does neither, and 2.8
    does not add."""
    if device.type != "cuda":
        return True  # emulated: see `Panels.multiply`
    a = torch.ones(16, 16, dtype=dtype, device=device)
    out = torch.zeros(16, 16, dtype=torch.float32, device=device)
    try:
        torch.ops.aten.mm.dtype_out(a, a.T, torch.float32, out=out)
        torch.ops.aten.addmm.dtype_out(out, a, a.T, torch.float32, out=out)
    except (AttributeError, RuntimeError):
        return False
    return bool((out == 32).all())


def matrix_bytes(p: Problem) -> int:
    """The most that `Panels` holds beyond the features."""
    n, d = p.features.shape
    copy = 0 if p.features.is_contiguous() else n * d * p.features.element_size()
    return copy + 4 * n * d + 3 * 8 * ROWS * d + 16 * n


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in float32 really in float32, and sums of half precision in float32: the bounds rest on it."""
    with panels.full_precision(), _cublas_in_full_precision():
        yield


@contextmanager
def _cublas_in_full_precision() -> Iterator[None]:
    flags = torch.backends.cuda.matmul
    wanted = {"allow_bf16_reduced_precision_reduction": False, "allow_fp16_reduced_precision_reduction": False}
    if hasattr(flags, "fp32_precision"):  # torch 2.9 and later
        wanted["fp32_precision"] = "ieee"
    else:
        wanted["allow_tf32"] = False
    try:
        accumulation = flags.allow_fp16_accumulation
    except AttributeError:  # before torch 2.7
        accumulation = None
    if accumulation is not None:
        wanted["allow_fp16_accumulation"] = False
    saved = {name: getattr(flags, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(flags, name, value)
        yield
    finally:
        for name, value in saved.items():
            setattr(flags, name, value)
