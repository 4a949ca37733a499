"""Uncertainty herding: MaxHerding in which uncertain points count more."""

from __future__ import annotations

from typing import Any

import torch

from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from ..maxherding.backends import BACKENDS
from ..maxherding.problem import Batch
from ..maxherding.result import answer
from .coverage_takes_over import coverage_takes_over
from .problem import prepare

_OP = Op("uherding", prepare, BACKENDS)


@on_cpu_by_default
def uherding(
    features: Any,
    uncertainty: Any,
    budget: int,
    *,
    labeled: Any = None,
    candidates: Any = None,
    kernel: str = "rbf",
    bandwidth: Any = "median",
    lengths: Any = None,
    memory_limit: int | str | None = None,
    backend: str = "auto",
    return_info: bool = False,
    progress: bool = False,
) -> Any:
    """Pick `budget` points that together cover the uncertain part of the pool best, greedily and exactly.

    Maximises the uncertainty coverage C(S) = (1/N) sum_i u_i max_{s in S u L} k(x_i, x_s): `maxherding` with the
    uncertainties u as weights. With equal uncertainties it is MaxHerding; with a tiny bandwidth, where each point
    covers but itself, it is uncertainty sampling.

    Args:
        features: as for `maxherding`, (N, D) or (B, N, D).
        uncertainty: (N,) or (B, N) numbers >= 0, larger where the model knows less: entropy, 1 - margin, eDALD.
            Calibrate the model first (temperature scaling), or the few confident mistakes weigh nothing.
        budget, labeled, candidates, kernel, lengths, memory_limit, backend, return_info, progress: as for `maxherding`.
        bandwidth: as for `maxherding`, or "labeled": the smallest non-zero distance between two labeled points. It
            shrinks as labels accumulate, which leads from covering to uncertainty sampling; it is the rule of the
            authors' code. Where fewer than two different points are labeled it is "median".

    Returns:
        As `maxherding`.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `maxherding`; also for a wrong `uncertainty`.

    Warns:
        UserWarning: once everything uncertain is covered, as where `uncertainty` is zero, the remaining points are
            picked by coverage of the whole pool.

    References:
        Bae, Sutherland, Oliveira. Uncertainty Herding: One Active Learning Method for All Label Budgets. ICLR 2025,
        arXiv 2412.20644.

    Example:
        >>> import torch
        >>> from difal_kernels import uherding
        >>> line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
        >>> uherding(line, torch.tensor([0.1, 0.1, 0.1, 0.1, 0.9, 0.1]), 2, bandwidth=2.0)
        tensor([4, 1])
    """
    batch: Batch = prepare(
        features,
        uncertainty,
        budget,
        labeled=labeled,
        candidates=candidates,
        kernel=kernel,
        bandwidth=bandwidth,
        lengths=lengths,
        memory_limit=memory_limit,
        progress=progress,
        return_info=return_info,
    )
    chosen = _OP.choose(backend, batch)
    with torch.no_grad():
        results = coverage_takes_over(batch, _OP.backends[chosen].run(batch), _OP.backends[chosen].run)
    return answer(features, batch, results, [p.bandwidth for p in batch.problems], chosen, return_info)
