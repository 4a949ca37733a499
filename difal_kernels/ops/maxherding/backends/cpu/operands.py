"""Features on their way into products of all pairs: slices of them, how they are multiplied, and the error bound."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from difal_kernels._native import load
from difal_kernels._precision import full_precision
from difal_kernels._workers import Workers

from ...bandwidth import sample_rows
from ...bounds import error_model
from ...kernel_functions import KERNEL_FUNCTIONS
from ...problem import Problem
from .products import BLOCK, Float32Products, Frame, Int16Products, Products
from .tuning import CpuTuning

CENTRED = 256  # rows whose mean is taken for the pool's
CENTRED_NUMBERS = 1 << 20  # fewer of many features, so that copies of them are small beside the slices
PASS_ROWS = 1024  # that a thread takes at a time in a pass over the pool


class GemmOperands:
    """Slices of the pool as rows `a` whose inner products give kernel values; see docs/exactness.md.

    Args:
        p: the problem.
        heights: how many rows each of the slices has at most that are wanted at a time.
        workers: who makes the first pass over the rows; the caller alone by default.
        keep: bytes for the whole pool, prepared, so that no row is prepared twice; used if they are enough.
        tuning: see `CpuTuning`.
        order: (N,) int64, the point at each position, where positions are not points. Slices are of positions then.

    Attributes:
        features: contiguous, the problem's values in their dtype: the input itself where it is contiguous.
        sq_norms: (N,) float32, s_i = |a_i|^2, by position; zeros for cosine, whose bound is absolute.
        heights: as given.
        products: what multiplies the rows: `multiply`, `part` and `empty` are for its callers.
        error: the bounds.ErrorModel of kernel values made from them.
    """

    def __init__(
        self,
        p: Problem,
        heights: Sequence[int],
        workers: Workers | None = None,
        keep: int = 0,
        tuning: CpuTuning | None = None,
        order: torch.Tensor | None = None,
    ):
        n, d = p.features.shape
        self.order = order
        self.tuning = tuning or CpuTuning()
        self.features, self.heights = p.features.contiguous(), tuple(heights)
        some = self.features[sample_rows(n, min(CENTRED, max(2 * BLOCK, CENTRED_NUMBERS // d)))]
        center = None
        if p.kernel != "cosine":  # any point will do: how near tells how small the bound is
            center = sum(part.sum(0, dtype=torch.float64) for part in some.split(BLOCK)) / len(some)
            center = center if self.features.dtype == torch.float64 else center.float()
        self.covered = p.rows
        self.frame = Frame(center, 1.0 if p.kernel == "cosine" else p.bandwidth)
        self.sq_norms = torch.empty(n, dtype=torch.float32)
        workers = workers or Workers(1)
        integers = self._integers(p, some, workers)
        del some  # of many features they take as much as a slice
        self.products: Products = integers or Float32Products(self.frame, d, self.tuning.roundings)
        # Made once: fresh pages for every slice would cost more than its arithmetic.
        self._buffers = [self.products.empty(height) for height in heights]
        self._ready = list(self._buffers)
        if integers is None:
            workers.run(self._measure, cut(n, min(heights)))
        self._kept: torch.Tensor | None = None
        if self.products.nbytes(n, d) <= keep:
            self._kept = self.products.empty(n)
            workers.run(self._keep, cut(n, PASS_ROWS))
        self.error = error_model(p.kernel, self.products.rel_err, r=self.tuning.roundings)

    def take(self, begin: int, end: int) -> torch.Tensor:
        """Features of the points at some positions, as they are."""
        return self.features[slice(begin, end) if self.order is None else self.order[begin:end]]

    def take_covered(self, begin: int, end: int) -> torch.Tensor:
        """The same of the rows that are covered."""
        return self.take(begin, end) if self.covered is None else self.features[self.covered[begin:end]]

    def at(self, positions: torch.Tensor) -> torch.Tensor:
        """Features of the points at these positions."""
        return self.features[positions if self.order is None else self.order[positions]]

    def block(self, begin: int, end: int, side: int = 0) -> torch.Tensor:
        """Prepare some of the pool's rows; valid until the next call for the same side."""
        if self._kept is not None and begin % BLOCK == 0:
            self._ready[side] = self.products.part(self._kept, begin, end)
            return self._ready[side]
        return self.rows(self.take(begin, end), side)

    def rows(self, features: torch.Tensor, side: int = 0) -> torch.Tensor:
        """The same for any of the pool's rows, contiguous and of the type of `features`."""
        self._ready[side] = self.products.prepare(features, self._buffers[side])
        return self._ready[side]

    def covered_block(self, begin: int, end: int, side: int = 0) -> torch.Tensor:
        """The same for some of the rows that are covered."""
        if self.covered is None:
            return self.block(begin, end, side)
        return self.rows(self.take_covered(begin, end), side)

    def covered_for(self, products: Products, begin: int, end: int, side: int = 0) -> torch.Tensor:
        """The same for what `products_with` returned, whichever it is."""
        if products is self.products:
            return self.covered_block(begin, end, side)
        return products.prepare(self.take_covered(begin, end), products.empty(end - begin))

    def prepared(self, side: int) -> torch.Tensor:
        """What `block` or `rows` returned last for this side."""
        return self._ready[side]

    def products_with(self, others: torch.Tensor) -> Products:
        """What multiplies the pool's rows with rows that are not of the pool, no less surely than `error` says."""
        if isinstance(self.products, Int16Products):
            if Int16Products.rounding_of(self.frame, others) <= self.products.rounding:
                return self.products
            return Float32Products(self.frame, others.shape[1], self.tuning.roundings)
        return self.products

    def kept_bytes(self) -> int:
        """Of the whole pool, prepared."""
        return 0 if self._kept is None else self._kept.nbytes

    def keep_no_more(self) -> None:
        """Let the prepared pool go."""
        self._kept = None

    def _measure(self, block: tuple[int, int], slot: int) -> None:
        b, e = block
        self.products.prepare(self.take(b, e), self._buffers[slot], self.sq_norms[b:e])

    def _keep(self, block: tuple[int, int], slot: int) -> None:
        self.products.prepare(self.take(*block), self.products.part(self._kept, *block))

    def _integers(self, p: Problem, some: torch.Tensor, workers: Workers) -> Int16Products | None:
        """Products of integers, with `sq_norms` filled, where they are faster and give as many entries of use."""
        n, d = self.features.shape
        rules = self.tuning
        if d < rules.integers_min_features or n * n * d < rules.integers_min_multiplications:
            return None
        if not rules.integers_are_faster():
            return None
        moved = [0.0] * workers.count

        def measure(block: tuple[int, int], slot: int) -> None:
            b, e = block
            moved[slot] = max(moved[slot], Int16Products.rounding_of(self.frame, self.take(b, e), self.sq_norms[b:e]))

        workers.run(measure, cut(n, PASS_ROWS))
        if not max(moved) < 0.25:
            return None
        candidate = Int16Products(self.frame, d, max(moved), rules.roundings)
        plain = Float32Products(self.frame, d, rules.roundings)
        candidate.rel_err = max(candidate.rel_err, plain.rel_err)  # for `products_with`
        some = torch.cat([some[0::2], some[1::2]])  # half against half, whatever the order of the pool
        half = len(some) // 2
        sq_norms, gram = torch.empty(len(some), dtype=torch.float32), torch.empty(half, half, dtype=torch.float32)
        rows = plain.prepare(some, plain.empty(len(some)), sq_norms)
        with full_precision():
            plain.multiply(rows[:half], rows[half : 2 * half], gram)

        def uncertain(rel_err: float) -> int:
            copy = gram.clone()
            return load("_cpu").count_uncertain(
                KERNEL_FUNCTIONS[p.kernel].code,
                copy.data_ptr(),
                *copy.shape,
                sq_norms.data_ptr(),
                sq_norms[half:].data_ptr(),
                **error_model(p.kernel, rel_err, r=rules.roundings).native(),
            )

        more = uncertain(candidate.rel_err) - uncertain(plain.rel_err)
        return candidate if more <= rules.integers_max_uncertain * gram.numel() else None


def cut(n: int, height: int) -> list[tuple[int, int]]:
    """Cut n rows into slices [begin, end) of `height`."""
    return [(begin, min(begin + height, n)) for begin in range(0, n, height)]


def is_native(features: torch.Tensor) -> bool:
    return features.dtype in (torch.float32, torch.float64) and features.is_contiguous()


def native(features: torch.Tensor) -> torch.Tensor:
    """The values as contiguous float64 where they are that, else float32."""
    return features.to(torch.float64 if features.dtype == torch.float64 else torch.float32).contiguous()


def copy_bytes(features: torch.Tensor) -> int:
    """Of the copy that strides ask for; contiguous features are used where they are, whatever their dtype."""
    return 0 if features.is_contiguous() else features.numel() * features.dtype.itemsize
