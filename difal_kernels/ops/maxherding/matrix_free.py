"""The matrix-free algorithm: guess the first picks, prove them in one sweep over the tiles, go on with what is alive.

Coverage m only grows, so an entry k_ij <= m_i never matters again, and after t picks about 1 / (t + 1) of all entries
matter. The first picks are guessed from a sample of rows, which needs no proof. A sweep over the half matrix, tile
by tile, then gives every candidate's gain at every guessed step, with a bound: what no bound lets beat its step's guess
is proven. Where float64 finds a better pick it takes the guess's place, and what the rows near the two took is taken
anew. What is alive is gathered, and the rest is greedy on that.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..._progress import Progress
from . import forecast
from .bandwidth import sample_rows
from .dense import cover_labeled
from .kernel_functions import kernel_matrix
from .primitives import Device, TiledGreedy
from .problem import Problem
from .result import TIE, Result


def describe() -> str:
    return "matrix-free, two or three sweeps of half a GEMM pass each or less, more where memory is near the least"


def select(device: Device, p: Problem, limit: int, bar: Progress) -> Result:
    tiles = device.tiled_greedy(p, limit, p.budget)
    with tiles.working():
        selection = MatrixFreeSelection(device, p, tiles, p.budget)
        picks, gains = selection.more(p.budget, bar)
        return Result(picks, gains, selection.coverage(), selection.contested_picks())


class MatrixFreeSelection:
    """Greedy selection on the alive entries, as far as wanted.

    Args:
        device: its `guessing` rules.
        p: the problem.
        tiles: the primitives, for `horizon` picks at most.
        horizon: picks that will be asked for at most.
    """

    def __init__(self, device: Device, p: Problem, tiles: TiledGreedy, horizon: int):
        self.p, self.tiles, self.horizon, self.rules = p, tiles, horizon, device.guessing
        self.device = device
        self.teller = forecast.Silent()
        self.n, self.torch_device = len(p.features), p.features.device
        self.handed_out, self.started, self.ever_started = 0, False, False
        self.allowed = torch.zeros(self.n, dtype=torch.bool, device=self.torch_device)
        self.allowed[slice(None) if p.candidates is None else p.candidates.to(self.torch_device)] = True
        self.unit = float(p.weights.max()) or 1.0
        self.told_apart = True  # see `compare`
        self.picks: list[int] = []
        self.gains: list[float] = []
        self.contested = 0
        self.known: torch.Tensor | None = None  # all gains after the picks so far, from the last sweep
        self.upper: torch.Tensor | None = None  # and what no gain is above, from then on
        self.least, self.gathered_for, self.gathered_at = -math.inf, self.n, 0  # see `gather`
        self.caution = 1.0  # how much more was alive than the watched points said
        self.least_guesses, self.overflowed = 0, False  # since a sweep had no room for what was alive
        cover_labeled(tiles, p)
        self.covered_before = float(p.weights @ tiles.coverage(0))
        self.watch()

    def more(self, count: int, bar: Progress) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the next `count` picks, and their gains; within `tiles.working()`."""
        wanted = self.handed_out + count
        self.tell(bar, wanted)
        while len(self.picks) < wanted:
            if self.started:
                self.go_on(wanted - len(self.picks), bar)
            else:
                known = len(self.picks)
                self.prepare()
                bar.update(min(len(self.picks), wanted) - known)
        new, self.handed_out = slice(self.handed_out, wanted), wanted
        gains = torch.tensor(self.gains[new], dtype=torch.float64, device=self.torch_device)
        return torch.tensor(self.picks[new], dtype=torch.int64, device=self.torch_device), gains / self.n

    def tell(self, bar: Progress, wanted: int) -> None:
        """Tell `bar` how far this is from so many picks, where somebody wants to know."""
        if isinstance(self.teller, forecast.Teller):
            self.teller.listen(bar, wanted)
        elif bar.enabled and self.torch_device.type == "cpu":
            plan = forecast.plan_of(self.p, self.tiles, self.rules, wanted)
            self.teller = forecast.Teller(bar, plan, forecast.calibrate(self.device, self.p))
            self.tiles.report = self.teller.at

    def prepare(self) -> None:
        """Prove more picks; and, once few enough entries are alive, gather those for all the picks to come."""
        done = len(self.picks)
        self.guessed: list[int] = []
        teller = self.teller
        teller.expect(done, self.alive_estimate(self.tiles.coverage(done)))
        teller.begin(forecast.GUESSING)
        wanted = self.worth_gathering()
        few_alive = wanted is not None or self.guess()
        teller.sweep(
            len(self.guessed),
            few_alive,
            lambda: min(self.alive_estimate(self.tiles.coverage(self.tiles.guesses()), wanted), self.tiles.capacity),
            lambda: self.tiles.share_needed(done, few_alive, wanted),
        )
        self.tiles.sweep(done, few_alive, wanted)
        teller.begin(forecast.PROVING)
        if self.guessed:
            self.prove(done)
        if few_alive:
            self.gather(wanted)

    def gather(self, wanted: torch.Tensor | None) -> None:
        """Go on with what the last sweep gathered: of all, or of the `wanted` candidates as long as they gain more."""
        if not self.tiles.gather():
            # The sample said too little, perhaps nothing at all: no further sweep gathers before more picks are proven.
            self.caution *= self.rules.slack
            self.least_guesses = max(1, 2 * self.least_guesses)
            self.overflowed = True
            return
        self.least_guesses = 0
        open_ = self.open()
        self.gathered_for, self.gathered_at, self.least = int(open_.sum()), len(self.picks), -math.inf
        if wanted is not None:
            others = open_ & ~wanted
            self.gathered_for = int((open_ & wanted).sum())
            self.least = float(self.upper[others].max()) if bool(others.any()) else -math.inf
        self.started = self.ever_started = True
        self.known = None
        self.teller.begin(forecast.PICKING)
        self.tiles.start(-1.0 if self.first_gain is None else self.first_gain, self.picks)
        self.teller.entries = self.tiles.entries()

    def go_on(self, count: int, bar: Progress) -> None:
        """Make up to `count` picks from what was gathered; back to sweeps where it says no more."""
        self.teller.picks_from(len(self.picks))
        picks, gains = self.tiles.select(min(count, self.gathered_for), bar, self.least)
        self.picks += picks.tolist()
        self.gains += gains.tolist()
        self.gathered_for -= len(picks)
        if len(picks) == count:
            return
        if len(self.picks) == self.gathered_at:  # the bounds tell too little; the next sweep gives new ones
            self.upper = None
        self.started = False
        self.tiles.resume(len(self.picks))

    def open(self) -> torch.Tensor:
        """Flags of the candidates that are not picked yet, (N,) bool."""
        open_ = self.allowed.clone()
        open_[self.picks] = False
        return open_

    def add_labeled(self, labeled: torch.Tensor) -> bool:
        """Cover by more labeled rows; False where that is not possible at this stage."""
        if not self.started or len(self.picks) > self.handed_out:
            return False
        cover_labeled(self.tiles, replace(self.p, labeled=labeled))
        self.covered_before = self.tiles.covered() - math.fsum(self.gains)
        return True

    @property
    def first_gain(self) -> float | None:
        """Of this selection or the one that it goes on with, not divided by N; None while there is none."""
        if self.p.first_gain is not None:
            return self.p.first_gain * self.n
        return self.gains[0] if self.gains else None

    def coverage(self) -> float:
        return (self.covered_before + math.fsum(self.gains[: self.handed_out])) / self.n

    def contested_picks(self) -> int:
        return self.contested + (self.tiles.contested() if self.ever_started else 0)

    # Guessing: nothing here has to be right.

    def watch(self) -> None:
        """Keep kernel values of some rows with some others, to tell how many entries are alive."""
        p = self.p
        rows = sample_rows(self.n, self.rules.watched_points).to(self.torch_device)
        rows, columns = rows[0::2], rows[len(rows) > 1 :: 2]
        self.watched = rows, columns
        kernel = kernel_matrix(p.features[rows], p.features[columns], p.kernel, p.bandwidth)
        self.watched_reach = kernel * (1 + self.tiles.entry_error[columns])

    def alive_estimate(self, m: torch.Tensor, wanted: torch.Tensor | None = None) -> float:
        """Estimate how many entries would be gathered at coverage m: pairs of which either may use the other.

        With `wanted`, what these candidates may use.
        """
        if self.p.kernel != "cosine":
            m = m.where(m < 1, torch.inf)  # fully covered; see CoverageLevel in csrc/cpu/greedy.h
        (rows, columns), candidate = self.watched, self.allowed if wanted is None else wanted
        if not self.tiles.gathers_some:
            candidate = torch.ones_like(candidate)
        as_row = m[rows][:, None].where(candidate[columns][None], torch.inf)
        alive = self.watched_reach > torch.minimum(as_row, m[columns][None].where(candidate[rows][:, None], torch.inf))
        return float(alive.sum()) / alive.numel() * self.n * self.n * self.caution

    def fits(self, alive: float, guesses: int) -> bool:
        """Whether that many entries can be gathered by a sweep that proves so many guesses."""
        return alive * self.rules.slack <= self.tiles.room(guesses)

    def worth_gathering(self) -> torch.Tensor | None:
        """Candidates to gather for where all is too much: a large share of them, those that may gain the most.

        None where there is room for all, or nothing is known of them yet.
        """
        if not self.tiles.gathers_some or self.upper is None or self.overflowed:
            return None
        level, open_ = self.tiles.coverage(len(self.picks)), self.open()
        alive, most = self.alive_estimate(level), self.tiles.max_guesses
        done = len(self.picks)
        if self.fits(alive, 0) or self.fits(alive * done / (done + most), most):  # now, or after the next guesses
            return None
        for share in self.rules.shares_gathered:
            wanted = largest(self.upper, open_, share)
            if self.fits(self.alive_estimate(level, wanted), 0):
                least = self.upper[open_ & ~wanted].max()
                return wanted if self.picks_above(float(least)) >= self.rules.least_gathered else None
        return None

    def picks_above(self, gain: float) -> float:
        """Picks ahead that gain more than this, if gains go on to fall as since half as many picks."""
        done, best = len(self.picks), float(self.upper[self.open()].max())
        half = max(1, done // 2)
        if best <= max(gain, 0.0) or done < 4 or self.gains[half - 1] <= self.gains[-1]:
            return 0.0
        power = math.log(self.gains[half - 1] / max(self.gains[-1], 1e-300)) / math.log(done / half)
        rise = math.log(best / max(gain, 1e-300))
        return done * math.expm1(rise / power) if rise < 700 * power else math.inf

    def guess(self) -> bool:
        """Guess picks until few enough entries are alive; whether they are."""
        p, tiles, done = self.p, self.tiles, len(self.picks)
        open_, level = self.open(), tiles.coverage(done)
        if self.known is None:
            estimate = torch.zeros(self.n, dtype=torch.float64, device=self.torch_device)
            self.add_taken(estimate, p.weights.nonzero()[:, 0], level, torch.full_like(level, torch.inf))
        else:
            estimate = self.known / self.unit
        most = self.rules.first_guesses if self.known is None else tiles.max_guesses
        self.overflowed = False
        while True:
            count = tiles.guesses()
            few_alive = self.fits(self.alive_estimate(level), count - done)
            ready = few_alive and count - done >= self.least_guesses
            if ready or count - done == most or count == self.horizon:
                return few_alive
            enough = count > done and self.known is not None
            j = self.best_of_sample(estimate, open_)
            if enough and not self.told_apart:  # each wrong guess would cost a tenth of a sweep
                return False
            open_[j] = False
            tiles.guess(j)
            self.guessed.append(j)
            self.teller.guessed(len(self.guessed))
            low, level = level, tiles.coverage(count + 1)
            self.add_taken(estimate.neg_(), (level > low).nonzero()[:, 0], low, level)
            estimate.neg_()

    def add_taken(self, out: torch.Tensor, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        """Add to `out` what `rows` take from each candidate when they rise from low to high, told by a sample."""
        if not len(rows):
            return
        size = self.rules.sample_rows * (2 if self.tiles.guesses() < self.rules.first_guesses else 1)
        picked = rows[sample_rows(len(rows), min(size, len(rows))).to(self.torch_device)]
        weights = self.p.weights[picked] * (len(rows) / len(picked) / self.unit)
        self.tiles.estimate_taken(out, picked, low[picked].float(), high[picked].float(), weights)

    def best_of_sample(self, estimate: torch.Tensor, open_: torch.Tensor) -> int:
        """Of the candidates that the sample likes best, the one with the largest gain over the whole pool."""
        step, rules = self.tiles.guesses(), self.rules
        tried = max(rules.tried, min(2 * rules.sample_rows, rules.first_tried // (step + 1) ** 2))
        estimate, count = torch.where(open_, estimate, -torch.inf), int(open_.sum())
        while True:
            hopeful = estimate.topk(min(tried, count)).indices
            gains = self.tiles.estimate_gains(hopeful, step)
            sure = self.compare(estimate[hopeful], gains / self.unit)
            if sure or tried >= count or tried >= rules.most_tried:
                break
            tried = min(8 * tried, rules.most_tried)
        # Where rows were rounded before they were multiplied, float64 decides among gains that are near the best.
        margin = 2 * self.tiles.rows_rounding * float(gains.max())
        order = gains.argsort(descending=True, stable=True)[: rules.close]
        close = hopeful[order[gains[order] >= gains[order[0]] - margin]]
        if len(close) == 1:
            return int(close[0])
        exact = list(self.tiles.settle(close, step, lambda: 0.0))
        return int(close[torch.tensor(exact).argmax()])

    def compare(self, estimates: torch.Tensor, gains: torch.Tensor) -> bool:
        """Whether candidates that were estimated lower than these, best first, are likely to gain less than the best.

        Estimates of near candidates are wrong by about the same, which leaves their order. Beside that, what is left of
        a gain is small after many guesses, and what they took from it was told by a sample: then `told_apart` is False.
        """
        errors = estimates - gains
        self.told_apart = float(errors.square().mean().sqrt()) <= self.rules.largest_error * float(gains.max())
        spread = float(errors.std()) if len(errors) > 1 else 0.0
        return float(estimates[-1] - errors.mean()) + spread < float(gains.max())

    # Proving.

    def prove(self, done: int) -> None:
        """Check each guess against all candidates, and put the right pick in the place of a wrong one."""
        open_ = self.open()
        for t in range(done, done + len(self.guessed)):
            self.teller.at((t - done) / len(self.guessed))
            winner, gain = self.contest(t, self.guessed[t - done], open_)
            self.picks.append(winner)
            self.gains.append(gain)
            open_[winner] = False
            if winner != self.guessed[t - done]:
                self.correct(t, t - done, winner)
        self.known, alive = self.tiles.gains(done + len(self.guessed))
        self.upper = self.upper_bounds(self.known, alive)
        self.tiles.forget()

    def upper_bounds(self, gains: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        """What no gain is above, given the estimates of a sweep."""
        return gains + self.tiles.entry_error * alive + self.tiles.drift(float(gains.max()))

    def contest(self, t: int, guess: int, open_: torch.Tensor) -> tuple[int, float]:
        """Find the pick of step t: the guess, or who beats it in float64."""
        gains, alive = self.tiles.gains(t)
        upper = torch.where(open_, self.upper_bounds(gains, alive), -torch.inf)
        upper[guess] = -torch.inf
        best = self.tiles.gain(t)
        settled = {guess: best}

        def enough() -> float:
            """The gain that a candidate must have: within a tie of the best."""
            return best - TIE * (max(best, 0.0) if self.first_gain is None else self.first_gain)

        rivals = (upper >= enough()).nonzero()[:, 0]
        rivals = rivals[upper[rivals].argsort(descending=True, stable=True)]
        for index in rivals.split(self.rules.settled_together):
            index = index[upper[index] >= enough()]
            if not len(index):
                break
            for j, gain in zip(index.tolist(), self.tiles.settle(index, t, enough), strict=True):
                if gain >= 0:
                    settled[j] = gain
                    best = max(best, gain)
        self.contested += len(settled) > 1
        winner = min(j for j, gain in settled.items() if gain >= enough())
        return winner, settled[winner]

    def correct(self, t: int, at: int, winner: int) -> None:
        """The guess at step t was wrong: put the right pick before it, in the place of the guess most like it."""
        rest = self.guessed[at:]
        moved = 1 + (rest.index(winner) if winner in rest else self.most_like(winner, rest))
        self.guessed[at : at + moved] = [winner, *self.guessed[at : at + moved - 1]]
        self.tiles.replace(t, self.guessed[at:], moved)

    def most_like(self, point: int, others: list[int]) -> int:
        """Which of `others` covers the most of what `point` does, by where it is."""
        rows = self.p.features[[point, *others]].double()
        if self.p.kernel == "cosine":
            rows = torch.nn.functional.normalize(rows, dim=1)
        return int((rows[1:] - rows[0]).square().sum(1).argmin())


def largest(values: torch.Tensor, open_: torch.Tensor, share: float) -> torch.Tensor:
    """Flags of the open candidates with the largest values, about that share of them; (N,) bool."""
    ordered = values[open_].sort(descending=True).values
    return open_ & (values > ordered[int(share * (len(ordered) - 1))])
