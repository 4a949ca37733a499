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
from . import forecast, portions
from .dense import cover_labeled
from .guessing import Guesser
from .primitives import Device, TiledGreedy
from .problem import Problem
from .result import TIE, Result


def describe() -> str:
    return "matrix-free, two to four sweeps of half a GEMM pass each or less, more where memory is near the least"


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
        self.p, self.tiles, self.horizon = p, tiles, horizon
        self.rules = device.guessing.among(len(p.features))
        self.device = device
        self.teller = forecast.Silent()
        self.n, self.torch_device = len(p.features), p.features.device
        self.handed_out, self.started, self.ever_started = 0, False, False
        self.allowed = torch.zeros(self.n, dtype=torch.bool, device=self.torch_device)
        self.allowed[slice(None) if p.candidates is None else p.candidates.to(self.torch_device)] = True
        self.picks: list[int] = []
        self.gains: list[float] = []
        self.contested = 0
        self.known: torch.Tensor | None = None  # all gains after the picks so far, from the last sweep
        self.upper: torch.Tensor | None = None  # and what no gain is above, from then on
        self.least, self.gathered_for, self.gathered_at = -math.inf, self.n, 0  # see `gather`
        self.overflowed = False  # the last sweep had no room for what was alive
        cover_labeled(tiles, p)
        self.covered_before = float(p.weights @ tiles.coverage(0))
        self.guesser = Guesser(p, tiles, self.rules, horizon, self.allowed)

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
        teller, alive = self.teller, self.guesser.alive_estimate
        teller.expect(done, alive(self.tiles.coverage(done)))
        teller.begin(forecast.GUESSING)
        wanted, few_alive = None, True
        if self.upper is not None and not self.overflowed:
            wanted = portions.choose(self.guesser, self.upper, self.open(), self.gains)
        if wanted is None:
            self.guessed, few_alive = self.guesser.guess(done, self.known, self.open(), teller.guessed)
        self.overflowed = False
        teller.sweep(
            len(self.guessed),
            few_alive,
            lambda: min(alive(self.tiles.coverage(self.tiles.guesses()), wanted), self.tiles.capacity),
            lambda: self.tiles.share_needed(done, few_alive, wanted),
        )
        self.tiles.sweep(done, few_alive, wanted)
        teller.begin(forecast.PROVING)
        all_proven = self.prove(done) if self.guessed else True
        if few_alive and all_proven:
            self.gather(wanted)

    def gather(self, wanted: torch.Tensor | None) -> None:
        """Go on with what the last sweep gathered: of all, or of the `wanted` candidates as long as they gain more."""
        if not self.tiles.gather():
            self.guesser.had_no_room()
            self.overflowed = True
            return
        self.guesser.had_room()
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

    # Proving.

    def prove(self, done: int) -> bool:
        """Check each guess against all candidates, and put the right pick in the place of a wrong one.

        One wrong guess often makes those after it wrong. False where it was given up, at some proven pick, since a
        sweep over new guesses costs less.
        """
        open_, corrected = self.open(), 0
        most = self.rules.most_corrected * self.n / 2
        guesses = len(self.guessed)
        for t in range(done, done + guesses):
            self.teller.at((t - done) / guesses)
            winner, gain = self.contest(t, self.guessed[t - done], open_)
            self.picks.append(winner)
            self.gains.append(gain)
            open_[winner] = False
            if winner != self.guessed[t - done]:
                corrected += self.correct(t, t - done, winner)
            if corrected > most:
                break
        self.known, alive = self.tiles.gains(len(self.picks))
        self.upper = self.upper_bounds(self.known, alive)
        all_proven = len(self.picks) == done + guesses
        if not all_proven:
            self.tiles.drop(len(self.picks))
        self.tiles.forget()
        return all_proven

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

    def correct(self, t: int, at: int, winner: int) -> int:
        """The guess at step t was wrong: put the right pick before it, in the place of the guess most like it.

        Returns how many rows of the kernel that took.
        """
        rest = self.guessed[at:]
        moved = 1 + (rest.index(winner) if winner in rest else self.most_like(winner, rest))
        self.guessed[at : at + moved] = [winner, *self.guessed[at : at + moved - 1]]
        return self.tiles.replace(t, self.guessed[at:], moved)

    def most_like(self, point: int, others: list[int]) -> int:
        """Which of `others` covers the most of what `point` does, by where it is."""
        rows = self.p.features[[point, *others]].double()
        if self.p.kernel == "cosine":
            rows = torch.nn.functional.normalize(rows, dim=1)
        return int((rows[1:] - rows[0]).square().sum(1).argmin())
