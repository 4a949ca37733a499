"""Random pixels."""

from __future__ import annotations

import numpy as np

from difal.acquisition.base import Pool, selector


@selector("random", "random pixels")
def choose(pool: Pool):
    rng = np.random.default_rng(pool.seed)
    return rng.choice(len(pool.rows), pool.budget, replace=False), [None] * pool.budget
