"""Greedy facility location as the formula reads, in float64 on any device: the oracle of all backends.

It imports torch and nothing of this package, and nothing but the backend of its name imports it.
"""

from __future__ import annotations

import torch

TIE = 1e-12  # gains closer than this, in units of the first gain, are equal: the lowest index wins


def kernel_matrix(x: torch.Tensor, y: torch.Tensor, kernel: str, bandwidth: float | None) -> torch.Tensor:
    """Compute k(x_i, y_j) in float64, (N, M), from (N, D) and (M, D) features of any dtype."""
    x, y = x.double(), y.double()
    if kernel == "cosine":
        norms = x.norm(dim=1)[:, None] * y.norm(dim=1)[None, :]
        return torch.where(norms > 0, (x @ y.T) / norms, 0.0).clamp_(min=0)
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    r = distance / bandwidth
    if kernel == "rbf":
        return torch.exp(-r * r)
    if kernel == "laplace":
        return torch.exp(-r)
    if kernel == "cauchy":
        return 1 / (1 + r * r)
    if kernel == "student_t":
        return (1 + 2 * r * r) ** (-3 / 4)
    if kernel == "rational_quadratic":
        return 1 / (1 + r * r / 2)
    if kernel == "tophat":
        return (distance < bandwidth).double()
    raise ValueError(f"`kernel` must be a function of features, got {kernel!r}")


def labeled_coverage(
    features: torch.Tensor, labeled: torch.Tensor | None, kernel: str, bandwidth: float | None
) -> torch.Tensor:
    """m_i of the labeled points, (N,) float64; 0 where there are none, and never below."""
    m = torch.zeros(len(features), dtype=torch.float64, device=features.device)
    if labeled is None or not len(labeled):
        return m
    if kernel == "precomputed":  # (L, N) kernel values
        return torch.maximum(m, labeled.double().amax(0))
    for rows in labeled.split(1024):
        m = torch.maximum(m, kernel_matrix(features, rows, kernel, bandwidth).amax(1))
    return m


def greedy(
    features: torch.Tensor,
    budget: int,
    *,
    labeled: torch.Tensor | None,
    candidates: torch.Tensor | None,
    weights: torch.Tensor,
    kernel: str,
    bandwidth: float | None,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Pick by the largest gain, again and again.

    Args:
        features: (N, D), or the (N, N) kernel.
        budget: picks.
        labeled: (L, D), or (L, N) kernel values; None for none.
        candidates: (M,) int64 ascending; None for all N.
        weights: (N,) float64.
        kernel, bandwidth: as for `maxherding`.

    Returns:
        Indices in pick order, gains in float64, and the coverage at the end.
    """
    n, device = len(features), features.device
    columns = (torch.arange(n) if candidates is None else candidates).to(device)
    if kernel == "precomputed":
        k = features.double()[:, columns]
    else:
        k = kernel_matrix(features, features[columns], kernel, bandwidth)
    m = labeled_coverage(features, labeled, kernel, bandwidth)
    taken = torch.zeros(len(columns), dtype=torch.bool, device=device)
    picks: list[int] = []
    gains: list[torch.Tensor] = []
    for _ in range(budget):
        gain = (weights[:, None] * (k - m[:, None]).clamp_(min=0)).sum(0) / n
        gain[taken] = -torch.inf
        best = gain.max()
        first = gains[0] if gains else best
        j = int((gain >= best - TIE * first).nonzero()[0])  # ties to the lowest index
        picks.append(int(columns[j]))
        gains.append(gain[j])
        taken[j] = True
        m = torch.maximum(m, k[:, j])
    return (
        torch.tensor(picks, dtype=torch.int64, device=device),
        torch.stack(gains) if gains else torch.empty(0, dtype=torch.float64, device=device),
        float((weights * m).sum() / n),
    )
