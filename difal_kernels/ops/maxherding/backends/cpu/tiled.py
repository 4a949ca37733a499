"""Tiles of the kernel on the CPU, made by threads side by side, and what csrc/cpu/sweep.cpp does with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from difal_kernels._precision import full_precision
from difal_kernels._progress import Progress
from difal_kernels._workers import Workers

from ...bounds import column_entry_error, float64_drift
from ...primitives import Guessing
from ...problem import Problem
from .greedy import cover, in_chunks, make_native
from .operands import GemmOperands, copy_bytes, cut
from .tuning import CpuTuning

RETAKEN = 256  # TiledGreedy::kBatch: rows whose coverage a correction changes, taken anew together
PREPARED = 8 * RETAKEN  # and those whose kernel rows are prepared together
BYTES_PER_ENTRY = 9  # 8, and the rest of its block
TERMS = 16  # float32 numbers that csrc sums before they go to a float64 sum


def workspace_bytes(p: Problem, guessing: Guessing, tuning: CpuTuning) -> int:
    """The least that the path can work with, on however many threads: linear in N."""
    return fixed_bytes(p, guessing, tuning) + len(p.features) * 128 * BYTES_PER_ENTRY


def tile_shape(n: int, tuning: CpuTuning) -> tuple[int, int]:
    """Points a tile's side has, and the distance of its rows: a multiple of 32, and no power of two for the cache."""
    size = min(tuning.tile_points, n)
    return size, -(-size // 32) * 32 + 16


def worker_bytes(p: Problem, tuning: CpuTuning) -> int:
    size, stride = tile_shape(len(p.features), tuning)
    return 2 * 4 * max(size, RETAKEN) * stride + 2 * 4 * size * p.features.shape[1]


def guess_bytes(n: int, guesses: int) -> int:
    """Coverage after each guess, what it took, and the events of all rows, thrice that of one guess after another."""
    return n * (guesses * (12 + 12 + 4) + int(3 * 20 * (2 + math.log(guesses + 1))))


def fixed_bytes(p: Problem, guessing: Guessing, tuning: CpuTuning) -> int:
    n, d = p.features.shape
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), tile_shape(n, tuning)[0]) * n
    return (
        copy_bytes(p.features)
        + labels
        + worker_bytes(p, tuning)
        + guess_bytes(n, guessing.max_guesses)
        + 4 * min(n, PREPARED) * d
        + 4 * guessing.settled_together * n
        + 200 * n
        + 8 * guessing.watched_points**2
    )


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


class CpuTiledGreedy:
    """See `primitives.TiledGreedy`."""

    gathers_some = True

    def __init__(self, p: Problem, guessing: Guessing, tuning: CpuTuning, limit: int, threads: int):
        self.p, self.n = p, len(p.features)
        size, self.stride = tile_shape(self.n, tuning)
        self.threads, self.open = threads, False
        spare = limit - fixed_bytes(p, guessing, tuning) - (threads - 1) * worker_bytes(p, tuning)
        with self.working():
            self.operands = GemmOperands(p, [size] * 2 * threads, self.workers, spare // 4, tuning)
        spare += guess_bytes(self.n, guessing.max_guesses) - self.operands.kept_bytes()
        self.multiply, self.part = self.operands.products.multiply, self.operands.products.part
        self.rows_rounding = self.operands.products.rounding
        self.size, self.blocks = size, cut(self.n, size)
        self.report: Callable[[float], None] = lambda share: None
        self.labels_at_once = size
        self.tiles = torch.empty(2 * threads, max(size, RETAKEN), self.stride, dtype=torch.float32)
        prepared = max(PREPARED, 2 * guessing.sample_rows, guessing.tried)
        self.own = self.operands.products.empty(min(self.n, prepared))
        # An entry may have come from one product as a row's and from another as a column's.
        error = self.operands.error.doubled()
        self.native, self.keep = make_native(
            "TiledGreedy", p, self.operands.features, self.operands.sq_norms, error, threads
        )
        self.entry_error = column_entry_error(error, p.kernel, self.operands.sq_norms, TERMS, tuning.roundings)
        self.spare = spare  # for guesses and alive entries
        self.max_guesses = guessing.max_guesses
        self.capacity = self.spare // BYTES_PER_ENTRY
        self.wanted: torch.Tensor | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        if self.open:
            yield
            return
        with Workers(self.threads) as self.workers:
            self.open = True
            try:
                yield
            finally:
                self.open = False
        self.workers = Workers(1)

    def cover(self, rows: torch.Tensor) -> None:
        cover(self.native, self.operands, rows, self.workers)

    def cover_with(self, coverage: torch.Tensor) -> None:
        raise NotImplementedError("a kernel that is given has a matrix")

    # Products of rows, made by the workers.

    def prepared(self, index: torch.Tensor) -> torch.Tensor:
        return self.operands.products.prepare(self.operands.features[index], self.own)

    def tile(self, rows: int, columns: int, slot: int, transposed: bool = False) -> torch.Tensor:
        return self.tiles[2 * slot + transposed, :rows, :columns]

    def products(self, index: torch.Tensor) -> torch.Tensor:
        """Inner products of some points with all, (len(index), N) float32."""
        out = torch.empty(len(index), self.n, dtype=torch.float32)
        own = self.prepared(index)

        def work(block: tuple[int, int], slot: int) -> None:
            b, e = block
            self.multiply(own, self.operands.block(b, e, 2 * slot), out[:, b:e])

        with full_precision():
            self.workers.run(work, self.blocks)
        return out

    def each_tile(self, index: torch.Tensor, height: int, use: Callable[[int, int, int, torch.Tensor, int], None]):
        """Call use(r, begin, end, tile, slot) for the products of index[r:r + height] with each block of the pool."""
        own = self.prepared(index)

        def work(block: tuple[int, int], slot: int) -> None:
            b, e = block
            columns = self.operands.block(b, e, 2 * slot)
            for r, stop in cut(len(index), height):
                tile = self.tile(stop - r, e - b, slot)
                self.multiply(self.part(own, r, stop), columns, tile)
                use(r, b, e, tile, slot)

        with full_precision():
            self.workers.run(work, self.blocks)

    # Guessing.

    def coverage(self, t: int) -> torch.Tensor:
        m = torch.empty(self.n, dtype=torch.float64)
        self.native.copy_coverage(t, m.data_ptr(), self.n)
        return m

    def guess(self, j: int) -> None:
        products = self.products(torch.tensor([j]))
        self.native.guess(j, products.data_ptr())

    def guesses(self) -> int:
        return self.native.guesses()

    def gain(self, t: int) -> float:
        return self.native.gain(t)

    def estimate_taken(
        self, out: torch.Tensor, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, weights: torch.Tensor
    ) -> None:
        def use(r: int, b: int, e: int, tile: torch.Tensor, slot: int) -> None:
            self.native.add_taken(
                *(values[r:].data_ptr() for values in (rows, low, high, weights)),
                *(len(tile), b, e, tile.data_ptr(), self.stride, out.data_ptr()),
            )

        self.each_tile(rows, self.tiles.shape[1], use)

    def estimate_gains(self, points: torch.Tensor, t: int) -> torch.Tensor:
        gains = torch.zeros(self.threads, len(points), dtype=torch.float64)

        def use(r: int, b: int, e: int, tile: torch.Tensor, slot: int) -> None:
            self.native.add_gains(
                *(t, points[r:].data_ptr(), len(tile), b, e, tile.data_ptr(), self.stride), gains[slot, r:].data_ptr()
            )

        self.each_tile(points, self.tiles.shape[1], use)
        return gains.sum(0)

    # Proving.

    def room(self, guesses: int) -> int:
        most = (self.spare - guess_bytes(self.n, guesses)) // BYTES_PER_ENTRY
        return max(0, min(most, self.capacity))

    def forget(self) -> None:
        self.native.forget(self.guesses())

    def sweep(self, first: int, gather: bool, wanted: torch.Tensor | None = None) -> None:
        entries = self.room(self.guesses() - first) if gather else 0
        self.wanted = None if wanted is None else wanted.to(torch.uint8)
        self.native.begin(
            first, self.guesses(), entries, self.size, 0 if self.wanted is None else self.wanted.data_ptr()
        )

        def work(pair: tuple[int, int], slot: int) -> None:
            (b, e), (b2, e2) = self.blocks[pair[0]], self.blocks[pair[1]]
            tile, transposed = self.tile(e - b, e2 - b2, slot), self.tile(e2 - b2, e - b, slot, transposed=True)
            own = self.operands.block(b, e, 2 * slot)
            other = own if b2 == b else self.operands.block(b2, e2, 2 * slot + 1)
            self.multiply(own, other, tile)
            self.native.tile(b, e, b2, e2, tile.data_ptr(), transposed.data_ptr(), self.stride)

        with full_precision():
            done, total = 0, len(self.blocks) * (len(self.blocks) + 1) // 2
            for pairs in rounds(len(self.blocks)):
                self.workers.run(work, pairs)
                done += len(pairs)
                self.report(done / total)

    def gains(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        gains, alive = (torch.empty(self.n, dtype=torch.float64) for _ in range(2))
        self.native.gains(t, gains.data_ptr(), alive.data_ptr())
        return gains, alive

    def drift(self, largest_gain: float) -> float:
        return float64_drift(2 * self.n, largest_gain)

    def settle(self, points: torch.Tensor, t: int, threshold: Callable[[], float]) -> Iterator[float]:
        for j, row in zip(points.tolist(), self.products(points), strict=True):
            yield self.native.settle(j, row.data_ptr(), True, t, threshold())

    def replace(self, t: int, points: Sequence[int], moved: int) -> None:
        index = torch.tensor(points)
        products = self.products(index[:1])
        count = self.native.replace(t, index.data_ptr(), len(points), moved, products.data_ptr())
        changed = torch.empty(count, dtype=torch.int64)
        self.native.changed_rows(changed.data_ptr())
        for start in range(0, count, PREPARED):

            def use(r: int, b: int, e: int, tile: torch.Tensor, slot: int, start=start) -> None:
                self.native.retake((start + r) // RETAKEN, b, e, tile.data_ptr(), self.stride)

            self.each_tile(changed[start : start + PREPARED], RETAKEN, use)

    def gather(self) -> bool:
        """What the sweep gathered is too little for rows whose coverage the corrections lowered."""
        rows = torch.empty(self.n, dtype=torch.int64)
        rows = rows[: self.native.forget_lower(rows.data_ptr())]
        if 4 * len(rows) > self.n:  # cheaper all at once
            self.sweep(self.guesses(), True, self.wanted)
        else:
            for some in rows.split(PREPARED):
                self._gather_again(some)
        return self.native.gathered()

    def _gather_again(self, rows: torch.Tensor) -> None:
        own, height = self.prepared(rows), self.tiles.shape[1]

        def gather(r: int, b: int, e: int, slot: int, own_lists: bool) -> None:
            count = min(height, len(rows) - r)
            tile = self.tile(count, e - b, slot)
            self.multiply(self.part(own, r, r + count), self.operands.block(b, e, 2 * slot), tile)
            self.native.gather_again(rows[r:].data_ptr(), count, b, e, tile.data_ptr(), self.stride, own_lists)

        starts = range(0, len(rows), height)

        def to_columns(block: tuple[int, int], slot: int) -> None:
            for r in starts:
                gather(r, *block, slot, False)

        def to_rows(r: int, slot: int) -> None:
            for b, e in self.blocks:
                gather(r, b, e, slot, True)

        with full_precision():
            self.workers.run(to_columns, self.blocks)
            self.workers.run(to_rows, starts)

    # Greedy on what was gathered.

    def start(self, first_gain: float, picked: Sequence[int]) -> None:
        if self.wanted is None:
            self.operands.keep_no_more()
        index = torch.tensor(picked, dtype=torch.int64)
        self.native.start(first_gain, index.data_ptr())

    def select(self, count: int, bar: Progress, least: float) -> tuple[torch.Tensor, torch.Tensor]:
        picks, gains = torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.float64)

        def some(most: int, done: int) -> int:
            return self.native.select_above(most, picks[done:].data_ptr(), gains[done:].data_ptr(), least)

        made = in_chunks(count, some, bar, chunk=1)
        return picks[:made], gains[:made]

    def resume(self, picks: int) -> None:
        self.native.resume(picks)

    def entries(self) -> int:
        return self.native.entries()

    def covered(self) -> float:
        return self.native.covered()

    def contested(self) -> int:
        return self.native.stats()["contested"]
