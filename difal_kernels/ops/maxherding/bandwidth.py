"""The default bandwidth, and the rows that stand for a pool."""

from __future__ import annotations

import numpy as np
import torch


def sample_rows(n: int, count: int) -> torch.Tensor:
    """Choose `count` distinct rows of `n`, ascending: those whose hashed index is smallest. The same on any machine.

    The hash is SplitMix64's output function (Steele, Lea, Flood 2014), so nothing depends on a library's generator.
    """
    z = splitmix64(np.arange(n, dtype=np.uint64))
    return torch.from_numpy(np.sort(np.argsort(z, kind="stable")[:count]))


def splitmix64(state: np.ndarray) -> np.ndarray:
    """SplitMix64's output from each of these states, uint64."""
    z = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def median_bandwidth(features: torch.Tensor) -> float:
    """Twice the median non-zero pairwise distance of max(10, N / 100) rows; 1.0 where all those rows are equal."""
    n = len(features)
    rows = features[sample_rows(n, min(n, max(10, n // 100))).to(features.device)].double()
    distances = torch.pdist(rows).cpu().numpy()
    zeros = distances.size - int(np.count_nonzero(distances))
    count = distances.size - zeros
    if not count:
        return 1.0
    middle = [zeros + (count - 1) // 2, zeros + count // 2]
    distances.partition(middle)  # in place: of 10,000 rows they take 400 MB
    return float(distances[middle].sum())  # twice the mean of the two
