"""The registry of scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Predictions:
    """Logits of P pixels: `single` (P, C) under the fixed noise, `samples` (P, K, C) of K passes if asked for.

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
    samples: str | None
    function: Callable[[Predictions], torch.Tensor]


SCORES: dict[str, Score] = {}


def score(name: str, summary: str, *, samples: str | None = None):
    """Register a function from `Predictions` to one number a pixel, the highest asked first.

    Args:
        name: the acquisition's name.
        summary: one line for the listing.
        samples: what the K passes it reads differ in: "noise", the encoder's noise draws; "dropout", MC dropout
            on the class scores, with which the head is then trained, too; None, it reads no passes.
    """

    def register(function):
        SCORES[name] = Score(name, summary, samples, function)
        return function

    return register
