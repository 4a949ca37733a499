"""The matrix-free path: guess the first picks, prove them in one sweep over the tiles, go on with what is alive.

Coverage m only grows, so an entry k_ij <= m_i never matters again, and after t picks about 1 / (t + 1) of all entries
matter. The first picks are guessed from a sample of rows, which needs no proof; a sweep over the half matrix, tile
by tile, then gives every candidate's gain at every guessed step (csrc/include/difal/sweep.h), which proves the guesses
or corrects the first wrong one, and gathers the entries that are alive. The rest is greedy on those.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from difal_kernels._progress import Progress
from difal_kernels._workers import Workers

from ...kernel_functions import kernel_matrix, sample_rows
from ...problem import Problem
from ...result import TIE, Result
from . import tiled_memory as memory
from .greedy import cover_labeled, make_engine, run_picks
from .operands import Panels, cut, full_precision, rounds
from .products import UNIT
from .tiled_memory import plan, threads_for, workspace_bytes

__all__ = ["MatrixFreeSelection", "plan", "select", "threads_for", "workspace_bytes"]

TRIED = 64  # candidates whose gain is computed over the whole pool at each guess
FIRST_TRIED = 8192  # and, divided by t^2, at guess t: the first ones are dear to correct
FIRST_GUESSES = 2  # guesses before the first sweep, which gives every candidate's gain to start the others from
SAMPLE = 1024  # rows, of those that a guess raises, that the next guess looks at
CLOSE = 16  # candidates whose gain is computed in float64 at each guess, where products are too coarse to tell
SLACK = 1.3  # how much more may be alive than the sample says


def select(p: Problem, limit: int, bar: Progress, workers: Workers) -> Result:
    selection = MatrixFreeSelection(p, limit, p.budget, workers)
    picks, gains = selection.more(p.budget, bar)
    return Result(picks, gains, selection.coverage(), selection.settled())


class MatrixFreeSelection:
    """Greedy selection on the alive entries, as far as wanted.

    Args:
        p: the problem.
        limit: bytes to work with.
        horizon: picks that will be asked for at most.
        workers: threads; `more` may be given others, as many.

    The constructor and `more` must run with the workers' context open.
    """

    def __init__(self, p: Problem, limit: int, horizon: int, workers: Workers):
        self.p, self.limit, self.horizon, self.workers = p, limit, horizon, workers
        self.n = len(p.features)
        self.handed_out, self.started = 0, False
        size, self.stride = memory.tile_shape(self.n)
        spare = limit - memory.fixed_bytes(p) - (workers.count - 1) * memory.worker_bytes(p)
        self.panels = Panels(p, [size] * 2 * workers.count, workers, keep=spare // 4)
        spare -= self.panels.kept_bytes()
        self.multiply, self.part = self.panels.products.multiply, self.panels.products.part
        self.size, self.blocks = size, cut(self.n, size)
        self.tiles = torch.empty(2 * workers.count, max(size, memory.BATCH), self.stride, dtype=torch.float32)
        self.most_rows = min(self.n, memory.CORRECTED)
        self.own = self.panels.products.empty(self.most_rows)
        # An entry may have come from one product as a row's and from another as a column's: twice the error.
        error = {name: value * (1 + (name != "tolerance")) for name, value in self.panels.error.items()}
        self.sweep, self.keep = make_engine(
            "Sweep", p, self.panels.features, self.panels.scale, None, True, error, workers.count
        )
        self.most = memory.MOST_GUESSES
        while self.most < 512 and memory.guess_bytes(self.n, 2 * self.most) < spare // 8:
            self.most *= 2
        spare -= memory.guess_bytes(self.n, self.most) - memory.guess_bytes(self.n, memory.MOST_GUESSES)
        self.capacity = int(spare // memory.BYTES_PER_ENTRY)
        self.allowed = torch.zeros(self.n, dtype=torch.bool)
        self.allowed[slice(None) if p.candidates is None else p.candidates] = True
        self.unit = float(p.weights.max()) or 1.0
        self.picks: list[int] = []
        self.gains: list[float] = []
        self.contested = 0
        self.known: torch.Tensor | None = None  # all gains after the picks so far, from the last sweep
        shape = {"laplace": torch.inf, "student_t": 1.5, "rational_quadratic": 0.5}.get(p.kernel, 1.0)
        scale = self.panels.scale.double()
        spread = (error["lambda_"] * shape * (scale + scale.max())).nan_to_num(torch.inf).clamp(max=error["tolerance"])
        spread *= p.kernel not in ("tophat", "cosine")
        # The most of any entry of a column, and float32 sums of 16 terms.
        self.entry_error = 1.02 * spread + error["relative"] + error["absolute"] + 20 * UNIT

        with full_precision():
            cover_labeled(self.sweep, p, self.panels, workers)
        self.covered_before = float(p.weights @ self.read_level(0))
        self.watch()

    def more(self, count: int, bar: Progress, workers: Workers | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The next `count` picks and their gains."""
        self.workers, wanted = workers or self.workers, self.handed_out + count
        with full_precision():
            while len(self.picks) < wanted and not self.started:
                known = len(self.picks)
                self.prepare()
                bar.update(min(len(self.picks), wanted) - known)
        if len(self.picks) < wanted:
            rest = wanted - len(self.picks)
            picks, gains = torch.empty(rest, dtype=torch.int64), torch.empty(rest, dtype=torch.float64)
            run_picks(self.sweep, picks, gains, bar)
            self.picks += picks.tolist()
            self.gains += gains.tolist()
        new, self.handed_out = slice(self.handed_out, wanted), wanted
        gains = torch.tensor(self.gains[new], dtype=torch.float64)
        return torch.tensor(self.picks[new], dtype=torch.int64), gains / self.n

    def prepare(self) -> None:
        """More proven picks; and, once few enough entries are alive, those entries, for all the picks to come."""
        done = len(self.picks)
        few_alive = self.guess()
        self.run_sweep(done, few_alive)
        self.prove(done)
        if not few_alive:
            return
        self.gather_again()
        if not self.sweep.gathered():
            self.capacity = int(self.capacity / SLACK)  # the sample said too little: more picks first
            return
        self.started = True
        self.panels.keep_no_more()
        picked = torch.tensor(self.picks, dtype=torch.int64)
        self.sweep.start(self.gains[0] if self.gains else -1.0, picked.data_ptr())

    def add_labeled(self, labeled: torch.Tensor) -> bool:
        """Cover by more labeled points; False where that is not possible at this stage."""
        if not self.started or len(self.picks) > self.handed_out:
            return False
        cover_labeled(self.sweep, replace(self.p, labeled=labeled), self.panels)
        self.covered_before = self.sweep.covered() - math.fsum(self.gains)
        return True

    def coverage(self) -> float:
        return (self.covered_before + math.fsum(self.gains[: self.handed_out])) / self.n

    def settled(self) -> int:
        return self.contested + (self.sweep.stats()["contested"] if self.started else 0)

    # Products of rows, made by the workers.

    def some_rows(self, index: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.panels.products.prepare(self.panels.features[index], out)

    def tile(self, rows: int, columns: int, slot: int, turned: bool = False) -> torch.Tensor:
        return self.tiles[2 * slot + turned, :rows, :columns]

    def products(self, index: torch.Tensor) -> torch.Tensor:
        """Inner products of some points with all, (len(index), N) float32."""
        out = torch.empty(len(index), self.n, dtype=torch.float32)
        own = self.some_rows(index, self.own)

        def work(block: tuple[int, int], slot: int) -> None:
            b, e = block
            self.multiply(own, self.panels.block(b, e, 2 * slot), out[:, b:e])

        self.workers.run(work, self.blocks)
        return out

    # Guessing: nothing here has to be right.

    def read_level(self, count: int) -> torch.Tensor:
        """Coverage after `count` guesses, (N,) float64."""
        m = torch.empty(self.n, dtype=torch.float64)
        self.sweep.copy_coverage(count, m.data_ptr(), self.n)
        return m

    def watch(self) -> None:
        """Kernel values of some rows with some others, to tell how many entries are alive."""
        p = self.p
        rows = sample_rows(self.n, memory.WATCHED)
        rows, columns = rows[0::2], rows[len(rows) > 1 :: 2]
        self.watched = rows, columns
        kernel = kernel_matrix(self.panels.features[rows], self.panels.features[columns], p.kernel, p.bandwidth)
        self.watched_reach = kernel * (1 + self.entry_error[columns])

    def alive_estimate(self, m: torch.Tensor) -> float:
        """Entries that would be gathered at coverage m: pairs of which either may still use the other."""
        if self.p.kernel != "cosine":
            m = m.where(m < 1, torch.inf)  # fully covered; see CoverageLevel in csrc/cpu/greedy.h
        alive = self.watched_reach > torch.minimum(m[self.watched[0]][:, None], m[self.watched[1]][None])
        return float(alive.sum()) / alive.numel() * self.n * self.n

    def guess(self) -> bool:
        """Guess picks until few enough entries are alive; whether they are."""
        p, done = self.p, len(self.picks)
        self.guessed: list[int] = []
        open_ = self.allowed.clone()
        open_[self.picks] = False
        level = self.read_level(done)
        if self.known is None:
            estimate = torch.zeros(self.n, dtype=torch.float64)
            self.add_sampled(estimate, p.weights.nonzero()[:, 0], level, torch.full_like(level, torch.inf))
        else:
            estimate = self.known / self.unit
        most = FIRST_GUESSES if self.known is None else self.most
        while True:
            count = self.sweep.guesses()
            few_alive = self.alive_estimate(level) * SLACK <= self.capacity
            if few_alive or count - done == most or count == self.horizon:
                return few_alive
            j = self.best_of_sample(estimate, open_)
            open_[j] = False
            products = self.products(torch.tensor([j]))
            self.sweep.guess(j, products.data_ptr())
            self.guessed.append(j)
            low, level = level, self.read_level(count + 1)
            self.add_sampled(estimate.neg_(), (level > low).nonzero()[:, 0], low, level)
            estimate.neg_()

    def add_sampled(self, out: torch.Tensor, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        """Add to `out` what `rows`, or a sample of them, take from each candidate when they rise from low to high."""
        if not len(rows):
            return
        size = self.most_rows if self.sweep.guesses() < FIRST_GUESSES else SAMPLE
        picked = rows[sample_rows(len(rows), min(size, len(rows)))]
        weights = self.p.weights[picked] * (len(rows) / len(picked) / self.unit)
        low, high = low[picked].float(), high[picked].float()
        own = self.some_rows(picked, self.own)
        height = self.tiles.shape[1]

        def work(block: tuple[int, int], slot: int) -> None:
            b, e = block
            columns = self.panels.block(b, e, 2 * slot)
            for r, stop in cut(len(picked), height):
                tile = self.tile(stop - r, e - b, slot)
                self.multiply(self.part(own, r, stop), columns, tile)
                self.sweep.add_taken(
                    *(values[r:].data_ptr() for values in (picked, low, high, weights)),
                    *(len(tile), b, e, tile.data_ptr(), self.stride, out.data_ptr()),
                )

        self.workers.run(work, self.blocks)

    def best_of_sample(self, estimate: torch.Tensor, open_: torch.Tensor) -> int:
        """Of the candidates that the sample likes best, the one with the largest gain over the whole pool."""
        step = self.sweep.guesses()
        tried = max(TRIED, min(self.most_rows, FIRST_TRIED // (step + 1) ** 2))
        hopeful = torch.where(open_, estimate, -torch.inf).topk(min(tried, int(open_.sum()))).indices
        own = self.some_rows(hopeful, self.own)
        gains = torch.zeros(self.workers.count, len(hopeful), dtype=torch.float64)
        height = self.tiles.shape[1]

        def work(block: tuple[int, int], slot: int) -> None:
            b, e = block
            columns = self.panels.block(b, e, 2 * slot)
            for r, stop in cut(len(hopeful), height):
                tile = self.tile(stop - r, e - b, slot)
                self.multiply(self.part(own, r, stop), columns, tile)
                self.sweep.add_gains(
                    *(step, hopeful[r:].data_ptr(), len(tile), b, e, tile.data_ptr(), self.stride),
                    gains[slot, r:].data_ptr(),
                )

        self.workers.run(work, self.blocks)
        return self.best_of_close(step, hopeful, gains.sum(0))

    def best_of_close(self, step: int, hopeful: torch.Tensor, gains: torch.Tensor) -> int:
        """The candidate with the largest gain, those in float64 that rounding to integers may have put in its place."""
        margin = 2 * self.panels.products.error * float(gains.max())
        order = gains.argsort(descending=True, stable=True)[:CLOSE]
        close = hopeful[order[gains[order] >= gains[order[0]] - margin]]
        if len(close) == 1:
            return int(close[0])
        rows = zip(close.tolist(), self.products(close), strict=True)
        exact = [self.sweep.settle(j, row.data_ptr(), True, step, 0.0) for j, row in rows]
        return int(close[torch.tensor(exact).argmax()])

    # Proving.

    def run_sweep(self, first: int, gather: bool) -> None:
        self.sweep.begin(first, self.sweep.guesses(), self.capacity if gather else 0, self.size)

        def work(pair: tuple[int, int], slot: int) -> None:
            (b, e), (b2, e2) = self.blocks[pair[0]], self.blocks[pair[1]]
            tile, turned = self.tile(e - b, e2 - b2, slot), self.tile(e2 - b2, e - b, slot, turned=True)
            own = self.panels.block(b, e, 2 * slot)
            other = own if b2 == b else self.panels.block(b2, e2, 2 * slot + 1)
            self.multiply(own, other, tile)
            self.sweep.tile(b, e, b2, e2, tile.data_ptr(), turned.data_ptr(), self.stride)

        for pairs in rounds(len(self.blocks)):
            self.workers.run(work, pairs)

    def prove(self, done: int) -> None:
        """Check each guess against all candidates, and put the right pick in the place of a wrong one."""
        gains = torch.empty(self.n, dtype=torch.float64)
        alive = torch.empty(self.n, dtype=torch.float64)
        open_ = self.allowed.clone()
        open_[self.picks] = False
        for t in range(done, done + len(self.guessed)):
            self.sweep.gains(t, gains.data_ptr(), alive.data_ptr())
            winner, gain = self.contest(t, self.guessed[t - done], gains, alive, open_)
            self.picks.append(winner)
            self.gains.append(gain)
            open_[winner] = False
            if winner != self.guessed[t - done]:
                self.correct(t, t - done, winner)
        last = done + len(self.guessed)
        self.sweep.gains(last, gains.data_ptr(), alive.data_ptr())
        self.known = gains

    def correct(self, t: int, at: int, winner: int) -> None:
        """The guess at step t was wrong: the right pick is put before it, in the place of the guess most like it."""
        rest = torch.tensor(self.guessed[at:])
        products = self.products(torch.tensor([winner]))
        distance = self.panels.scale[rest] - 2 * products[0, rest]
        moved = int(torch.where(rest == winner, -torch.inf, distance).argmin()) + 1
        self.guessed[at : at + moved] = [winner, *self.guessed[at : at + moved - 1]]
        points = torch.tensor(self.guessed[at:])
        changed = torch.empty(
            self.sweep.replace(t, points.data_ptr(), len(points), moved, products.data_ptr()), dtype=torch.int64
        )
        self.sweep.changed_rows(changed.data_ptr())
        for start in range(0, len(changed), memory.CORRECTED):
            some = changed[start : start + memory.CORRECTED]
            own, count = self.some_rows(some, self.own), len(some)

            def work(block: tuple[int, int], slot: int, own=own, count=count, start=start) -> None:
                b, e = block
                columns = self.panels.block(b, e, 2 * slot)
                for r, stop in cut(count, memory.BATCH):
                    tile = self.tile(stop - r, e - b, slot)
                    self.multiply(self.part(own, r, stop), columns, tile)
                    self.sweep.retake((start + r) // memory.BATCH, b, e, tile.data_ptr(), self.stride)

            self.workers.run(work, self.blocks)

    def gather_again(self) -> None:
        """What was gathered is too little for rows whose coverage the corrections lowered."""
        rows = torch.empty(self.n, dtype=torch.int64)
        rows = rows[: self.sweep.forget_lower(rows.data_ptr())]
        if 4 * len(rows) > self.n:  # cheaper all at once
            self.run_sweep(self.sweep.guesses(), True)
            return
        height = self.tiles.shape[1]
        for start in range(0, len(rows), memory.CORRECTED):
            some = rows[start : start + memory.CORRECTED]
            own = self.some_rows(some, self.own)

            def gather(r: int, b: int, e: int, slot: int, own_lists: bool, own=own, some=some) -> None:
                count = min(height, len(some) - r)
                tile = self.tile(count, e - b, slot)
                self.multiply(self.part(own, r, r + count), self.panels.block(b, e, 2 * slot), tile)
                self.sweep.gather_again(some[r:].data_ptr(), count, b, e, tile.data_ptr(), self.stride, own_lists)

            starts = range(0, len(some), height)

            def to_columns(block: tuple[int, int], slot: int, gather=gather, starts=starts) -> None:
                for r in starts:
                    gather(r, *block, slot, False)

            def to_rows(r: int, slot: int, gather=gather) -> None:
                for b, e in self.blocks:
                    gather(r, b, e, slot, True)

            self.workers.run(to_columns, self.blocks)
            self.workers.run(to_rows, starts)

    def contest(self, t, guess, gains, alive, open_) -> tuple[int, float]:
        """The pick of step t: the guess, or who beats it in float64."""
        drift = 2.0**-52 * 2 * self.n * float(gains.max())  # rounding of the sums in `gains`
        upper = torch.where(open_, gains + self.entry_error * alive + drift, -torch.inf)
        upper[guess] = -torch.inf
        best = self.sweep.gain(t)
        settled = {guess: best}

        def tie() -> float:
            return TIE * (self.gains[0] if self.gains else max(best, 0.0))

        rivals = (upper >= best - tie()).nonzero()[:, 0]
        rivals = rivals[upper[rivals].argsort(descending=True, stable=True)]
        for start in range(0, len(rivals), memory.BLOCK):
            index = rivals[start : start + memory.BLOCK]
            index = index[upper[index] >= best - tie()]
            if not len(index):
                break
            products = self.products(index)
            for j, row in zip(index.tolist(), products, strict=True):
                gain = self.sweep.settle(j, row.data_ptr(), True, t, best - tie())
                if gain >= 0:
                    settled[j] = gain
                    best = max(best, gain)
        self.contested += len(settled) > 1
        winner = min(j for j, gain in settled.items() if gain >= best - tie())
        return winner, settled[winner]
