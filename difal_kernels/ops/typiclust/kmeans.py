"""Lloyd's k-means in float64 whose clusters depend on the numbers and the seed alone.

Libraries add up the points of a cluster in an order that depends on threads, and a near-tie then falls either way. Here
a GEMM in float64 finds the contending centres, differences settle near-ties, and sums run in the order of the rows.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

BLOCK = 2048  # rows of a distance matrix
ROUNDS = 100
TIE = 1e-12  # of a squared distance, relative: the lowest centre wins


def kmeans(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(N,) int64 cluster of each row of float64 x (N, D); at most `count` clusters, some may be empty."""
    x = x - x.mean(0)  # distances stay, and products lose less
    centres = _plus_plus(x, count, seed)
    labels = assign(x, centres)
    for _ in range(ROUNDS):
        centres = _means(x, labels, centres)
        last, labels = labels, assign(x, centres)
        if np.array_equal(labels, last):
            break
    return labels


def assign(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each row, ties to the lowest."""
    squares = np.einsum("kd,kd->k", centres, centres)
    labels = np.empty(len(x), dtype=np.int64)
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK]
        own = np.einsum("nd,nd->n", rows, rows)
        q = own[:, None] + squares - 2 * (rows @ centres.T)
        bound = 1e-15 * (x.shape[1] + 8) * (own + squares.max())  # of the rounding of q, and room
        close = q <= (q.min(1) + 2 * bound)[:, None] * (1 + 2 * TIE)
        labels[start : start + len(rows)] = close.argmax(1)
        for r in np.flatnonzero(close.sum(1) > 1):
            rivals = np.flatnonzero(close[r])
            exact = np.square(centres[rivals] - rows[r]).sum(1)
            labels[start + r] = rivals[exact <= exact.min() * (1 + TIE)][0]
    return labels


def _means(x: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Means of the clusters; an empty one keeps its centre."""
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(len(centres) + 1))
    means = centres.copy()
    for c, (begin, end) in enumerate(pairwise(bounds)):
        if end > begin:
            means[c] = x[order[begin:end]].mean(0)
    return means


def _plus_plus(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    """k-means++ (Arthur, Vassilvitskii 2007): each centre a row drawn by its squared distance to those before."""
    chosen = [int(uniform(seed, 0) * len(x))]
    squared = np.square(x - x[chosen[0]]).sum(1)
    for c in range(1, min(count, len(x))):
        total = np.cumsum(squared)
        if total[-1] <= 0:
            break  # fewer different rows than clusters
        j = int(np.searchsorted(total, uniform(seed, c) * total[-1], side="right"))
        j = min(j, int(np.flatnonzero(squared > 0)[-1]))
        chosen.append(j)
        squared = np.minimum(squared, np.square(x - x[j]).sum(1))
    return x[chosen]


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) of its arguments alone: SplitMix64's output function (Steele, Lea, Flood 2014)."""
    mask = 2**64 - 1
    z = (seed * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) / 2**53
