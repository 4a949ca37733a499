"""The stored kernel matrix on the CPU, in 16 bits or float32, and the greedy loop on it (csrc/cpu/greedy.cpp)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from difal_kernels._memory import large_empty
from difal_kernels._precision import full_precision
from difal_kernels._progress import Progress
from difal_kernels._workers import Workers

from ...bounds import error_model, precomputed_model
from ...dense import columns, points_of_columns, symmetric
from ...problem import Problem
from .greedy import cover, make_native, next_picks
from .operands import GemmOperands, copy_bytes, cut, is_native
from .products import BLOCK, Float32Products, Int16Products
from .tuning import CpuTuning


def workspace_bytes(p: Problem, threads: int, tuning: CpuTuning) -> int:
    """Bytes used beyond the features: the kernel matrix, slices, copies that the dtype or strides ask for."""
    n, d = p.row_count, p.features.shape[1]
    width = columns(p)
    if p.kernel == "precomputed":
        in_place = p.features.dtype == torch.float32 and p.features.stride(1) == 1
        own = 0 if in_place and width == n else 4 * n * width
        return own + (0 if in_place or is_native(p.features) else 8 * n * n) + 64 * (n + width)
    rows, side = slice_heights(n, d, tuning)
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), rows) * n
    slices = threads * 4 * ((rows + side) * d + _tile_numbers(rows, side, tuning))
    gathered = 0 if width == n else threads * p.features.dtype.itemsize * side * d
    kept = _kept_bytes(p, tuning)
    return matrix_bytes(p, tuning) + copy_bytes(p.features) + labels + slices + gathered + kept + 64 * (n + width)


def entry_dtype(p: Problem, tuning: CpuTuning) -> torch.dtype:
    """What an entry is stored in: int16 (its bits are csrc's uint16) where the matrix is large and that tells enough.

    Rounded to 16 bits, entries that are mostly near 0, or mostly near 1, would leave many candidates to float64.
    """
    if p.kernel == "precomputed" or p.row_count * columns(p) < tuning.int16_min_entries:
        return torch.float32
    least, most = tuning.int16_mean_kernel
    return torch.int16 if p.kernel == "tophat" or least <= p.mean_similarity <= most else torch.float32


def matrix_bytes(p: Problem, tuning: CpuTuning) -> int:
    """Of the matrix that is made from features."""
    return 0 if p.kernel == "precomputed" else entry_dtype(p, tuning).itemsize * p.row_count * columns(p)


def slice_heights(n: int, d: int, tuning: CpuTuning) -> tuple[int, int]:
    """Rows that each worker has prepared at a time, and columns: little beside the matrix, unless D is above N."""
    least, largest = tuning.panel_rows
    most = max(64, tuning.panel_numbers // d)
    heights = min(most, max(least, min(largest, n // 8))), min(most, max(least, min(tuning.tile_columns, n // 16)))
    rows, side = (min(n, -(-height // BLOCK) * BLOCK) for height in heights)  # slices begin where blocks do
    return rows, side


def _tile_numbers(rows: int, side: int, tuning: CpuTuning) -> int:
    """In the largest tile that is made at once, beside the diagonal or on it."""
    return max(min(Float32Products.tile, rows) * side, min(tuning.diagonal_rows, rows) * rows)


def _kept_bytes(p: Problem, tuning: CpuTuning) -> int:
    """For the whole pool as integers, where that is little beside the matrix."""
    if not tuning.integers_are_faster():
        return 0
    size = Int16Products.nbytes(*p.features.shape)
    return size if 33 * size <= matrix_bytes(p, tuning) else 0


class CpuDenseGreedy:
    """One problem; it is its own `KernelMatrix`, too, which labeled rows may raise at any time."""

    def __init__(self, p: Problem, tuning: CpuTuning, threads: int, storage: torch.Tensor | None):
        self.p, self.tuning, self.threads, self.storage = p, tuning, threads, storage
        self.workers = Workers(1)
        self.native: Any = None
        self.operands: GemmOperands | None = None

    @contextmanager
    def matrix(self, b: int) -> Iterator[CpuDenseGreedy]:
        p = self.p
        with Workers(self.threads) as self.workers:
            if p.kernel == "precomputed":
                self._use_given()
            else:
                heights = slice_heights(p.row_count, p.features.shape[1], self.tuning) * self.threads
                kept = _kept_bytes(p, self.tuning)
                self.operands = GemmOperands(p, heights, self.workers, kept, self.tuning)
                self._allocate(self.operands)
            yield self
        self.workers = Workers(1)

    def _use_given(self) -> None:
        """Take the kernel itself: in place where it is float32 with contiguous rows, else copied once."""
        p = self.p
        exact = p.features if p.features.dtype == torch.float64 else p.features.float()
        exact = exact if exact.stride(1) == 1 else exact.contiguous()
        matrix = (exact if p.candidates is None else exact[:, p.candidates]).float()
        error = precomputed_model(exact.dtype, self.tuning.roundings)
        sq_norms = torch.zeros(len(exact), dtype=torch.float32)
        self.native, self.keep = make_native("DenseGreedy", p, exact, sq_norms, error, self.threads, matrix, False)

    def _allocate(self, operands: GemmOperands) -> None:
        p, n, width, dtype = self.p, self.p.row_count, columns(self.p), entry_dtype(self.p, self.tuning)
        if self.storage is None:
            storage = large_empty(n * width, dtype)
        else:
            storage = self.storage[: matrix_bytes(p, self.tuning)].view(dtype)
        error = error_model(p.kernel, operands.products.rel_err, dtype == torch.int16, self.tuning.roundings)
        self.native, self.keep = make_native(
            "DenseGreedy",
            p,
            operands.features,
            operands.sq_norms,
            error,
            self.threads,
            storage.view(n, width),
            symmetric(p),
        )

    @property
    def labels_at_once(self) -> int:
        return self.operands.heights[0]

    def cover(self, rows: torch.Tensor) -> None:
        cover(self.native, self.operands, rows, self.workers)

    def cover_with(self, coverage: torch.Tensor) -> None:
        self.native.cover_with(coverage.data_ptr())

    def copy(self) -> None:
        """Nothing is left to do: see `_use_given`."""

    def fill(self) -> None:
        p, native, operands, workers, tuning = self.p, self.native, self.operands, self.workers, self.tuning
        square, index, products = symmetric(p), points_of_columns(p), operands.products
        n, width = p.row_count, columns(p)
        height, side = operands.heights[:2]
        # Products become kernel values here, in cache.
        numbers = _tile_numbers(height, side, tuning)
        tiles = [torch.empty(numbers, dtype=torch.float32) for _ in range(workers.count)]

        def make(rows: tuple[int, int], columns: tuple[int, int], upper, lower, slot: int) -> None:
            shape = rows[1] - rows[0], columns[1] - columns[0]
            tile = tiles[slot][: shape[0] * shape[1]].view(shape)
            products.multiply(upper, lower, tile)
            native.fill(*rows, *columns, tile.data_ptr(), shape[1])

        def diagonal(b: int, e: int, own: torch.Tensor, slot: int) -> None:
            for begin in range(b, e, tuning.diagonal_rows):
                end = min(begin + tuning.diagonal_rows, e)
                upper, lower = products.part(own, begin - b, end - b), products.part(own, 0, end - b)
                make((begin, end), (b, end), upper, lower, slot)
                native.mirror(begin, end)

        held: list[tuple[int, int] | None] = [None] * workers.count  # whose rows each worker has from its last task

        def work(task: tuple[int, int, int, int], slot: int) -> None:
            b, e, first, last = task
            own = operands.prepared(2 * slot) if held[slot] == (b, e) else operands.covered_block(b, e, 2 * slot)
            held[slot] = b, e
            for c, stop in ((c, min(c + side, last)) for c in range(first, last, side)):
                if index is None:
                    other = operands.block(c, stop, 2 * slot + 1)
                else:
                    other = operands.rows(operands.features[index[c:stop]], 2 * slot + 1)
                for begin, end in cut(e - b, products.tile):
                    make((b + begin, b + end), (c, stop), products.part(own, begin, end), other, slot)
            if square and last == b:
                diagonal(b, e, own, slot)

        tasks = []
        for b, e in reversed(cut(n, height)):  # the long ones first
            last, step = b if square else width, tuning.task_columns
            tasks += [(b, e, first, min(first + step, last)) for first in range(0, max(last, 1), step)]
        with full_precision():
            workers.run(work, tasks)

    def start(self) -> None:
        self.native.start()

    def select(self, counts: Sequence[int], bar: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
        (count,) = counts
        return [next_picks(self.native, count, bar)]

    def covered(self, b: int) -> float:
        return self.native.covered()

    def contested(self, b: int) -> int:
        return self.native.stats()["contested"]
