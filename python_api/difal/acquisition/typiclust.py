"""TypiClust: the most typical pixel of each cluster without a label (Hacohen et al., ICML 2022)."""

from __future__ import annotations

from difal.acquisition.base import Pool, selector
from difal_kernels import typiclust


@selector("typiclust", "TypiClust, the most typical pixel of each cluster that has no label")
def choose(pool: Pool):
    picks = typiclust(pool.features, pool.budget, labeled=pool.labeled)
    return picks, [None] * len(picks)
