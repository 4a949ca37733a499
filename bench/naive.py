"""What every codebase has today, written once and plainly: the baseline of all ratios."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence

import torch


def naive_maxherding(features: torch.Tensor, budget: int, bandwidth: float, labeled: Sequence[int] = ()) -> list[int]:
    """The N x N kernel by torch.cdist, then clamp(K - m).mean() over all N^2 entries at each pick."""
    kernel = torch.exp(-((torch.cdist(features, features) / bandwidth) ** 2))
    covered = torch.zeros(len(features))
    if len(labeled):
        covered = kernel[:, labeled].amax(1)
    picks: list[int] = []
    for _ in range(budget):
        gains = torch.clamp(kernel - covered[:, None], min=0).mean(0)
        gains[picks] = -1
        best = int(gains.argmax())
        picks.append(best)
        covered = torch.maximum(covered, kernel[:, best])
    return picks


def half_gram(features: torch.Tensor, out: torch.Tensor, panel: int = 2048) -> float:
    """Seconds of the GEMM floor: the lower half of the Gram matrix, in panels, and nothing else."""
    began = time.perf_counter()
    for start in range(0, len(features), panel):
        stop = min(start + panel, len(features))
        torch.mm(features[start:stop], features[:stop].T, out=out[start:stop, :stop])
    return time.perf_counter() - began


def full_gram(features: torch.Tensor, out: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.mm(features, features.T, out=out)
    return time.perf_counter() - began


def exp_pass(out: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.exp(out, out=out)
    return time.perf_counter() - began


def lazy_maxherding(features: torch.Tensor, budget: int, bandwidth: float) -> list[int]:
    """Minoux's accelerated greedy, as libraries have it: a gain is made anew only while it heads the queue."""
    kernel = torch.exp(-((torch.cdist(features, features) / bandwidth) ** 2))
    covered = torch.zeros(len(features))
    queue = [(-gain, j) for j, gain in enumerate(kernel.mean(0).tolist())]
    heapq.heapify(queue)
    picks: list[int] = []
    while len(picks) < budget:
        _, j = heapq.heappop(queue)
        gain = float(torch.clamp(kernel[j] - covered, min=0).mean())
        if queue and (-gain, j) > queue[0]:
            heapq.heappush(queue, (-gain, j))
            continue
        picks.append(j)
        covered = torch.maximum(covered, kernel[j])
    return picks
