"""MaxHerding in which the pixels on which the head is unsure count more: coverage and uncertainty in one objective.

The weight of a pixel is 1 - margin, the margin being the difference of the two highest probabilities. Unlike in
`uherding`, which has the bandwidth of its paper, the kernel keeps that of stage 1, so that the picks of a round keep
apart from each other and from what was queried before, however many labels there are. What is to be covered are all
candidates; after stage 1 only those that it kept may be picked.

`balanced-herding` also weighs by how much a label of the pixel is expected to add, and to be given:

    weight = (1 - margin) * sum_c p(c) / (1 + n_c) * P(answered)^3

where n_c counts the labels of class c so far. The power keeps queries off pixels that are likely skipped; on CamVid's
validation split it cost no accuracy. Rare classes have few labels and are confused with common ones; their
pixels then count as much as those of large surfaces. It chooses among all local picks: what stage 1b would leave out,
the coverage in its own objective leaves out, too.
"""

from __future__ import annotations

import numpy as np
import torch

import difal_kernels
from difal.acquisition.base import Pool, selector
from difal.heads import Head

ANSWERED = 3  # power of the probability that a pixel is answered


@selector("margin-herding", "MaxHerding weighted by 1 - margin, which covers where the head is unsure")
def choose(pool: Pool):
    return herd(pool, np.ones(len(pool.before)) if pool.head is None else _unsure(logits_of(pool, pool.head)))


@selector(
    "balanced-herding",
    "MaxHerding over the local picks, weighted by margin, rarity of labels and chance of an answer",
    pixels="local",
)
def herd_balanced(pool: Pool):
    weights = pool.answered**ANSWERED
    if pool.head is not None:
        logits = logits_of(pool, pool.head)
        weights = weights * _unsure(logits) * rarity(pool, logits)
    return herd(pool, weights)


def rarity(pool: Pool, logits: torch.Tensor) -> np.ndarray:
    """(len(before),) of (len(before), C): sum_c p(c) / (1 + n_c), n_c being the labels of class c so far."""
    labels = torch.tensor([label for label in pool.labels if label is not None], dtype=torch.int64)
    wanted = 1 / (1 + torch.bincount(labels, minlength=logits.shape[1]).double())
    return (logits.double().softmax(1) @ wanted).numpy()


def logits_of(pool: Pool, head: Head) -> torch.Tensor:
    """(len(before), C) of the candidates before stage 1 left any out, as training left the head."""
    return head.logits(pool.cache.features(pool.pixels), pool.before, learned=True)


def _unsure(logits: torch.Tensor) -> np.ndarray:
    return difal_kernels.margin(logits).double().numpy().clip(0)


def herd(pool: Pool, weights: np.ndarray):
    """Choose by MaxHerding of weighted candidates (len(before),): positions in `rows`, and gains."""
    chosen = difal_kernels.uherding(  # where all weights are equal, or none is left, MaxHerding
        pool.cache.features(pool.pixels)[pool.before],
        weights,
        pool.budget,
        labeled=pool.labeled,
        candidates=np.searchsorted(pool.before, pool.rows),
        kernel=pool.config.kernel,
        return_info=True,
    )
    return np.searchsorted(pool.rows, pool.before[chosen.indices]), chosen.gains
