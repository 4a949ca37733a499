"""Uncertainty herding: MaxHerding in which uncertain pixels count more (Bae et al., ICLR 2025).

The uncertainty is 1 - margin of the head as it is; the paper's temperature scaling, for which labels have to be held
back, is left out. Before there is a head all pixels count alike.
"""

from __future__ import annotations

import numpy as np

import difal_kernels
from difal.acquisition.base import Pool, selector


@selector("uherding", "UHerding, coverage of the pixels on which the head is unsure")
def choose(pool: Pool):
    unsure = np.ones(len(pool.rows)) if pool.logits is None else difal_kernels.margin(pool.logits).double().numpy()
    chosen = difal_kernels.uherding(
        pool.features,
        unsure.clip(0),
        pool.budget,
        labeled=pool.labeled,
        kernel=pool.config.kernel,
        bandwidth="median" if pool.config.kernel == "cosine" else "labeled",
        return_info=True,
    )
    return chosen.indices, chosen.gains
