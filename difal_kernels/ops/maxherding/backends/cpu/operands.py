"""Features on their way into products of all pairs: slices of them, how they are multiplied, and the error bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from difal_kernels._native import load
from difal_kernels._workers import Workers

from ...kernel_functions import KERNELS, sample_rows
from ...problem import Problem
from . import products
from .products import BLOCK, UNIT, Float32Products, Frame, Int16Products, Products

ROWS = 1024  # most rows of features per GEMM
NUMBERS = 1 << 22  # and most numbers, 16 MiB of float32
CENTRED = 256  # rows whose mean is taken for the pool's
TOLERANCE = 2.0**-10  # worst relative error of a kernel value that is left to an estimate
WIDE = 64  # features that are worth rounding to integers
MANY = 1 << 26  # and multiply-adds of their products
DOUBTFUL = 1e-3  # share of entries that may be computed in float64 for the sake of faster products


class Panels:
    """Slices of the pool as rows `a` whose inner products give kernel values; see docs/exactness.md.

    Args:
        p: the problem.
        heights: how many rows each of the slices has at most that are wanted at a time.
        workers: who makes the first pass over the rows; the caller alone by default.
        keep: bytes for the whole pool, prepared, so that no row is prepared twice; used if they are enough.

    Attributes:
        features: contiguous float32 or float64 with the problem's values: the input itself where it is that already.
        scale: (N,) float32, the squared norms s_i of the rows a; zeros for cosine, whose bound is absolute.
        heights: as given.
        products: what multiplies the rows: `multiply`, `part` and `empty` are for its callers.
        error: lambda_, relative, absolute and tolerance of csrc's ErrorModel.
    """

    def __init__(self, p: Problem, heights: Sequence[int], workers: Workers | None = None, keep: int = 0):
        n, d = p.features.shape
        self.features, self.heights = native(p.features), tuple(heights)
        some = self.features[sample_rows(n, CENTRED)]
        center = None
        if p.kernel != "cosine":  # any point will do: how near tells how small the bound is
            center = some.mean(0, dtype=torch.float64).to(self.features.dtype)
        self.frame = Frame(center, 1.0 if p.kernel == "cosine" else p.bandwidth)
        self.scale = torch.empty(n, dtype=torch.float32)
        workers = workers or Workers(1)
        self.products = self._integers(p, some, workers)
        if self.products is None:
            self.products = Float32Products(self.frame, d)
        # Made once: fresh pages for every panel would cost more than its arithmetic.
        self._buffers = [self.products.empty(height) for height in heights]
        self._ready = list(self._buffers)
        if isinstance(self.products, Float32Products):
            workers.run(self._measure, cut(n, min(heights)))
        self._kept: torch.Tensor | None = None
        if self.products.nbytes(n, d) <= keep:
            self._kept = self.products.empty(n)
            workers.run(self._keep, cut(n, ROWS))
        self.error = error_model(p.kernel, self.products.growth)

    def block(self, begin: int, end: int, side: int = 0) -> torch.Tensor:
        """Some of the pool's rows, prepared; valid until the next call for the same side."""
        if self._kept is not None and begin % BLOCK == 0:
            self._ready[side] = self.products.part(self._kept, begin, end)
            return self._ready[side]
        return self.rows(self.features[begin:end], side)

    def rows(self, features: torch.Tensor, side: int = 0) -> torch.Tensor:
        """The same for any of the pool's rows, contiguous and of the type of `features`."""
        self._ready[side] = self.products.prepare(features, self._buffers[side])
        return self._ready[side]

    def prepared(self, side: int) -> torch.Tensor:
        """What `block` or `rows` returned last for this side."""
        return self._ready[side]

    def products_with(self, others: torch.Tensor) -> Products:
        """What multiplies the pool's rows with rows that are not of the pool, no less surely than `error` says."""
        if isinstance(self.products, Int16Products):
            if Int16Products.rounding(self.frame, others) <= self.products.error:
                return self.products
            return Float32Products(self.frame, others.shape[1])
        return self.products

    def kept_bytes(self) -> int:
        """Of the whole pool, prepared."""
        return 0 if self._kept is None else self._kept.nbytes

    def keep_no_more(self) -> None:
        """Let the prepared pool go."""
        self._kept = None

    def _measure(self, block: tuple[int, int], slot: int) -> None:
        b, e = block
        self.products.prepare(self.features[b:e], self._buffers[slot], self.scale[b:e])

    def _keep(self, block: tuple[int, int], slot: int) -> None:
        self.products.prepare(self.features[slice(*block)], self.products.part(self._kept, *block))

    def _integers(self, p: Problem, some: torch.Tensor, workers: Workers) -> Int16Products | None:
        """Products of integers, with `scale` filled, where they are faster and give as many entries of use."""
        n, d = self.features.shape
        if d < WIDE or n * n * d < MANY or not products.integers_are_faster():
            return None
        errors = [0.0] * workers.count

        def measure(block: tuple[int, int], slot: int) -> None:
            b, e = block
            error = Int16Products.rounding(self.frame, self.features[b:e], self.scale[b:e])
            errors[slot] = max(errors[slot], error)

        workers.run(measure, cut(n, ROWS))
        error = max(errors)
        if not error < 0.25:
            return None
        candidate, plain = Int16Products(self.frame, d, error), Float32Products(self.frame, d)
        candidate.growth = max(candidate.growth, plain.growth)  # for `products_with`
        some = torch.cat([some[0::2], some[1::2]])  # half against half, whatever the order of the pool
        half = len(some) // 2
        scale, gram = torch.empty(len(some), dtype=torch.float32), torch.empty(half, half, dtype=torch.float32)
        rows = plain.prepare(some, plain.empty(len(some)), scale)
        with full_precision():
            plain.multiply(rows[:half], rows[half : 2 * half], gram)

        def doubtful(growth: float) -> int:
            copy = gram.clone()
            return load("_cpu").count_uncertain(
                KERNELS.index(p.kernel),
                copy.data_ptr(),
                *copy.shape,
                scale.data_ptr(),
                scale[half:].data_ptr(),
                **error_model(p.kernel, growth),
            )

        more = doubtful(candidate.growth) - doubtful(plain.growth)
        return candidate if more <= DOUBTFUL * gram.numel() else None


def error_model(kernel: str, growth: float) -> dict[str, float]:
    """Of csrc's ErrorModel, where products of rows a and b are wrong by at most growth |a| |b|."""
    cosine = kernel == "cosine"
    return {
        "lambda_": 0.0 if cosine else 1.01 * (growth + 20 * UNIT),
        "relative": 0.0 if kernel == "tophat" else 8 * UNIT,
        "absolute": 1.01 * (growth + 8 * UNIT) if cosine else 0.0,
        "tolerance": TOLERANCE,
    }


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
