"""Which labels would tell a linear head most: greedy choice by Fisher information, the core of BAIT.

The scores of logistic regression have, after training on labeled rows x_i, a covariance of about M^-1 per class, where

    M = penalty I + sum_i h_i x_i x_i^T        over the labeled rows,
    h = 1 - sum_c p(c)^2                       the trace of the covariance of a one-hot class drawn from p.

What is made small is the variance of the scores on the pool, weighted by what matters there,

    trace(M^-1 F),    F = sum_j w_j h_j x_j x_j^T    over the pool.

A label of row x of expected information h adds h x x^T to M and so takes h x^T M^-1 F M^-1 x / (1 + h x^T M^-1 x) off
that trace (Sherman and Morrison). The row that takes off most is chosen, again and again.

Source: Ash, Goel, Krishnamurthy and Kakade, "Gone Fishing: Neural Active Learning with Fisher Embeddings", NeurIPS
2021.
BAIT's Fisher information has a block for each pair of classes; here one matrix stands for all of them.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from difal.heads.base import as_float
from difal.heads.logistic import moments
from difal_kernels._checks import check_finite

CHUNK = 4096  # rows in double precision at a time
AFRESH = 64  # choices after which what was kept up to date in single precision is made anew


class Axes:
    """Features as the head's penalty sees them: standardised by a context, along its principal axes.

    Args:
        context: (m, D) rows that look as the pool does, of any float type, m at least 1.
        count: axes to keep, at most m; D or fewer are kept as they are, without a rotation.
        seed: of the random directions with which the search for the axes begins.
    """

    def __init__(self, context: np.ndarray, count: int, seed: int = 0):
        rows = as_float(context)
        self.scale = _power_of_two_near(rows)
        rows *= self.scale
        self.mean, self.deviation = moments(rows, rows)
        self.axes: torch.Tensor | None = None
        if rows.shape[1] > count:
            self.axes = _principal((rows - self.mean) / self.deviation, min(count, len(rows)), seed)

    def __call__(self, features: np.ndarray, rows: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """(n, D) features, a memory map perhaps, of which `rows` are read in chunks, to (n, count) float32."""
        places = np.arange(len(features))[rows]
        parts = [torch.empty(0, len(self.mean) if self.axes is None else self.axes.shape[1])]
        for start in range(0, len(places), CHUNK):
            some = as_float(features[places[start : start + CHUNK]]).mul_(self.scale)
            some = (some - self.mean) / self.deviation
            parts.append(some if self.axes is None else some @ self.axes)
        return torch.cat(parts)


def _power_of_two_near(rows: torch.Tensor) -> float:
    """What takes the largest of `rows` to about 1, so that no sum or square is beyond float32; it changes no digit."""
    exponent = math.frexp(float(rows.abs().max()))[1]  # 0 for what is not finite
    return math.ldexp(1.0, -max(-126, min(exponent - 1, 126)))


def _principal(rows: torch.Tensor, count: int, seed: int, turns: int = 3) -> torch.Tensor:
    """(D, count) orthonormal: about the axes along which `rows` (m, D) vary most, by subspace iteration."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn(rows.shape[1], count, generator=generator)
    for _ in range(turns):
        axes, _ = torch.linalg.qr(rows.T @ (rows @ axes))
    return axes


def impurity(probabilities: torch.Tensor) -> torch.Tensor:
    """(n,) float64 of (n, C): 1 - sum_c p(c)^2, between 0 and 1 - 1 / C."""
    return 1 - probabilities.double().square().sum(1)


def most_informative(
    rows: torch.Tensor,
    information: torch.Tensor,
    importance: torch.Tensor,
    free: torch.Tensor,
    labeled: torch.Tensor,
    labeled_information: torch.Tensor,
    budget: int,
    penalty: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose rows one after the other, each the one that lowers the weighted variance of the scores most.

    Args:
        rows: (n, d) float32 or float64, the pool; sums over it are float64.
        information: (n,) at least 0: h of a label of each row, times the chance that it is given.
        importance: (n,) at least 0: w h of each row as a part of the pool.
        free: (n,) bool, which rows may be chosen.
        labeled: (L, d), labeled so far.
        labeled_information: (L,) h of each.
        budget: how many to choose, at most the free ones.
        penalty: above 0, of the head.

    Returns:
        Positions (budget,) in the order of choice and what each took off the variance, in units of what it was before
        the first (it is at most 1 in all). Ties go to the first row.

    Raises:
        ValueError: `rows`, `information` or `labeled` are not finite, as of a damaged cache.
    """
    for name, value in (("rows", rows), ("information", information), ("labeled", labeled)):
        check_finite(value, name)
    matrix = penalty * torch.eye(rows.shape[1], dtype=torch.float64) + _weighted_gram(labeled, labeled_information)
    inverse = torch.linalg.inv(matrix)
    share = importance / importance.sum().clamp(min=torch.finfo(torch.float64).tiny)
    wanted = inverse @ _weighted_gram(rows, share) @ inverse  # M^-1 F M^-1
    before = (wanted * matrix).sum().clamp(min=torch.finfo(torch.float64).tiny)  # trace(M^-1 F)
    leverage, useful = _quadratic(rows, inverse), _quadratic(rows, wanted)
    free = free.clone()
    chosen, gains = [], []
    for _ in range(budget):
        gain = torch.where(free, information * useful / (1 + information * leverage), -1.0)
        best = int(gain.argmax())
        free[best] = False
        chosen.append(best)
        gains.append(float(gain[best] / before))
        h, x = information[best], rows[best].double()
        v, u = inverse @ x, wanted @ x
        factor, twist = h / (1 + h * (x @ v)), x @ u
        along = (rows @ torch.stack([v, u], 1).to(rows.dtype)).double()  # (n, 2)
        leverage = leverage - factor * along[:, 0].square()
        useful = useful - 2 * factor * along[:, 0] * along[:, 1] + factor**2 * twist * along[:, 0].square()
        inverse = inverse - factor * torch.outer(v, v)
        wanted = wanted - factor * (torch.outer(v, u) + torch.outer(u, v)) + factor**2 * twist * torch.outer(v, v)
        if len(chosen) % AFRESH == 0:
            leverage, useful = _quadratic(rows, inverse), _quadratic(rows, wanted)
    return np.array(chosen, np.int64), np.array(gains)


def _weighted_gram(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(d, d) float64: sum_i w_i x_i x_i^T."""
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for some, weight in zip(rows.split(CHUNK), weights.split(CHUNK), strict=True):
        total += some.double().T @ (some.double() * weight[:, None])
    return total


def _quadratic(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(n,) float64: x_i^T A x_i."""
    return torch.cat([((some.double() @ matrix) * some.double()).sum(1) for some in rows.split(CHUNK)])
