"""Inner products of rows of features on the CPU: by torch's float32 GEMM, or in 16-bit integers where that is faster.

Both prepare rows first, centred and in units of the bandwidth, and tell how far a product may be from the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from difal_kernels._native import load

from ...bounds import ROUNDINGS, Roundings, gemm_rel_err, int16_rel_err

WIDENED = 1 << 18  # numbers that are widened to float32 at a time, 1 MiB
BLOCK = 16  # rows that are stored together; kInt16Rows of csrc


class Frame(NamedTuple):
    """Where rows are seen from: (x - center) / bandwidth, or x / |x| without a center."""

    center: torch.Tensor | None
    bandwidth: float


class Float32Products:
    """Rows as they are, multiplied by torch; call `multiply` inside `full_precision`.

    Attributes:
        rel_err: a product of rows a and b is wrong by no more than rel_err |a| |b|.
        rounding: how far rows are moved before they are multiplied, relative to their norms.
        tile: most rows and columns that are best made by one call.
    """

    tile = 512
    rounding = 0.0

    def __init__(self, frame: Frame, dimension: int, roundings: Roundings = ROUNDINGS):
        self.frame, self.dimension = frame, dimension
        self.rel_err = gemm_rel_err(dimension, roundings)

    def empty(self, rows: int) -> torch.Tensor:
        """Room for that many rows."""
        return torch.empty(rows, self.dimension, dtype=torch.float32)

    @staticmethod
    def nbytes(rows: int, dimension: int) -> int:
        """Bytes of that room."""
        return 4 * rows * dimension

    def prepare(self, features: torch.Tensor, out: torch.Tensor, sq_norms: torch.Tensor | None = None) -> torch.Tensor:
        """Write contiguous rows of features into `out`, and their squared norms; what was written of `out`."""
        out = out[: len(features)]
        for begin, rows in widened(features):
            load("_cpu").prepare_rows(
                *_job(self.frame, rows),
                out[begin:].data_ptr(),
                _address(None if sq_norms is None else sq_norms[begin:]),
            )
        return out

    def part(self, rows: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """Take some of the rows that were prepared; `begin` is a multiple of 16."""
        return rows[begin:end]

    def multiply(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        """Make all products of rows a with rows b, (len(a), len(b)) float32 with contiguous rows."""
        torch.mm(a, b.T, out=out)


class Int16Products:
    """Rows rounded to multiples of a step of their own; see csrc/include/difal/int16_rows.h. The same interface.

    Args:
        frame: as for the other.
        dimension: D.
        rounding: the most that rounding moves any of the rows that will be multiplied, relative to its norm; see
            `rounding_of`.
    """

    tile = 128

    def __init__(self, frame: Frame, dimension: int, rounding: float, roundings: Roundings = ROUNDINGS):
        self.frame, self.dimension, self.rounding = frame, dimension, rounding
        self.rel_err = int16_rel_err(load("_cpu").int16_roundings(dimension), rounding, roundings)

    @staticmethod
    def rounding_of(frame: Frame, features: torch.Tensor, sq_norms: torch.Tensor | None = None) -> float:
        """How far these rows are moved; their squared norms are written as by `prepare`."""
        found = (
            load("_cpu").int16_rounding(*_job(frame, rows), _address(None if sq_norms is None else sq_norms[begin:]))
            for begin, rows in widened(features)
        )
        return max(found, default=0.0)

    def empty(self, rows: int) -> torch.Tensor:
        return torch.empty(-(-rows // BLOCK), load("_cpu").int16_block_size(self.dimension), dtype=torch.int32)

    @staticmethod
    def nbytes(rows: int, dimension: int) -> int:
        return 4 * -(-rows // BLOCK) * load("_cpu").int16_block_size(dimension)

    def prepare(self, features: torch.Tensor, out: torch.Tensor, sq_norms: torch.Tensor | None = None) -> torch.Tensor:
        out = out[: -(-len(features) // BLOCK)]
        for begin, rows in widened(features):
            load("_cpu").prepare_int16_rows(
                *_job(self.frame, rows),
                out[begin // BLOCK :].data_ptr(),
                _address(None if sq_norms is None else sq_norms[begin:]),
            )
        return out

    def part(self, rows: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        if begin % BLOCK:
            raise ValueError(f"`begin` must be a multiple of {BLOCK}, got {begin}")
        return rows[begin // BLOCK : -(-end // BLOCK)]

    def multiply(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        (rows, columns), stride = out.shape, out.stride(0)
        load("_cpu").multiply_int16_rows(
            a.data_ptr(), rows, b.data_ptr(), columns, self.dimension, out.data_ptr(), stride
        )


Products = Float32Products | Int16Products


def widened(features: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Rows as float64 or float32, with the number of the first: all where they are that, else a few at a time."""
    if features.dtype in (torch.float64, torch.float32):
        yield 0, features
        return
    height = max(1, WIDENED // features.shape[1] // BLOCK) * BLOCK
    for begin in range(0, len(features), height):
        yield begin, features[begin : begin + height].float()


def _job(frame: Frame, features: torch.Tensor) -> tuple:
    return (
        features.data_ptr(),
        features.dtype == torch.float64,
        *features.shape,
        _address(frame.center),
        frame.bandwidth,
    )


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
