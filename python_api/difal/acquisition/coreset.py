"""CoreSet: k-center greedy, always the pixel farthest from all queried ones (Sener and Savarese, ICLR 2018)."""

from __future__ import annotations

from difal.acquisition.base import Pool, selector
from difal_kernels import kcenter_greedy


@selector("coreset", "CoreSet (k-center greedy), the pixel farthest from all queried ones, again and again")
def choose(pool: Pool):
    chosen = kcenter_greedy(pool.features, pool.budget, labeled=pool.labeled, return_info=True)
    return chosen.indices, chosen.distances
