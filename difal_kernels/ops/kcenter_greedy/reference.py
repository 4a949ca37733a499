"""Farthest-first traversal as it reads, in float64 on any device. The oracle of the other backends."""

from __future__ import annotations

import torch

from .._pool import Pool
from .result import TIE, Centers


def unavailable() -> None:
    return None


def supports(pool: Pool) -> None:
    return None


def run(pool: Pool) -> Centers:
    x, device = pool.features.double(), pool.device
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64, device=device)
    for center in () if pool.labeled is None else pool.labeled.double():
        nearest = torch.minimum(nearest, _distances(x, center))
    open_ = pool.allowed()
    picks, distances = [], []
    for _ in range(pool.budget):
        best = nearest[open_].max()
        reach = best if torch.isinf(best) else best * (1 - TIE)
        j = int((open_ & (nearest >= reach)).nonzero()[0])
        picks.append(j)
        distances.append(float(nearest[j]))
        open_[j] = False
        nearest = torch.minimum(nearest, _distances(x, x[j]))
    return Centers(
        torch.tensor(picks, dtype=torch.int64, device=device),
        torch.tensor(distances, dtype=torch.float64, device=device),
        float(nearest.max()),
    )


def _distances(x: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    return (x - center).square().sum(1).sqrt()
