"""The registry of scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Predictions:
    """Logits of P pixels: `single` (P, C) under the fixed noise, `samples` (P, K, C) under K draws if asked for.

    `generator` is for scores that draw at random; it is seeded by the run's seed and the round.
    """

    single: torch.Tensor
    samples: torch.Tensor | None
    generator: torch.Generator
    edald_weight: float = 1.0


@dataclass(frozen=True)
class Score:
    name: str
    summary: str
    samples: bool
    function: Callable[[Predictions], torch.Tensor]


SCORES: dict[str, Score] = {}


def score(name: str, summary: str, *, samples: bool = False):
    """Register a function from `Predictions` to one number a pixel, the highest asked first.

    Args:
        name: the acquisition's name.
        summary: one line for the listing.
        samples: whether it reads the predictions under the noise draws.
    """

    def register(function):
        SCORES[name] = Score(name, summary, samples, function)
        return function

    return register
