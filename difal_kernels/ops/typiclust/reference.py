"""TypiClust in float64, in memory linear in N; see kmeans.py for the clusters."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from ..._progress import Progress
from .kmeans import kmeans

MIN_CLUSTER_POINTS = 5  # clusters of fewer points come last
ROWS = 1024  # rows of a cluster's distance matrix
TIE = 1e-12


class Typical(NamedTuple):
    """The answer of `typiclust(..., return_info=True)`.

    Attributes:
        indices: (budget,) int64, in pick order.
        typicality: (budget,) float64 of each pick; infinite where its neighbours are at distance 0, and 0 where it is
            alone in its cluster.
        clusters: (N,) int64, the cluster of each point of the pool.
        backend: what ran.
    """

    indices: Any
    typicality: Any
    clusters: Any
    backend: str = ""


def unavailable() -> None:
    return None


def supports(problem: Any) -> None:
    return None


def run(p: Any) -> Typical:
    n = len(p.features)
    x = p.features.double()
    if p.labeled is not None:
        x = torch.cat([x, p.labeled.double()])
    rows = x.cpu().numpy()
    count = min(p.max_clusters, p.budget + len(rows) - n, len(rows))
    clusters = kmeans(rows, max(count, 1), p.seed)
    members = [np.flatnonzero(clusters == c) for c in range(int(clusters.max()) + 1)]
    open_ = np.zeros(len(rows), dtype=bool)
    open_[:n] = p.allowed().cpu().numpy()
    labels = [int((m >= n).sum()) for m in members]
    left = [int(open_[m].sum()) for m in members]
    known: dict[int, np.ndarray] = {}
    picks, values = [], []
    with Progress(p.budget, "typiclust", p.progress) as bar:
        for _ in range(p.budget):
            c = min(
                (c for c in range(len(members)) if left[c]),
                key=lambda c: (len(members[c]) < MIN_CLUSTER_POINTS, labels[c], -len(members[c]), c),
            )
            if c not in known:
                known[c] = typicality(rows[members[c]], p.neighbours)
            value = np.where(open_[members[c]], known[c], -1.0)
            best = value.max()
            at = int(np.flatnonzero(value >= (best if np.isinf(best) else best * (1 - TIE)))[0])
            picks.append(int(members[c][at]))
            values.append(float(value[at]))
            open_[picks[-1]] = False
            labels[c] += 1
            left[c] -= 1
            bar.update(1)
    return Typical(
        torch.tensor(picks, dtype=torch.int64, device=x.device),
        torch.tensor(values, dtype=torch.float64, device=x.device),
        torch.from_numpy(clusters[:n]).to(x.device),
    )


def typicality(rows: np.ndarray, neighbours: int) -> np.ndarray:
    """1 / (mean distance to the nearest `neighbours` others, at most half of all) of each row of (n, D) float64."""
    count = min(neighbours, max(len(rows) // 2, 1))
    if len(rows) == 1:
        return np.zeros(1)
    x, mean = torch.from_numpy(rows), []
    for start in range(0, len(rows), ROWS):
        some = x[start : start + ROWS]
        r = torch.cdist(some, x, compute_mode="donot_use_mm_for_euclid_dist")
        r[torch.arange(len(some)), torch.arange(start, start + len(some))] = torch.inf
        nearest = r.topk(count, largest=False).values.sort(1).values
        mean.append(nearest.numpy().mean(1))
    with np.errstate(divide="ignore"):
        return 1 / np.concatenate(mean)
