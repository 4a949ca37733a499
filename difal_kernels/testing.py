"""Checks that others can run on their own selections: is this really the greedy answer?"""

from __future__ import annotations

from typing import Any

import torch

from ._checks import INTEGERS, as_data
from ._settings import on_cpu_by_default
from .ops.maxherding.problem import prepare
from .ops.maxherding.reference import kernel_matrix, labeled_coverage


@on_cpu_by_default
def replay(features: Any, picks: Any, **options: Any) -> torch.Tensor:
    """How far each pick was from the best of its step, in float64.

    Args:
        features, **options: as for `maxherding`, one problem; `bandwidth` as it was used.
        picks: (budget,) indices in pick order.

    Returns:
        (budget,) float64: (best gain - the pick's gain) / first gain at each step; 0 where the pick was the best.
        Infinite where a pick repeats or was not allowed.

    Notes:
        Makes the whole N x M kernel in float64: for checking, N up to some thousands.

    Example:
        >>> import torch
        >>> from difal_kernels import maxherding
        >>> from difal_kernels.testing import replay
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> bool((replay(x, maxherding(x, 10)) < 1e-9).all())
        True
    """
    picks = as_data(picks, "picks", INTEGERS).cpu()
    if picks.ndim != 1:
        raise ValueError(f"`picks` must be 1-D, of one selection, got shape {tuple(picks.shape)}")
    batch = prepare(features, len(picks), **options)
    if batch.batched:
        raise ValueError(f"`features` must be 2-D (N, D), one selection, got shape {tuple(features.shape)}")
    (p,) = batch.problems
    outside = picks[(picks < 0) | (picks >= len(p.features))]
    if len(outside):
        raise ValueError(f"`picks` must be indices from 0 to {len(p.features) - 1}, got {int(outside[0])}")
    if p.kernel == "precomputed":
        k = p.features.double()
    else:
        k = kernel_matrix(p.features, p.features, p.kernel, p.bandwidth)
    m = labeled_coverage(p.features, p.labeled, p.kernel, p.bandwidth)
    allowed = torch.zeros(len(k), dtype=torch.bool)
    allowed[slice(None) if p.candidates is None else p.candidates] = True
    regret = []
    first = None
    for j in picks.tolist():
        gain = (p.weights[:, None] * (k - m[:, None]).clamp_(min=0)).sum(0)
        gain[~allowed] = -torch.inf
        best = gain.max()
        first = best if first is None else first
        regret.append((best - gain[j]) / first if first > 0 else best - gain[j])
        allowed[j] = False
        m = torch.maximum(m, k[:, j])
    return torch.stack(regret) if regret else torch.empty(0, dtype=torch.float64)
