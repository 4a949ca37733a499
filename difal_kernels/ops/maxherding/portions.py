"""Where there is no room for what all candidates may use: some of them alone, for as long as no other can be next."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .guessing import Guesser


def choose(guesser: Guesser, upper: torch.Tensor, open_: torch.Tensor, gains: Sequence[float]) -> torch.Tensor | None:
    """Choose candidates to gather for where all is too much: a large share of them, those that may gain the most.

    Args:
        guesser: tells how much is alive.
        upper: (N,) float64, what no gain is above.
        open_: (N,) bool, the candidates that are left.
        gains: of the picks so far.

    Returns:
        Flags, (N,) bool; None where there is room for all, or will be after the next guesses, or it does not pay.
    """
    tiles, rules, done = guesser.tiles, guesser.rules, len(gains)
    if not tiles.gathers_some:
        return None
    level, most = tiles.coverage(done), tiles.max_guesses
    alive = guesser.alive_estimate(level)
    if guesser.fits(alive, 0) or guesser.fits(alive * done / (done + most), most):
        return None
    best = float(upper[open_].max())
    for share in rules.shares_gathered:
        wanted = largest(upper, open_, share)
        if guesser.fits(guesser.alive_estimate(level, wanted), 0):
            least = float(upper[open_ & ~wanted].max())
            return wanted if picks_above(least, best, gains) >= rules.least_gathered else None
    return None


def picks_above(gain: float, best: float, gains: Sequence[float]) -> float:
    """Estimate the picks ahead that gain more than this, if gains go on to fall as since half as many picks.

    `best`: what none of them gains more than.
    """
    done = len(gains)
    half = max(1, done // 2)
    if best <= max(gain, 0.0) or done < 4 or gains[half - 1] <= gains[-1]:
        return 0.0
    power = math.log(gains[half - 1] / max(gains[-1], 1e-300)) / math.log(done / half)
    rise = math.log(best / max(gain, 1e-300))
    return done * math.expm1(rise / power) if rise < 700 * power else math.inf


def largest(values: torch.Tensor, open_: torch.Tensor, share: float) -> torch.Tensor:
    """Flags of the open candidates with the largest values, about that share of them; (N,) bool."""
    ordered = values[open_].sort(descending=True).values
    return open_ & (values > ordered[int(share * (len(ordered) - 1))])
