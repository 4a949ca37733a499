"""Greedy facility location as the formula reads, in float64 on any device. The oracle of all other backends."""

from __future__ import annotations

import torch

from .kernel_functions import kernel_matrix
from .problem import Batch, Problem
from .result import TIE, Result


def unavailable() -> None:
    return None


def supports(batch: Batch) -> None:
    return None


def run(batch: Batch) -> list[Result]:
    return [_greedy(problem) for problem in batch.problems]


def _greedy(p: Problem) -> Result:
    n, device = len(p.features), p.features.device
    columns = torch.arange(n) if p.candidates is None else p.candidates
    columns = columns.to(device)
    if p.kernel == "precomputed":
        k = p.features.double()[:, columns]
    else:
        k = kernel_matrix(p.features, p.features[columns], p.kernel, p.bandwidth)
    m = initial_coverage(p)

    taken = torch.zeros(len(columns), dtype=torch.bool, device=device)
    picks, gains = [], []
    for _ in range(p.budget):
        gain = (p.weights[:, None] * (k - m[:, None]).clamp_(min=0)).sum(0) / n
        gain[taken] = -torch.inf
        best = gain.max()
        first = gains[0] if gains else best
        j = int((gain >= best - TIE * first).nonzero()[0])  # ties to the lowest index
        picks.append(int(columns[j]))
        gains.append(gain[j])
        taken[j] = True
        m = torch.maximum(m, k[:, j])
    return Result(
        indices=torch.tensor(picks, dtype=torch.int64, device=device),
        gains=torch.stack(gains) if gains else torch.empty(0, dtype=torch.float64, device=device),
        coverage=float((p.weights * m).sum() / n),
        contested_picks=p.budget,
    )


def initial_coverage(p: Problem) -> torch.Tensor:
    """m_i of the labeled points, (N,) float64; 0 where there are none, and never below."""
    m = torch.zeros(len(p.features), dtype=torch.float64, device=p.features.device)
    if p.labeled is None:
        return m
    if p.kernel == "precomputed":
        return torch.maximum(m, p.labeled.double().amax(0))
    for rows in p.labeled.split(1024):
        m = torch.maximum(m, kernel_matrix(p.features, rows, p.kernel, p.bandwidth).amax(1))
    return m
