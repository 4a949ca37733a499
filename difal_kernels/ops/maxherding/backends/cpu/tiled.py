"""Tiles of the kernel on the CPU, made by threads side by side, and what csrc/cpu/sweep.cpp does with them.

Inside, points may have another order than outside: `positions` are where they are in it. See `nearness`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from difal_kernels._precision import full_precision
from difal_kernels._progress import Progress
from difal_kernels._workers import Workers

from ...bounds import column_entry_error, float64_drift
from ...kernel_functions import alive_above
from ...primitives import Guessing
from ...problem import Problem
from .greedy import cover, in_chunks, make_native
from .nearness import Layout, NearTogether, Parts
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


def prepared_rows(guessing: Guessing) -> int:
    return max(PREPARED, guessing.first_rows, guessing.sample_rows, guessing.tried, guessing.most_tried)


def fixed_bytes(p: Problem, guessing: Guessing, tuning: CpuTuning) -> int:
    n, d = p.features.shape
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), tile_shape(n, tuning)[0]) * n
    return (
        copy_bytes(p.features)
        + labels
        + worker_bytes(p, tuning)
        + guess_bytes(n, guessing.max_guesses)
        + 4 * min(n, prepared_rows(guessing)) * d
        + 4 * guessing.settled_together * n
        + 200 * n
        + 8 * guessing.watched_points**2
    )


def rounds(needed: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """All pairs of blocks that are needed, a block with itself first, in rounds in which no block comes twice.

    So the tiles of a round may run side by side, and each block meets the others in the same order on any machine.
    The rounds are those of a tournament, by the circle method. `needed` are flags of the pairs, (blocks, blocks).
    """
    count = len(needed)
    yield [(i, i) for i in np.flatnonzero(needed.diagonal()).tolist()]
    players = count + count % 2
    k = np.arange(1, players // 2)
    for r in range(players - 1):
        one, other = np.append(r, (r + k) % (players - 1)), np.append(players - 1, (r - k) % (players - 1))
        high, low = np.maximum(one, other), np.minimum(one, other)
        high, low = high[high < count], low[high < count]
        wanted = needed[high, low]
        yield list(zip(high[wanted].tolist(), low[wanted].tolist(), strict=True))


class CpuTiledGreedy:
    """See `primitives.TiledGreedy`."""

    gathers_some = True

    def __init__(self, p: Problem, guessing: Guessing, tuning: CpuTuning, limit: int, threads: int):
        self.p, self.n = p, len(p.features)
        size, self.stride = tile_shape(self.n, tuning)
        self.threads, self.open = threads, False
        spare = limit - fixed_bytes(p, guessing, tuning) - (threads - 1) * worker_bytes(p, tuning)
        group = tuning.group_points if size % tuning.group_points == 0 else size
        grouping = NearTogether.nbytes(self.n, p.features.shape[1], group)
        self.layout = Layout()
        with self.working():
            if self.n >= tuning.least_grouped and grouping <= spare // 8:
                spare -= grouping
                self.layout = NearTogether(p, group, self.workers)
            self.operands = GemmOperands(p, [size] * 2 * threads, self.workers, spare // 4, tuning, self.layout.order)
            self.layout.separate(p, self.operands, self.workers)
        self.sorted = self.layout.sort(p)
        spare += guess_bytes(self.n, guessing.max_guesses) - self.operands.kept_bytes()
        self.multiply, self.part = self.operands.products.multiply, self.operands.products.part
        self.rows_rounding = self.operands.products.rounding
        self.size, self.blocks = size, cut(self.n, size)
        self.report: Callable[[float], None] = lambda share: None
        self.labels_at_once = size
        self.tiles = torch.empty(2 * threads, max(size, RETAKEN), self.stride, dtype=torch.float32)
        self.most_prepared = min(self.n, prepared_rows(guessing))
        self.own = self.operands.products.empty(self.most_prepared)
        # An entry may have come from one product as a row's and from another as a column's.
        error = self.operands.error.doubled()
        self.native, self.keep = make_native(
            "TiledGreedy",
            self.sorted,
            self.operands.features,
            self.operands.sq_norms,
            error,
            threads,
            order=self.layout.order,
        )
        self.entry_error = self.layout.by_point(
            column_entry_error(error, p.kernel, self.operands.sq_norms, TERMS, tuning.roundings)
        )
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

    def level(self, t: int) -> torch.Tensor:
        """Coverage after t guesses by position, (N,) float64."""
        m = torch.empty(self.n, dtype=torch.float64)
        self.native.copy_coverage(t, m.data_ptr(), self.n)
        return m

    # Products of rows, made by the workers.

    def prepared(self, index: torch.Tensor) -> torch.Tensor:
        if len(index) > self.most_prepared:
            raise ValueError(f"{len(index)} rows do not fit in the place of {self.most_prepared}")
        return self.operands.products.prepare(self.operands.at(index), self.own)

    def tile(self, rows: int, columns: int, slot: int) -> torch.Tensor:
        return self.tiles[2 * slot, :rows, :columns]

    def products(self, index: torch.Tensor) -> torch.Tensor:
        """Inner products of some positions with all, (len(index), N) float32."""
        out = torch.empty(len(index), self.n, dtype=torch.float32)
        own = self.prepared(index)

        def work(block: tuple[int, int], slot: int) -> None:
            b, e = block
            self.multiply(own, self.operands.block(b, e, 2 * slot), out[:, b:e])

        with full_precision():
            self.workers.run(work, self.blocks)
        return out

    def each_tile(
        self,
        index: torch.Tensor,
        height: int,
        use: Callable[[int, int, int, torch.Tensor, int], None],
        reached: Callable[[int, int], torch.Tensor | None],
    ) -> None:
        """Call use(r, begin, end, tile, slot) for the products of index[r:r + height] with each block of the pool.

        reached(r, stop) are flags of the groups that index[r:stop] is needed with; None for all.
        """
        own, parts = self.prepared(index), cut(len(index), height)
        flags = [reached(r, stop) for r, stop in parts]

        def work(block: tuple[int, int], slot: int) -> None:
            b, e = block
            needed = [part for part, groups in zip(parts, flags, strict=True) if self.layout.meets(b, e, groups)]
            if not needed:
                return
            columns = self.operands.block(b, e, 2 * slot)
            for r, stop in needed:
                tile = self.tile(stop - r, e - b, slot)
                self.multiply(self.part(own, r, stop), columns, tile)
                use(r, b, e, tile, slot)

        with full_precision():
            self.workers.run(work, self.blocks)

    # Guessing.

    def coverage(self, t: int) -> torch.Tensor:
        return self.layout.by_point(self.level(t))

    def guess(self, j: int) -> None:
        at = self.layout.at(torch.tensor([j]))
        products = self.products(at)
        self.native.guess(int(at), products.data_ptr())

    def guesses(self) -> int:
        return self.native.guesses()

    def gain(self, t: int) -> float:
        return self.native.gain(t)

    def estimate_taken(
        self, out: torch.Tensor, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, weights: torch.Tensor
    ) -> None:
        rows, sorting = self.layout.at(rows).sort()
        low, high, weights = low[sorting], high[sorting], weights[sorting]
        taken = torch.zeros(self.n, dtype=torch.float64)

        def use(r: int, b: int, e: int, tile: torch.Tensor, slot: int) -> None:
            self.native.add_taken(
                *(values[r:].data_ptr() for values in (rows, low, high, weights)),
                *(len(tile), b, e, tile.data_ptr(), self.stride, taken.data_ptr()),
            )

        self.each_tile(rows, self.tiles.shape[1], use, lambda r, stop: self.layout.reached(rows[r:stop], low[r:stop]))
        out += self.layout.by_point(taken)

    def estimate_gains(self, points: torch.Tensor, t: int) -> torch.Tensor:
        gains = torch.zeros(self.threads, len(points), dtype=torch.float64)
        points = self.layout.at(points)
        low = self.level(t)

        def use(r: int, b: int, e: int, tile: torch.Tensor, slot: int) -> None:
            self.native.add_gains(
                *(t, points[r:].data_ptr(), len(tile), b, e, tile.data_ptr(), self.stride), gains[slot, r:].data_ptr()
            )

        self.each_tile(points, self.tiles.shape[1], use, lambda r, stop: self.layout.reaching(points[r:stop], low))
        return gains.sum(0)

    # Proving.

    def room(self, guesses: int) -> int:
        most = (self.spare - guess_bytes(self.n, guesses)) // BYTES_PER_ENTRY
        return max(0, min(most, self.capacity))

    def forget(self) -> None:
        self.native.forget(self.guesses())

    def share_needed(self, first: int, gather: bool, wanted: torch.Tensor | None = None) -> float:
        return self.parts(first, gather, wanted).share()

    def share_expected(self, points: torch.Tensor, coverage: torch.Tensor) -> float:
        return self.layout.share_expected(points, coverage)

    def parts(self, first: int, gather: bool, wanted: torch.Tensor | None) -> Parts:
        """What such a sweep needs of each tile."""
        low, usable, floor = None, None, self.level(self.guesses())
        if not gather or self.guesses() > first:
            low = self.level(first).where(self.sorted.weights > 0, torch.inf)
        if gather:
            floor = alive_above(floor, self.p.kernel)
            usable = torch.ones(self.n, dtype=torch.bool)
            if self.sorted.candidates is not None:
                usable = torch.zeros(self.n, dtype=torch.bool).index_fill_(0, self.sorted.candidates, True)
            if wanted is not None:
                usable &= self.layout.by_position(wanted)
        return self.layout.parts(self.size, low, usable, floor)

    def sweep(self, first: int, gather: bool, wanted: torch.Tensor | None = None) -> None:
        entries = self.room(self.guesses() - first) if gather else 0
        self.wanted = wanted
        flags = None if wanted is None else self.layout.by_position(wanted).to(torch.uint8)
        self.native.begin(first, self.guesses(), entries, self.size, 0 if flags is None else flags.data_ptr())
        parts = self.parts(first, entries > 0, wanted)

        def part(i: int, j: int) -> tuple[int, int, int, int]:
            """Of block i, in the tile with block j: begin and end by position, and within the block."""
            b, e = self.blocks[i]
            begin, end = parts.sides[i, j].tolist()
            end = min(end, e - b)
            return b + begin, b + end, begin, end

        def work(pair: tuple[int, int], slot: int) -> None:
            b, e, row, row_end = part(*pair)
            b2, e2, column, column_end = part(pair[1], pair[0])
            tile = self.tiles[2 * slot, row:row_end, column:column_end]
            transposed = self.tiles[2 * slot + 1, column:column_end, row:row_end]
            own = self.operands.block(b, e, 2 * slot)
            other = own if b2 == b else self.operands.block(b2, e2, 2 * slot + 1)
            self.multiply(own, other, tile)
            self.native.tile(b, e, b2, e2, tile.data_ptr(), transposed.data_ptr(), self.stride)

        with full_precision():
            done, total = 0, int(np.tril(parts.needed).sum())
            for pairs in rounds(parts.needed):
                self.workers.run(work, pairs)
                done += len(pairs)
                self.report(done / total)

    def gains(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        gains, alive = (torch.empty(self.n, dtype=torch.float64) for _ in range(2))
        self.native.gains(t, gains.data_ptr(), alive.data_ptr())
        return self.layout.by_point(gains), self.layout.by_point(alive)

    def drift(self, largest_gain: float) -> float:
        return float64_drift(2 * self.n, largest_gain)

    def settle(self, points: torch.Tensor, t: int, threshold: Callable[[], float]) -> Iterator[float]:
        points = self.layout.at(points)
        for j, row in zip(points.tolist(), self.products(points), strict=True):
            yield self.native.settle(j, row.data_ptr(), True, t, threshold())

    def replace(self, t: int, points: Sequence[int], moved: int) -> int:
        index = self.layout.at(torch.tensor(points))
        products = self.products(index[:1])
        count = self.native.replace(t, index.data_ptr(), len(points), moved, products.data_ptr())
        changed = torch.empty(count, dtype=torch.int64)
        self.native.changed_rows(changed.data_ptr())
        low = self.level(t)[changed]
        for start in range(0, count, PREPARED):

            def use(r: int, b: int, e: int, tile: torch.Tensor, slot: int, start=start) -> None:
                self.native.retake((start + r) // RETAKEN, b, e, tile.data_ptr(), self.stride)

            def reached(r: int, stop: int, start=start) -> torch.Tensor | None:
                return self.layout.reached(changed[start + r : start + stop], low[start + r : start + stop])

            self.each_tile(changed[start : start + PREPARED], RETAKEN, use, reached)
        return count

    def drop(self, t: int) -> None:
        self.native.drop(t)

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
        index = self.layout.at(torch.tensor(picked, dtype=torch.int64))
        self.native.start(first_gain, index.data_ptr())

    def select(self, count: int, bar: Progress, least: float) -> tuple[torch.Tensor, torch.Tensor]:
        picks, gains = torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.float64)

        def some(most: int, done: int) -> int:
            return self.native.select_above(most, picks[done:].data_ptr(), gains[done:].data_ptr(), least)

        made = in_chunks(count, some, bar, chunk=1)
        return self.layout.points(picks[:made]), gains[:made]

    def resume(self, picks: int) -> None:
        self.native.resume(picks)

    def entries(self) -> int:
        return self.native.entries()

    def covered(self) -> float:
        return self.native.covered()

    def contested(self) -> int:
        return self.native.stats()["contested"]
