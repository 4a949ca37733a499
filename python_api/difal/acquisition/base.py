"""The registry of scores, which rate pixels one by one, and of selectors, which choose a round's pixels together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from difal.config import Config
from difal.features.cache import FeatureCache, Pixel
from difal.heads import Head


@dataclass(frozen=True)
class Predictions:
    """Logits of P pixels: `single` (P, C) under the fixed noise, `samples` (P, K, C) of K passes or None.

    `generator` is for scores that draw at random; it is seeded by the run's seed and the round.
    """

    single: torch.Tensor
    samples: torch.Tensor | None
    generator: torch.Generator
    config: Config


@dataclass(frozen=True)
class Score:
    name: str
    summary: str
    samples: str | None
    function: Callable[[Predictions], torch.Tensor]


@dataclass(frozen=True)
class Pool:
    """What a selector chooses from: the candidates `rows` of a set of the cache, in pool order.

    `before` are the candidates before stage 1 left any out, in pool order; without a stage 1 they are `rows`.
    `answered` (len(before),) is the estimated probability that an annotator can answer each. `labels` has the class of
    each pixel of `queried`, None where it was skipped. `seed` is derived from the run's seed and the round, `classes`
    is the number of classes.
    """

    cache: FeatureCache
    pixels: str
    rows: np.ndarray
    before: np.ndarray
    answered: np.ndarray
    queried: Sequence[Pixel]
    labels: Sequence[int | None]
    budget: int
    head: Head | None
    seed: int
    classes: int
    config: Config

    @property
    def asked(self) -> Sequence[Pixel]:
        """The earlier name of `queried`."""
        warnings.warn("`Pool.asked` is `Pool.queried` now", DeprecationWarning, stacklevel=2)
        return self.queried

    @cached_property
    def features(self) -> np.ndarray:
        """(n, D) features of the candidates."""
        return self.cache.features(self.pixels)[self.rows]

    @cached_property
    def labeled(self) -> np.ndarray | None:
        """(L, D) features of the pixels queried so far, labeled or skipped; None if there are none."""
        return self.cache.features_of(self.queried) if self.queried else None

    @cached_property
    def logits(self) -> torch.Tensor | None:
        """(n, C) logits of the candidates; None before there is a head."""
        if self.head is None:
            return None
        return self.head.logits(self.features, np.arange(len(self.rows)), learned=True)


@dataclass(frozen=True)
class Selector:
    name: str
    summary: str
    function: Callable[[Pool], tuple[np.ndarray, Sequence[float | None]]]
    pixels: str = "random"


SCORES: dict[str, Score] = {}
SELECTORS: dict[str, Selector] = {}


def score(name: str, summary: str, *, samples: str | None = None):
    """Register a function from `Predictions` to one number a pixel, the highest queried first.

    Args:
        name: the acquisition's name.
        summary: one line for the listing.
        samples: what the K passes it reads differ in: "noise", the encoder's noise samples; "dropout", MC dropout
            on the class scores, with which the head is then trained, too; None, it reads no passes.
    """

    def register(function):
        SCORES[name] = Score(name, summary, samples, function)
        return function

    return register


def selector(name: str, summary: str, *, pixels: str = "random"):
    """Register a function from a `Pool` to the picks: positions in `rows`, best first, and a number or None for each.

    It needs no head, and so chooses the first round's pixels, too. Without stage 1b it chooses among `pixels`: the
    "random" ones of each image, or the "local" picks of stage 1a.
    """

    def register(function):
        SELECTORS[name] = Selector(name, summary, function, pixels)
        return function

    return register
