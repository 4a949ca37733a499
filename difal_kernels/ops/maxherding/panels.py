"""Features on their way into a GEMM: float32, centred, in units of the bandwidth; and the error bound that follows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..._workers import Workers
from .kernels import sample_rows
from .problem import Problem

ROWS = 1024  # most rows of features per GEMM
NUMBERS = 1 << 22  # and most numbers, 16 MiB of float32
UNIT = 2.0**-24  # float32's unit roundoff
CENTRED = 2048  # rows whose mean is taken for the pool's
TOLERANCE = 2.0**-10  # worst relative error of a kernel value that is left to an estimate


class Panels:
    """Slices of the pool as float32 rows `a` whose inner products give kernel values; see docs/exactness.md.

    Args:
        p: the problem.
        sides: how many slices are wanted at a time.
        height: most rows of a slice.
        keep: make all rows once, by these workers, and keep them; else each slice is made when it is wanted.

    Attributes:
        features: contiguous float32 or float64 with the problem's values: the input itself where it is that already.
        scale: (N,) float32, the squared norms s_i of the rows a.
        height: most rows of a block.
        blocks: (begin, end) of slices of `height` rows.
        error: lambda_, relative, absolute and tolerance of csrc's ErrorModel.
    """

    def __init__(self, p: Problem, sides: int = 2, height: int | None = None, keep: Workers | None = None):
        n, d = p.features.shape
        self.features = native(p.features)
        self.cosine, self.bandwidth = p.kernel == "cosine", p.bandwidth
        self.center = None
        if not self.cosine:
            some = self.features[sample_rows(n, CENTRED)]  # any point will do: how near tells how small the bound is
            self.center = some.mean(0, dtype=torch.float64).to(self.features.dtype)
        self.height = height or panel_rows(n, d, sides)
        self.blocks = [(begin, min(begin + self.height, n)) for begin in range(0, n, self.height)]
        self.scale = torch.empty(n, dtype=torch.float32)
        self._kept = None if keep is None else torch.empty(n, d, dtype=torch.float32)
        # Made once: fresh pages for every panel would cost more than its arithmetic.
        self._buffers = torch.empty(sides if keep is None else 0, self.height, d, dtype=torch.float32)

        def prepare(block: tuple[int, int], slot: int) -> None:
            b, e = block
            out = self._buffers[slot, : e - b] if self._kept is None else self._kept[b:e]
            self.scale[b:e] = self.scales(self.rows_into(self.features[b:e], out))

        (keep or Workers(1)).run(prepare, self.blocks)
        growth = d * UNIT / (1 - d * UNIT)
        self.error = {
            "lambda_": 0.0 if self.cosine else 1.01 * (growth + 20 * UNIT),
            "relative": 0.0 if p.kernel == "tophat" else 8 * UNIT,
            "absolute": 1.01 * (growth + 8 * UNIT) if self.cosine else 0.0,
            "tolerance": TOLERANCE,
        }

    def block(self, begin: int, end: int, side: int = 0) -> torch.Tensor:
        """At most `height` of the pool's rows as a GEMM wants them; valid until the next call for the same side."""
        return self._kept[begin:end] if self._kept is not None else self.rows(self.features[begin:end], side)

    def take(self, index: torch.Tensor, side: int = 0) -> torch.Tensor:
        """The same for the pool's rows of these indices."""
        return self._kept[index] if self._kept is not None else self.rows(self.features[index], side)

    def rows(self, features: torch.Tensor, side: int = 0) -> torch.Tensor:
        """The same for any features."""
        if self._kept is not None:
            return self.rows_into(features, torch.empty(len(features), features.shape[1], dtype=torch.float32))
        return self.rows_into(features, self._buffers[side, : len(features)])

    def rows_into(self, features: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Any number of rows as a GEMM wants them, into float32 `out`."""
        if self.cosine:
            return torch.div(features, features.double().norm(dim=1, keepdim=True).clamp_(min=1e-300), out=out)
        if not 1e-37 < self.bandwidth < 1e37:  # float32 has no 1 / h of full precision
            return out.copy_((features.double() - self.center).div_(self.bandwidth))
        return torch.sub(features, self.center, out=out).mul_(1 / self.bandwidth)

    def scales(self, rows: torch.Tensor) -> torch.Tensor:
        """Squared norms of rows; zeros for cosine, whose bound is absolute."""
        if self.cosine:
            return torch.zeros(len(rows), dtype=torch.float32)
        return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().float()


def panel_rows(n: int, d: int, sides: int = 2) -> int:
    """Rows per panel: all buffers together stay within a twenty-fifth of an N x N matrix where N is large enough."""
    return min(n, max(64, min(ROWS, NUMBERS // d, n * n // (25 * sides * d))))


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
