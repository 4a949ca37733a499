"""Guesses of the next picks, from a sample of rows: nothing here has to be right."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .bandwidth import sample_rows
from .kernel_functions import alive_above, kernel_matrix
from .primitives import Guessing, TiledGreedy
from .problem import Problem


class Guesser:
    """Guesses picks, and how many entries are alive after them.

    Args:
        p: the problem.
        tiles: what is asked for estimates, and takes the guesses.
        rules: see `Guessing`.
        horizon: picks that will be asked for at most.
        allowed: (N,) bool, the candidates.
    """

    def __init__(self, p: Problem, tiles: TiledGreedy, rules: Guessing, horizon: int, allowed: torch.Tensor):
        self.p, self.tiles, self.rules, self.horizon, self.allowed = p, tiles, rules, horizon, allowed
        self.n, self.torch_device = len(p.features), p.features.device
        self.unit = float(p.weights.max()) or 1.0
        self.told_apart = True  # see `compare`
        self.caution = 1.0  # how much more was alive than the watched points said
        self.least_guesses = 0  # since a sweep had no room for what was alive
        rows = sample_rows(self.n, rules.watched_points).to(self.torch_device)
        rows, columns = rows[0::2], rows[len(rows) > 1 :: 2]
        self.watched = rows, columns  # their kernel values tell how many entries are alive
        kernel = kernel_matrix(p.features[rows], p.features[columns], p.kernel, p.bandwidth)
        self.watched_reach = kernel * (1 + tiles.entry_error[columns])

    def had_room(self) -> None:
        """The last sweep gathered all that was alive."""
        self.least_guesses = 0

    def had_no_room(self) -> None:
        """The sample said too little, perhaps nothing at all: no sweep gathers before more picks are proven."""
        self.caution *= self.rules.slack
        self.least_guesses = max(1, 2 * self.least_guesses)

    def alive_estimate(self, m: torch.Tensor, wanted: torch.Tensor | None = None) -> float:
        """Estimate how many entries would be gathered at coverage m: pairs of which either may use the other.

        With `wanted`, what these candidates may use.
        """
        m = alive_above(m, self.p.kernel)
        (rows, columns), candidate = self.watched, self.allowed if wanted is None else wanted
        if not self.tiles.gathers_some:
            candidate = torch.ones_like(candidate)
        as_row = m[rows][:, None].where(candidate[columns][None], torch.inf)
        alive = self.watched_reach > torch.minimum(as_row, m[columns][None].where(candidate[rows][:, None], torch.inf))
        return float(alive.sum()) / alive.numel() * self.n * self.n * self.caution

    def fits(self, alive: float, guesses: int) -> bool:
        """Whether that many entries can be gathered by a sweep that proves so many guesses."""
        return alive * self.rules.slack <= self.tiles.room(guesses)

    def guess(
        self, done: int, known: torch.Tensor | None, open_: torch.Tensor, told: Callable[[int], None]
    ) -> tuple[list[int], bool]:
        """Guess picks until few enough entries are alive; the guesses, and whether they are.

        Args:
            done: picks so far.
            known: all gains after them, (N,) float64, where a sweep told them.
            open_: (N,) bool, the candidates that are left; overwritten.
            told: called with the number of guesses after each.
        """
        p, tiles, guessed = self.p, self.tiles, list[int]()
        level = tiles.coverage(done)
        if known is None:
            most = self.rules.first_guesses
            estimate = torch.zeros(self.n, dtype=torch.float64, device=self.torch_device)
            self.add_taken(estimate, p.weights.nonzero()[:, 0], level, torch.full_like(level, torch.inf))
        else:
            estimate, most = known / self.unit, int(max(1, min(tiles.max_guesses, self.rules.growth * done)))
        while True:
            count = tiles.guesses()
            few_alive = self.fits(self.alive_estimate(level), count - done)
            ready = few_alive and count - done >= self.least_guesses
            if ready or count - done == most or count == self.horizon:
                return guessed, few_alive
            enough = count > done and known is not None
            j = self.best_of_sample(estimate, open_)
            if enough and not self.told_apart:  # each wrong guess would cost a tenth of a sweep or more
                return guessed, False
            open_[j] = False
            tiles.guess(j)
            guessed.append(j)
            told(len(guessed))
            low, level = level, tiles.coverage(count + 1)
            self.add_taken(estimate.neg_(), (level > low).nonzero()[:, 0], low, level)
            estimate.neg_()

    def is_early(self) -> bool:
        """No sweep has told any gain yet."""
        return self.tiles.guesses() < self.rules.first_guesses

    def add_taken(self, out: torch.Tensor, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        """Add to `out` what `rows` take from each candidate when they rise from low to high, told by a sample."""
        if not len(rows):
            return
        size = self.rules.first_rows if self.is_early() else self.rules.sample_rows
        picked = rows[sample_rows(len(rows), min(size, len(rows))).to(self.torch_device)]
        weights = self.p.weights[picked] * (len(rows) / len(picked) / self.unit)
        self.tiles.estimate_taken(out, picked, low[picked].float(), high[picked].float(), weights)

    def best_of_sample(self, estimate: torch.Tensor, open_: torch.Tensor) -> int:
        """Of the candidates that the sample likes best, the one with the largest gain over the whole pool."""
        step, rules = self.tiles.guesses(), self.rules
        more = rules.first_tried // (step + 1) if self.is_early() else rules.next_tried // (step + 1) ** 2
        tried = max(rules.tried, min(rules.first_rows, more))
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
