"""MaxHerding in which the pixels on which the head is unsure count more: coverage and uncertainty in one objective.

The weight of a pixel is 1 - margin, the margin being the difference of the two highest probabilities. Unlike in
`uherding`, which has the bandwidth of its paper, the kernel keeps that of stage 1, so that the picks of a round keep
apart from each other and from what was queried before, however many labels there are.
"""

from __future__ import annotations

import numpy as np

import difal_kernels
from difal.acquisition.base import Pool, selector


@selector("margin-herding", "MaxHerding weighted by 1 - margin, which covers where the head is unsure")
def choose(pool: Pool):
    weights = np.ones(len(pool.rows))
    if pool.logits is not None:
        weights = difal_kernels.margin(pool.logits).double().numpy().clip(0)
    chosen = difal_kernels.maxherding(
        pool.features,
        pool.budget,
        labeled=pool.labeled,
        weights=weights,
        kernel=pool.config.kernel,
        return_info=True,
    )
    return chosen.indices, chosen.gains
