"""ProbCover: the pixels whose balls hold the most uncovered pixels (Yehuda et al., NeurIPS 2022)."""

from __future__ import annotations

import numpy as np
import torch

import difal_kernels
from difal.acquisition.base import Pool, selector
from difal_kernels.ops.typiclust.kmeans import kmeans

PURE = 0.95  # share of the balls that hold points of one cluster only, as in the paper
SAMPLE = 4096  # rows by which the radius is judged


@selector("probcover", "ProbCover, the pixels whose balls of one radius hold the most uncovered pixels")
def choose(pool: Pool):
    radius = pool.config.radius
    if radius is None:
        radius = pure_radius(pool.cache.features(pool.pixels), pool.classes)
    chosen = difal_kernels.probcover(pool.features, radius, pool.budget, labeled=pool.labeled, return_info=True)
    return chosen.indices, chosen.gains


def pure_radius(features: np.ndarray, clusters: int, sample: int = SAMPLE) -> float:
    """The largest radius at which 95 % of the balls hold points of one k-means cluster only.

    A ball is pure up to the distance to the nearest point of another cluster, so the radius is a quantile of those
    distances. It is judged by at most `sample` rows, evenly spaced; fewer points make balls look purer.

    Example:
        >>> pure_radius(np.array([[0.0], [1.0], [5.0], [6.0]]), 2)
        4.0
    """
    rows = np.linspace(0, len(features) - 1, min(sample, len(features))).round().astype(np.int64)
    x = np.asarray(features[rows], np.float64)
    labels = kmeans(x, clusters, 0)
    points, groups = torch.from_numpy(x), torch.from_numpy(labels)
    nearest = np.empty(len(x))
    for start in range(0, len(x), 256):
        some = slice(start, start + 256)
        r = torch.cdist(points[some], points, compute_mode="donot_use_mm_for_euclid_dist")
        nearest[some] = r.masked_fill(groups[some, None] == groups, torch.inf).min(1).values.numpy()
    nearest = np.sort(nearest)
    if not np.isfinite(nearest[0]):
        raise ValueError("ProbCover's radius cannot be guessed: the features form one cluster; set --radius")
    return float(nearest[max(0, int((1 - PURE) * len(nearest)) - 1)])
