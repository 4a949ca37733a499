"""The default bandwidth, and the rows that stand for a pool."""

from __future__ import annotations

import numpy as np
import torch

TERMS_AT_ONCE = 1 << 27  # of distances: between two looks at Ctrl-C


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
    distances = pair_distances(rows).cpu().numpy()
    zeros = distances.size - int(np.count_nonzero(distances))
    count = distances.size - zeros
    if not count:
        return 1.0
    middle = [zeros + (count - 1) // 2, zeros + count // 2]
    distances.partition(middle)  # in place: of 10,000 rows they take 400 MB
    return float(distances[middle].sum())  # twice the mean of the two


def pair_distances(rows: torch.Tensor, at_once: int = TERMS_AT_ONCE) -> torch.Tensor:
    """Distances of all pairs of rows (n, D), (n (n - 1) / 2,): those of `torch.pdist` but for rounding, in parts."""
    n, d = rows.shape
    height = max(1, at_once // (n * d))
    if height >= n:
        return torch.pdist(rows)
    out, done = torch.empty(n * (n - 1) // 2, dtype=rows.dtype, device=rows.device), 0
    for begin in range(0, n, height):
        some = rows[begin : begin + height]
        block = torch.cdist(some, rows[begin + 1 :], compute_mode="donot_use_mm_for_euclid_dist")
        for r in range(min(len(some), n - 1 - begin)):
            later = block[r, r:]
            out[done : done + len(later)] = later
            done += len(later)
    return out
