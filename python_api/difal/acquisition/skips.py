"""Which pixels an annotator could not answer, learned from those that were skipped.

A balanced logistic regression of skipped against answered queries, on the features that the head sees. What it finds
likelier skipped than answered is not queried: a skipped query costs as much as a label and teaches the head nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from difal.config import Config
from difal.features.cache import FeatureCache, Pixel
from difal.heads.logistic import standardised_logistic
from difal.threads import one_thread

CHUNK = 4096  # rows of features in float32 at a time


@one_thread()
def answerable(
    cache: FeatureCache,
    pixels: str,
    rows: np.ndarray,
    queried: Sequence[Pixel],
    skipped: Sequence[bool],
    budget: int,
    config: Config,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that an annotator will rather answer than skip, and the probability of that for each.

    All rows are given where fewer than `budget` would be left.

    Args:
        cache, pixels, rows: candidates of a set of the cache.
        queried: the queried pixels.
        skipped: of each of them whether it was skipped; where all or none were, nothing is left out.
        budget: how many rows there must be.
        config: `penalty`.
    """
    targets = torch.tensor(list(skipped), dtype=torch.int64)
    if not len(targets) or targets.min() == targets.max():
        return rows, np.ones(len(rows))
    weight, bias = standardised_logistic(cache.features_of(queried), targets, cache.context(), 2, config.penalty)
    weight, bias = (weight[1] - weight[0]).float(), (bias[1] - bias[0]).float()
    features = cache.features(pixels)
    odds = [np.zeros(0, np.float32)]
    for start in range(0, len(rows), CHUNK):
        some = torch.from_numpy(features[rows[start : start + CHUNK]].astype(np.float32))
        odds.append((some @ weight + bias).numpy())
    with np.errstate(over="ignore"):  # where the odds are beyond a float, the probability is 0
        answered = 1 / (1 + np.exp(np.concatenate(odds).astype(np.float64)))
    kept = answered >= 0.5
    return (rows[kept], answered[kept]) if kept.sum() >= budget else (rows, answered)
