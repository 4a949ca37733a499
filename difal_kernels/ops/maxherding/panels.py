"""Features on their way into a GEMM: float32, centred, in units of the bandwidth; and the error bound that follows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..._native import load
from ..._workers import Workers
from .kernels import sample_rows
from .problem import Problem

ROWS = 1024  # most rows of features per GEMM
NUMBERS = 1 << 22  # and most numbers, 16 MiB of float32
UNIT = 2.0**-24  # float32's unit roundoff
CENTRED = 256  # rows whose mean is taken for the pool's
TOLERANCE = 2.0**-10  # worst relative error of a kernel value that is left to an estimate


class Panels:
    """Slices of the pool as float32 rows `a` whose inner products give kernel values; see docs/exactness.md.

    Args:
        p: the problem.
        heights: how many rows each of the slices has at most that are wanted at a time.
        workers: who makes the first pass over the rows, with a slice for each; the caller alone by default.

    Attributes:
        features: contiguous float32 or float64 with the problem's values: the input itself where it is that already.
        scale: (N,) float32, the squared norms s_i of the rows a; zeros for cosine, whose bound is absolute.
        heights: as given.
        error: lambda_, relative, absolute and tolerance of csrc's ErrorModel.
    """

    def __init__(self, p: Problem, heights: Sequence[int], workers: Workers | None = None):
        n, d = p.features.shape
        self.features, self.heights = native(p.features), tuple(heights)
        self.bandwidth = 1.0 if p.kernel == "cosine" else p.bandwidth
        self.center = None
        if p.kernel != "cosine":
            some = self.features[sample_rows(n, CENTRED)]  # any point will do: how near tells how small the bound is
            self.center = some.mean(0, dtype=torch.float64).to(self.features.dtype)
        self.scale = torch.empty(n, dtype=torch.float32)
        # Made once: fresh pages for every panel would cost more than its arithmetic.
        self._buffers = [torch.empty(height, d, dtype=torch.float32) for height in heights]

        def measure(block: tuple[int, int], slot: int) -> None:
            b, e = block
            self.rows_into(self.features[b:e], self._buffers[slot], self.scale[b:e])

        (workers or Workers(1)).run(measure, cut(n, min(heights)))
        growth = d * UNIT / (1 - d * UNIT)
        self.error = {
            "lambda_": 0.0 if self.center is None else 1.01 * (growth + 20 * UNIT),
            "relative": 0.0 if p.kernel == "tophat" else 8 * UNIT,
            "absolute": 1.01 * (growth + 8 * UNIT) if self.center is None else 0.0,
            "tolerance": TOLERANCE,
        }

    def block(self, begin: int, end: int, side: int = 0) -> torch.Tensor:
        """Some of the pool's rows as a GEMM wants them; valid until the next call for the same side."""
        return self.rows(self.features[begin:end], side)

    def rows(self, features: torch.Tensor, side: int = 0) -> torch.Tensor:
        """The same for any rows, contiguous and of the type of `features`."""
        out = self.prepared(features.shape[0], side)
        self.rows_into(features, out)
        return out

    def prepared(self, count: int, side: int) -> torch.Tensor:
        """What `block` or `rows` returned last for this side."""
        return self._buffers[side][:count]

    def rows_into(self, features: torch.Tensor, out: torch.Tensor, scale: torch.Tensor | None = None) -> None:
        """Any number of such rows as a GEMM wants them, into contiguous float32 `out`, and their s_i."""
        load("_cpu").prepare_rows(
            features.data_ptr(),
            features.dtype == torch.float64,
            *features.shape,
            0 if self.center is None else self.center.data_ptr(),
            self.bandwidth,
            out.data_ptr(),
            0 if scale is None else scale.data_ptr(),
        )


def cut(n: int, height: int) -> list[tuple[int, int]]:
    """(begin, end) of slices of `height` of n rows."""
    return [(begin, min(begin + height, n)) for begin in range(0, n, height)]


def rounds(count: int) -> Iterator[list[tuple[int, int]]]:
    """All pairs of `count` blocks, a block with itself first, in rounds in which no block comes twice.

    So the tiles of a round may run side by side, and each block meets the others in the same order on any machine.
    The rounds are those of a tournament, by the circle method.
    """
    yield [(i, i) for i in range(count)]
    players = count + count % 2
    for r in range(players - 1):
        pairs = [(r, players - 1)]
        pairs += [((r + k) % (players - 1), (r - k) % (players - 1)) for k in range(1, players // 2)]
        yield [(max(pair), min(pair)) for pair in pairs if max(pair) < count]


def panel_rows(n: int, d: int) -> int:
    """Rows per panel: two of them together stay within a twenty-fifth of an N x N matrix where N is large enough."""
    return min(n, max(64, min(ROWS, NUMBERS // d, n * n // (50 * d))))


def is_native(features: torch.Tensor) -> bool:
    return features.dtype in (torch.float32, torch.float64) and features.is_contiguous()


def native(features: torch.Tensor) -> torch.Tensor:
    return features.to(torch.float64 if features.dtype == torch.float64 else torch.float32).contiguous()


class _Precision:
    """How float32 products are made, which is a setting of the process."""

    lock = threading.Lock()
    inside = 0  # how many threads rely on full precision now
    before = ""  # what the process had set

    @staticmethod
    def swap(value: str) -> str:
        """Set it; what it was."""
        matmul = getattr(torch.backends.mkldnn, "matmul", None)
        if matmul is not None and hasattr(matmul, "fp32_precision"):  # torch 2.9 and later
            old, matmul.fp32_precision = matmul.fp32_precision, value
        else:
            old = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest" if value == "ieee" else value)
        return old


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products really in float32, whatever the process has allowed torch to do: the bound rests on it.

    Several threads may be inside at a time; the last to leave puts the process's setting back.
    """
    with _Precision.lock:
        if _Precision.inside == 0:
            _Precision.before = _Precision.swap("ieee")
        _Precision.inside += 1
    try:
        yield
    finally:
        with _Precision.lock:
            _Precision.inside -= 1
            if _Precision.inside == 0:
                _Precision.swap(_Precision.before)
