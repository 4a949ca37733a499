"""BAIT: the pixels whose labels would tell the linear head most about the others, by Fisher information.

`bait` makes the variance of the head's scores small over all candidates alike. `balanced-bait` counts each candidate by
how few labels its likely classes have and by the chance that an annotator can answer:

    importance = sum_c p(c) / (1 + n_c) * P(answered)^2,    information = h * P(answered)^3

where n_c counts the labels of class c so far and h is the information of a label, see `information`. Rare classes have
few labels, and an IoU averaged over classes counts them as much as large surfaces. It chooses among all local picks.
Before there is a head, both choose by MaxHerding.

`bait-then-herding`, the default, is `balanced-bait` while there are fewer than eight labels a class and
`balanced-herding` from then on. With few labels the margins of a head say little, and the information of a label, which
counts where labels are already, says more; later it is the other way round. On CamVid's validation split that order was
ahead of either alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from difal.acquisition.base import Pool, selector
from difal.acquisition.information import Axes, impurity, most_informative
from difal.acquisition.margin_herding import ANSWERED, herd, herd_balanced, logits_of, rarity
from difal.features.cache import FeatureCache
from difal.heads import Head
from difal.threads import one_thread

AXES = 256  # principal axes of the features: on CamVid 384 gave no better picks
FEW = 8  # labels a class; with 16 and 24 the picks were less good at the end, on CamVid's validation split
LEAST_PENALTY = 1e-3  # without any, the variance along axes that no label touches has no bound
IMPORTANT = 2  # power of the probability that a pixel is answered, in its importance


@selector("bait", "BAIT, the labels that would make the head's scores vary least, by Fisher information")
def choose(pool: Pool):
    alike = np.ones(len(pool.before))
    if pool.head is None:
        return herd(pool, alike)
    return _choose(pool, pool.head, logits_of(pool, pool.head), alike, alike)


@selector(
    "balanced-bait",
    "BAIT over the local picks, weighted by rarity of labels and chance of an answer",
    pixels="local",
)
def choose_balanced(pool: Pool):
    chance = pool.answered**ANSWERED
    if pool.head is None:
        return herd(pool, chance)
    logits = logits_of(pool, pool.head)
    return _choose(pool, pool.head, logits, pool.answered**IMPORTANT * rarity(pool, logits), chance)


@selector(
    "bait-then-herding",
    "balanced-bait while there are fewer than 8 labels a class, then balanced-herding",
    pixels="local",
)
def choose_in_turn(pool: Pool):
    labels = sum(label is not None for label in pool.labels)
    return (herd_balanced if labels >= FEW * pool.classes else choose_balanced)(pool)


@one_thread()
def _choose(pool: Pool, head: Head, logits: torch.Tensor, importance: np.ndarray, chance: np.ndarray):
    axes, spread = _axes(pool.cache), impurity(logits.softmax(1))
    labels = pool.labels or [0] * len(pool.queried)  # where none is given, every query counts as labeled
    labeled = [pixel for pixel, label in zip(pool.queried, labels, strict=True) if label is not None]
    known = pool.cache.features_of(labeled)
    chosen, gains = most_informative(
        axes(pool.cache.features(pool.pixels), pool.before),
        spread * torch.from_numpy(chance),
        spread * torch.from_numpy(importance),
        torch.from_numpy(np.isin(pool.before, pool.rows)),
        axes(known),
        impurity(head.logits(known, np.arange(len(known)), learned=True).softmax(1)),
        pool.budget,
        max(pool.config.penalty, LEAST_PENALTY),
    )
    return np.searchsorted(pool.rows, pool.before[chosen]), gains


@lru_cache(maxsize=1)
def _axes(cache: FeatureCache) -> Axes:
    return Axes(cache.context(), AXES)
