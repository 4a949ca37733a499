"""Features on their way into the GPU's products, kernel values from them, and the error bound that follows.

Products are made on tensor cores (product_kernels.py). float16 and bfloat16 features go there as they are, neither
centred nor scaled: their products are exact in float32, and only sums are rounded, but not as IEEE says
(docs/exactness.md). That bound must leave room, else the features are widened, centred and scaled like those of float32
and float64: such rows go as sums of two bfloat16 numbers, of whose four products three are made.
"""

from __future__ import annotations

from typing import Any

import torch

from difal_kernels.ops._triton import interpreted

from ...bounds import ErrorModel, error_model, split_rel_err, tensor_core_rel_err
from ...dense import padded
from ...kernel_functions import KERNEL_FUNCTIONS
from ...problem import Problem
from . import GpuTuning

HALVES = (torch.float16, torch.bfloat16)
# Bandwidths at which raw products need no scaling. Features are not much larger than the bandwidth, or the room for a
# tensor core's error forbids it: so beyond these sums might overflow float32, and below so much might underflow that
# it counts.
RAW_BANDWIDTHS = (2.0**-26, 2.0**50)
ROWS = 4096  # rows of features centred and scaled at a time
WIDTH = 8  # numbers of an error model, as in the kernels
BAND = 8  # tiles one below the other that run together
CHUNKS = {False: 128, True: 64}  # numbers whose products a tensor core sums; True: of rows that are split
STEPS = {False: 64, True: 32}  # numbers of a row that one dot takes
OPTIONS = {"enable_fp_fusion": True}  # given, since its default changes from one Triton to the next


class GpuOperands:
    """The pool's features, `a`, with <a_i, a_j> * product the inner product in units of the bandwidth.

    Attributes:
        features: (N, D) the problem's values in their dtype, rows from 16 bytes on.
        raw: whether the tensor cores get `features` itself.
        matrix: what they get: `features`, rows a multiple of CHUNKS[False] numbers apart with zeros between; or
            (N, 2 W) bfloat16, the two halves of rows that are centred and scaled, each filled up with zeros.
        units: numbers of a row, zeros included, over those that are summed at a time.
        sq_norms: (N,) float32, s_i = |a_i|^2 in units of the bandwidth; zeros for cosine.
        norms: (N,) float64 norms of the features for cosine, else None.
        error: the bounds.ErrorModel of kernel values made from them.
        model: (8,) float32, `error` and `product` as the Triton kernels read them.
        reals: (1,) float64, the bandwidth.
        every: (N,) int64, 0 to N - 1.
    """

    def __init__(self, p: Problem, tuning: GpuTuning):
        self.kernel, self.bandwidth, self.tuning = p.kernel, p.bandwidth or 1.0, tuning
        self.features = self.aligned_rows(p.features)
        self.device = self.features.device
        d = self.features.shape[1]
        self.cosine = p.kernel == "cosine"
        self.norms = self.norms_of(self.features) if self.cosine else None
        raw_sq_norms = self._sq_norms_of_raw_rows()
        self.raw = raw_sq_norms is not None
        self.product = 1 / self.bandwidth**2 if self.raw else 1.0
        self.center: Any = None if self.raw or self.cosine else self.features.mean(0, dtype=torch.float64)
        if raw_sq_norms is not None:
            self.matrix, self.sq_norms = self.features, raw_sq_norms
        else:
            self.matrix, self.sq_norms = self._prepare(self.features, self.norms)
        self.units = -(-d // CHUNKS[not self.raw])
        r = tuning.roundings
        rel_err = tensor_core_rel_err(d, CHUNKS[False], r) if self.raw else split_rel_err(d, CHUNKS[True], r)
        self.error = error_model(p.kernel, rel_err, r=r)
        self.model = packed_model(self.error, self.product, self.device)
        self.reals = torch.tensor([self.bandwidth], dtype=torch.float64, device=self.device)
        self.every = torch.arange(len(self.features), device=self.device)

    def aligned_rows(self, features: torch.Tensor) -> torch.Tensor:
        """Rows from 16 bytes on, a kernel value is then summed in one order in any of them; those of half precision
        so that they may be multiplied as they are."""
        return aligned(features, step_of_rows(features.dtype))

    def norms_of(self, features: torch.Tensor) -> torch.Tensor:
        """(N,) float64 norms of rows."""
        out = torch.empty(len(features), dtype=torch.float64, device=features.device)
        for begin in range(0, len(features), ROWS):
            out[begin : begin + ROWS] = features[begin : begin + ROWS].double().norm(dim=1)
        return out

    def _sq_norms_of_raw_rows(self) -> torch.Tensor | None:
        """(N,) float32, or None where tensor cores are not good enough for the features as they are."""
        if self.cosine or self.features.dtype not in HALVES:
            return None
        if not RAW_BANDWIDTHS[0] <= self.bandwidth <= RAW_BANDWIDTHS[1]:
            return None
        roundings, sq_norms = self.tuning.roundings, self._raw_sq_norms(self.features)
        error = roundings.second_order * tensor_core_rel_err(self.features.shape[1], CHUNKS[False], roundings)
        return sq_norms if 2 * error * float(sq_norms.max()) <= self.tuning.max_tensor_core_err else None

    def _raw_sq_norms(self, features: torch.Tensor) -> torch.Tensor:
        return (self.norms_of(features) / self.bandwidth).square().float()

    def _prepare(self, features: torch.Tensor, norms: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """`matrix` and `sq_norms` of these rows."""
        if self.raw:
            return features, self._raw_sq_norms(features)
        n, d = features.shape
        width = padded(d, CHUNKS[True])
        matrix = torch.zeros(n, 2 * width, dtype=torch.bfloat16, device=features.device)
        sq_norms = torch.zeros(n, dtype=torch.float32, device=features.device)
        # Beyond these bandwidths float32 has no reciprocal of full precision; csrc/cpu/rows.cpp does the same.
        in_double = features.dtype == torch.float64 or not 1e-37 < self.bandwidth < 1e37
        for begin in range(0, n, ROWS):
            some = slice(begin, begin + ROWS)
            if norms is not None:
                rows = (features[some] / norms[some, None].clamp(min=1e-300)).float()
            elif in_double:
                rows = ((features[some].double() - self.center.double()) / self.bandwidth).float()
            else:
                rows = (features[some].float() - self.center.float()) * (1 / self.bandwidth)
            if norms is None:
                sq_norms[some] = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().float()
            split(rows, matrix[some, :d], matrix[some, width : width + d])
        return matrix, sq_norms

    def others(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What `matrix`, `sq_norms` and `norms` are for rows that are not of the pool, aligned and of its dtype."""
        norms = self.norms_of(rows) if self.cosine else None
        return *self._prepare(rows, norms), norms

    def fill(
        self, out: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, mirrored: bool = False
    ) -> torch.Tensor:
        """out[r, c] = k(rows[r], columns[c]), estimated, or in float64 where an estimate would be no use.

        Args:
            out: (R, C) float32, columns side by side.
            rows: (R,) int64, points of the pool.
            columns: (C,) int64.
            mirrored: the two are the same; then half is made.

        Returns:
            `out`.
        """
        from . import product_kernels as kernels

        unsure = self._launch(out, rows, columns, self.matrix, self.sq_norms, True, mirrored)
        side = side_of_tile()
        kernels.repair[(1, 1) if interpreted() else (512, side // 8)](
            out, out.stride(0), rows, columns, len(rows), len(columns), unsure, unsure.numel(), unsure.shape[1],
            *self.where().values(), self.reals, int(mirrored), SIDE=side, num_warps=4, **self.constants(),
        )  # fmt: skip
        return out

    def fill_with(self, out: torch.Tensor, rows: torch.Tensor, matrix: torch.Tensor, sq_norms: torch.Tensor) -> None:
        """The kernel between points of the pool and rows of `others`; entries that are no use stay UNCERTAIN (2)."""
        columns = torch.arange(len(matrix), device=self.device)
        self._launch(out, rows, columns, matrix, sq_norms, False, False)

    def _launch(
        self, out: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, matrix: torch.Tensor,
        sq_norms: torch.Tensor, same: bool, mirrored: bool,
    ) -> torch.Tensor:  # fmt: skip
        from . import product_kernels as kernels

        side = side_of_tile()
        tiles = -(-len(rows) // side), -(-len(columns) // side)
        unsure = torch.zeros(tiles, dtype=torch.int8, device=out.device)
        if not unsure.numel():
            return unsure
        kernels.fill[(BAND, tiles[1], -(-tiles[0] // BAND))](
            self.matrix, matrix, out, out.stride(0), self.units, rows, columns, len(rows), len(columns), self.sq_norms,
            sq_norms, self.where()["norms_at"], self.model, unsure, int(same), int(mirrored),
            KIND=KERNEL_FUNCTIONS[self.kernel].code, **product_options(self.raw, stages_on(self.device)),
        )  # fmt: skip
        return unsure

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


def split(rows: torch.Tensor, high: torch.Tensor, low: torch.Tensor) -> None:
    """float32 rows as a sum of two bfloat16 numbers each, to 2^-17 of the number."""
    high.copy_(rows)
    low.copy_(rows - high.float())


def side_of_tile() -> int:
    """Rows and columns of a tile: two float32 accumulators of 128 x 128 are what 8 warps have registers for."""
    return 64 if interpreted() else 128


def product_options(raw: bool, stages: int) -> dict[str, Any]:
    """Constants and options of a launch of `fill`."""
    return {
        "SPLIT": not raw,
        "CHUNK": CHUNKS[not raw],
        "STEP": STEPS[not raw],
        "SIDE": side_of_tile(),
        "WIDEN": interpreted(),
        "num_warps": 8,
        "num_stages": stages,
        **OPTIONS,
    }


def stages_for(capability: int) -> int:
    """Triton's `num_stages` of `fill`. A turn of its loop takes 64 KiB of shared memory; on 8.6, 8.9 and 12 a block has
    99: room for the one turn that 2 stages keep. With 3 they keep two, and three on 9.0.
    """
    return 2 if capability in (86, 89) or capability >= 120 else 3


def stages_on(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    major, minor = torch.cuda.get_device_capability(device)
    return stages_for(10 * major + minor)


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


def step_of_rows(dtype: torch.dtype) -> int:
    """What the numbers from row to row of the features are a multiple of."""
    return CHUNKS[False] if dtype in HALVES else 16 // dtype.itemsize


def aligned(matrix: torch.Tensor, step: int) -> torch.Tensor:
    """The matrix, or a copy with zeros behind each row: rows a multiple of `step` numbers apart, from 16 bytes on."""
    n, d = matrix.shape
    if matrix.stride() == (d, 1) and d % step == 0 and matrix.data_ptr() % 16 == 0:
        return matrix
    apart = torch.zeros(n, padded(d, step), dtype=matrix.dtype, device=matrix.device)
    apart[:, :d] = matrix
    return apart[:, :d]


def copy_bytes(p: Problem) -> int:
    """Of the features with rows as the kernels read them, where they are not so."""
    (n, d), step = p.features.shape, step_of_rows(p.features.dtype)
    return 0 if p.features.is_contiguous() and d % step == 0 else n * padded(d, step) * p.features.element_size()


def operand_bytes(p: Problem) -> int:
    """The most that `GpuOperands` holds beyond the features."""
    n, d = p.features.shape
    return copy_bytes(p) + 4 * n * padded(d, CHUNKS[True]) + 3 * 8 * ROWS * d + 32 * n


def label_bytes(p: Problem, tuning: GpuTuning) -> int:
    """Bytes held while labeled rows are covered."""
    if p.labeled is None:
        return 0
    count, d = p.labeled.shape
    return count * (12 * padded(d, CHUNKS[False]) + 24) + 4 * tuning.rows_at_once * min(tuning.labels_at_once, count)
