"""MaxHerding in which the pixels on which the head is unsure count more: coverage and uncertainty in one objective.

The weight of a pixel is 1 - margin, the margin being the difference of the two highest probabilities. Unlike in the
acquisition `uherding`, which has the bandwidth of its paper, the kernel keeps that of stage 1, so that the picks of a
round keep apart from each other and from what was queried before, however many labels there are. What is to be covered
are all candidates; after stage 1 only those that it kept may be picked.
"""

from __future__ import annotations

import numpy as np

import difal_kernels
from difal.acquisition.base import Pool, selector


@selector("margin-herding", "MaxHerding weighted by 1 - margin, which covers where the head is unsure")
def choose(pool: Pool):
    features, weights = pool.cache.features(pool.pixels), np.ones(len(pool.before))
    if pool.head is not None:
        weights = difal_kernels.margin(pool.head.logits(features, pool.before)).double().numpy().clip(0)
    chosen = difal_kernels.uherding(  # with equal weights, MaxHerding; where no pixel is unsure, coverage takes over
        features[pool.before],
        weights,
        pool.budget,
        labeled=pool.labeled,
        candidates=np.searchsorted(pool.before, pool.rows),
        kernel=pool.config.kernel,
        return_info=True,
    )
    return np.searchsorted(pool.rows, pool.before[chosen.indices]), chosen.gains
