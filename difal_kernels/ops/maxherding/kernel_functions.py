"""Kernel functions and the default bandwidth, in float64: the one definition that all backends answer to."""

from __future__ import annotations

import numpy as np
import torch

KERNELS = ("rbf", "laplace", "cauchy", "student_t", "rational_quadratic", "tophat", "cosine", "precomputed")
SCALE_FREE = ("cosine", "precomputed")  # kernels that have no bandwidth


def kernel_matrix(x: torch.Tensor, y: torch.Tensor, kernel: str, bandwidth: float | None) -> torch.Tensor:
    """k(x_i, y_j) in float64, shape (len(x), len(y)), from (N, D) and (M, D) features of any dtype."""
    x, y = x.double(), y.double()
    if kernel == "cosine":
        norms = x.norm(dim=1)[:, None] * y.norm(dim=1)[None, :]
        return torch.where(norms > 0, (x @ y.T) / norms, 0.0).clamp_(min=0)
    r = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    if kernel == "tophat":
        return (r < bandwidth).double()
    r = r / bandwidth
    if kernel == "rbf":
        return torch.exp(-r * r)
    if kernel == "laplace":
        return torch.exp(-r)
    if kernel == "cauchy":
        return 1 / (1 + r * r)
    if kernel == "student_t":
        beta = 0.5
        return (1 + r * r / beta) ** (-(beta + 1) / 2)
    if kernel == "rational_quadratic":
        alpha = 1.0
        return (1 + r * r / (2 * alpha)) ** -alpha
    raise ValueError(f"`kernel` must be a function of features, got {kernel!r}")


def kernel_of_scaled_square(q: torch.Tensor, kernel: str) -> torch.Tensor:
    """k from q = (r/h)^2, in place and in q's own precision: an estimate, for guessing."""
    if kernel == "rbf":
        return q.neg_().exp_()
    if kernel == "laplace":
        return q.sqrt_().neg_().exp_()
    if kernel == "cauchy":
        return q.add_(1).reciprocal_()
    if kernel == "student_t":
        return q.mul_(2).add_(1).pow_(-0.75)
    if kernel == "rational_quadratic":
        return q.mul_(0.5).add_(1).reciprocal_()
    return q.copy_(q < 1)  # tophat


def sample_rows(n: int, count: int) -> torch.Tensor:
    """`count` distinct rows of `n`, ascending: those whose hashed index is smallest. The same everywhere, for ever.

    The hash is SplitMix64's output function (Steele, Lea, Flood 2014), so nothing depends on a library's generator.
    """
    z = (np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return torch.from_numpy(np.sort(np.argsort(z, kind="stable")[:count]))


def median_bandwidth(features: torch.Tensor) -> float:
    """Twice the median non-zero pairwise distance of max(10, N / 100) rows; 1.0 where all those rows are equal."""
    n = len(features)
    rows = features[sample_rows(n, min(n, max(10, n // 100))).to(features.device)].double()
    distances = torch.pdist(rows)
    distances = distances[distances > 0].cpu().numpy()
    return 2 * float(np.median(distances)) if distances.size else 1.0
