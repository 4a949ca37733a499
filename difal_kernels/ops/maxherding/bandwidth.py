"""The default bandwidth, and the rows that stand for a pool."""

from __future__ import annotations

import numpy as np
import torch


def sample_rows(n: int, count: int) -> torch.Tensor:
    """Choose `count` distinct rows of `n`, ascending: those whose hashed index is smallest. The same on any machine.

    The hash is SplitMix64's output function (Steele, Lea, Flood 2014), so nothing depends on a library's generator.
    """
    z = (np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return torch.from_numpy(np.sort(np.argsort(z, kind="stable")[:count]))


def median_bandwidth(features: torch.Tensor) -> float:
    """Twice the median non-zero pairwise distance of max(10, N / 100) rows; 1.0 where all those rows are equal."""
    n = len(features)
    rows = features[sample_rows(n, min(n, max(10, n // 100))).to(features.device)].double()
    distances = torch.pdist(rows)
    distances = distances[distances > 0].cpu().numpy()
    return 2 * float(np.median(distances)) if distances.size else 1.0
