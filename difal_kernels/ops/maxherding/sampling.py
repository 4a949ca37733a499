"""Coverage estimated on some of the rows: how they are drawn, and how far the estimate may be off."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..._checks import as_int
from .bandwidth import splitmix64
from .kernel_functions import kernel_matrix
from .problem import Batch, Problem

CONFIDENCE = 0.95  # of the error that is stated
CHOOSING, CHECKING = 0, 1  # streams of draws: the rows that picks are chosen by, and those that coverage is read from
ROWS, PICKS = 4096, 256  # whose kernel is made at a time


@dataclass(frozen=True)
class SampledCoverage:
    """How a selection with `sample_rows` was made, and how sure its coverage is.

    Attributes:
        rows: how many rows the picks were chosen by, and as many others its coverage was read from.
        seed: which rows these were.
        coverage: (budget + 1,) float64, the estimate of C before the first pick and after each.
        error: all of these estimates together are within this of the true C ...
        confidence: ... with at least this probability over the rows drawn.
        chosen_coverage: the coverage of all picks on the rows that they were chosen by, which flatters them.
    """

    rows: int
    seed: int
    coverage: Any
    error: float
    confidence: float
    chosen_coverage: float


def sampled(batch: Batch, sample_rows: Any, seed: Any) -> Batch:
    """The same selection, with coverage over `sample_rows` of the rows only.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, or a selection that has no rows to draw.
    """
    count, seed = as_int(sample_rows, "sample_rows", low=1), as_int(seed, "seed", low=0, high=2**63 - 1)
    if batch.batched:
        raise ValueError("`sample_rows` goes with 2-D `features`, one selection; call once for each of the batch")
    (p,) = batch.problems
    if p.kernel == "precomputed":
        raise ValueError("`sample_rows` goes with features, not with kernel='precomputed'")
    n = len(p.features)
    if count > n:
        raise ValueError(f"`sample_rows` must be at most the number of points, {n}, got {count}")
    rows = draw_rows(p.weights.cpu(), count, seed, CHOOSING)
    candidates = torch.arange(n) if p.candidates is None else p.candidates
    weights = torch.full((count,), float(p.weights.mean()), dtype=torch.float64)
    return replace(batch, problems=(replace(p, rows=rows, weights=weights, candidates=candidates),))


def draw_rows(weights: torch.Tensor, count: int, seed: int, stream: int) -> torch.Tensor:
    """Draw rows of which the mean of a function, times the mean weight, estimates its weighted mean over all.

    Equal weights: without replacement. Others: in proportion to the weights, with replacement.

    Args:
        weights: (N,) float64, >= 0.
        count: how many.
        seed, stream: which; different streams are independent.

    Returns:
        (count,) int64, ascending. The same on any machine.
    """
    n = len(weights)
    start = splitmix64(np.array([2 * seed + stream], dtype=np.uint64))
    if bool((weights == weights[0]).all()):
        order = np.argsort(splitmix64(start + np.arange(n, dtype=np.uint64)), kind="stable")
        return torch.from_numpy(np.sort(order[:count]))
    parts = np.cumsum(weights.numpy())
    uniform = (splitmix64(start + np.arange(count, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53
    at = np.searchsorted(parts, uniform * parts[-1], side="right")
    last = int(np.flatnonzero(weights.numpy())[-1])  # where rounding would go beyond
    return torch.from_numpy(np.sort(np.minimum(at, last)).astype(np.int64))


def check(whole: Problem, sample: Problem, picks: torch.Tensor, chosen_coverage: float, seed: int) -> SampledCoverage:
    """Read the coverage of picks from rows that had no part in choosing them.

    Args:
        whole: the problem as the user gave it.
        sample: what was solved.
        picks: (budget,) in pick order.
        chosen_coverage: what was reached on the rows of `sample`.
        seed: as for `sampled`.
    """
    count, mean_weight = sample.row_count, float(whole.weights.mean())
    rows = draw_rows(whole.weights.cpu(), count, seed, CHECKING)
    coverage = torch.zeros(len(picks) + 1, dtype=torch.float64)
    for some in rows.split(ROWS):
        x = whole.features[some]
        m = torch.zeros(len(some), dtype=torch.float64)
        for labeled in () if whole.labeled is None else whole.labeled.split(PICKS):
            m = torch.maximum(m, kernel_matrix(x, labeled, whole.kernel, whole.bandwidth).amax(1))
        coverage[0] += m.sum()
        for begin in range(0, len(picks), PICKS):
            k = kernel_matrix(x, whole.features[picks[begin : begin + PICKS]], whole.kernel, whole.bandwidth)
            after = torch.maximum(k.cummax(1).values, m[:, None])
            coverage[begin + 1 : begin + 1 + k.shape[1]] += after.sum(0)
            m = after[:, -1]
    coverage *= mean_weight / count
    error = mean_weight * hoeffding(count, len(picks) + 1, 1 - CONFIDENCE)
    return SampledCoverage(count, seed, coverage, error, CONFIDENCE, chosen_coverage)


def hoeffding(count: int, statements: int, doubt: float) -> float:
    """The t with P(any of `statements` means of `count` numbers in [0, 1] is off by more than t) <= doubt.

    Hoeffding's inequality (1963), which holds with and without replacement, and a union over the statements.
    """
    return math.sqrt(math.log(2 * statements / doubt) / (2 * count))
