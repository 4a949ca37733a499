"""Greedy max coverage by balls as it reads, in float64 on any device. The oracle of the other backends."""

from __future__ import annotations

import torch

from ..maxherding.kernel_functions import kernel_matrix
from ..maxherding.problem import Batch, Problem, labeled_coverage
from ..maxherding.result import Result


def unavailable() -> None:
    return None


def supports(batch: Batch) -> None:
    return None


def run(batch: Batch) -> list[Result]:
    return [_greedy(problem) for problem in batch.problems]


def _greedy(p: Problem) -> Result:
    inside = kernel_matrix(p.features, p.features, "tophat", p.bandwidth) > 0
    covered = labeled_coverage(p) > 0
    open_ = torch.zeros_like(covered)
    open_[slice(None) if p.candidates is None else p.candidates.to(open_.device)] = True
    picks, gains = [], []
    for _ in range(p.budget):
        gain = (inside & ~covered[:, None]).sum(0)
        gain[~open_] = -1
        j = int((gain == gain.max()).nonzero()[0])  # ties to the lowest index
        picks.append(j)
        gains.append(int(gain[j]) / len(inside))
        open_[j] = False
        covered |= inside[:, j]
    device = p.features.device
    return Result(
        indices=torch.tensor(picks, dtype=torch.int64, device=device),
        gains=torch.tensor(gains, dtype=torch.float64, device=device),
        coverage=int(covered.sum()) / len(inside),
        contested_picks=0,
    )
