"""The kernel functions: one table, from which every backend takes a kernel's code, formula and slope.

With r = |x - y| and h the bandwidth, a kernel of features is k = f(q), q = (r / h)^2, or for cosine max(0, cos(x, y)).
A row of the table has no default: leaving out a field is an error when this module is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class KernelFunction:
    """One kernel.

    Attributes:
        name: what users call it.
        code: its number in `difal::KernelKind` (csrc/include/difal/coverage_kernels.h) and in the Triton kernels.
        has_bandwidth: whether h plays a part.
        value: k(x_i, y_j), (N, M) float64, from (N, D) and (M, D) float64 rows and h. None if users give the kernel.
        from_squared: k from q, in place and in q's own precision: an estimate, for guessing. None if it is no f(q).
        log_slope: at most this is |d ln f / dq| where f(q) = k; a function of k, float64. The backends multiply the
            error of a squared distance by it (`entry_bound` of csrc/include/difal/estimate.h, `bound_of` in Triton).
        largest_slope: the most that `log_slope` can be.
    """

    name: str
    code: int
    has_bandwidth: bool
    value: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] | None
    from_squared: Callable[[torch.Tensor], torch.Tensor] | None
    log_slope: Callable[[torch.Tensor], torch.Tensor]
    largest_slope: float


def _distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _cosine(x: torch.Tensor, y: torch.Tensor, h: float) -> torch.Tensor:
    norms = x.norm(dim=1)[:, None] * y.norm(dim=1)[None, :]
    return torch.where(norms > 0, (x @ y.T) / norms, 0.0).clamp_(min=0)


KERNEL_FUNCTIONS = {
    function.name: function
    for function in (
        KernelFunction(
            name="rbf",
            code=0,
            has_bandwidth=True,
            value=lambda x, y, h: torch.exp(-((_distance(x, y) / h) ** 2)),
            from_squared=lambda q: q.neg_().exp_(),
            log_slope=torch.ones_like,
            largest_slope=1.0,
        ),
        KernelFunction(
            name="laplace",
            code=1,
            has_bandwidth=True,
            value=lambda x, y, h: torch.exp(-_distance(x, y) / h),
            from_squared=lambda q: q.sqrt_().neg_().exp_(),
            # 1 / (2 sqrt q), and sqrt q = -ln k >= 1 - k: twice what is needed pays for an estimate of q below q.
            log_slope=lambda k: 1 / (1 - k).clamp(min=1e-7),
            largest_slope=math.inf,
        ),
        KernelFunction(
            name="cauchy",
            code=2,
            has_bandwidth=True,
            value=lambda x, y, h: 1 / (1 + (_distance(x, y) / h) ** 2),
            from_squared=lambda q: q.add_(1).reciprocal_(),
            log_slope=lambda k: k.clone(),
            largest_slope=1.0,
        ),
        KernelFunction(
            name="student_t",
            code=3,
            has_bandwidth=True,
            value=lambda x, y, h: (1 + (_distance(x, y) / h) ** 2 / 0.5) ** -0.75,  # beta = 1/2
            from_squared=lambda q: q.mul_(2).add_(1).pow_(-0.75),
            log_slope=lambda k: 1.5 * k,
            largest_slope=1.5,
        ),
        KernelFunction(
            name="rational_quadratic",
            code=4,
            has_bandwidth=True,
            value=lambda x, y, h: 1 / (1 + (_distance(x, y) / h) ** 2 / 2),  # alpha = 1
            from_squared=lambda q: q.mul_(0.5).add_(1).reciprocal_(),
            log_slope=lambda k: 0.5 * k,
            largest_slope=0.5,
        ),
        KernelFunction(
            name="tophat",
            code=5,
            has_bandwidth=True,
            value=lambda x, y, h: (_distance(x, y) < h).double(),
            from_squared=lambda q: q.copy_(q < 1),
            log_slope=torch.zeros_like,  # away from the edge; entries near it are computed in float64
            largest_slope=0.0,
        ),
        KernelFunction(
            name="cosine",
            code=6,
            has_bandwidth=False,
            value=_cosine,
            from_squared=None,
            log_slope=torch.zeros_like,  # the inner product itself is the value: its error is absolute
            largest_slope=0.0,
        ),
        KernelFunction(
            name="precomputed",
            code=7,
            has_bandwidth=False,
            value=None,
            from_squared=None,
            log_slope=torch.zeros_like,
            largest_slope=0.0,
        ),
    )
}
KERNELS = tuple(KERNEL_FUNCTIONS)
OF_FEATURES = tuple(name for name, function in KERNEL_FUNCTIONS.items() if function.value is not None)
SCALE_FREE = tuple(name for name, function in KERNEL_FUNCTIONS.items() if not function.has_bandwidth)


def kernel_matrix(x: torch.Tensor, y: torch.Tensor, kernel: str, bandwidth: float | None) -> torch.Tensor:
    """Compute k(x_i, y_j) in float64, shape (len(x), len(y)), from (N, D) and (M, D) features of any dtype."""
    value = KERNEL_FUNCTIONS[kernel].value
    if value is None:
        raise ValueError(f"`kernel` must be a function of features, got {kernel!r}")
    return value(x.double(), y.double(), 1.0 if bandwidth is None else bandwidth)


def alive_above(m: torch.Tensor, kernel: str) -> torch.Tensor:
    """What a kernel value must be above to matter to points of coverage m: infinity where a point is fully covered.

    See CoverageLevel in csrc/cpu/greedy.h.
    """
    return m if kernel == "cosine" else m.where(m < 1, torch.inf)


def kernel_of_scaled_square(q: torch.Tensor, kernel: str) -> torch.Tensor:
    """Estimate k from q = (r/h)^2, in place and in q's own precision."""
    from_squared = KERNEL_FUNCTIONS[kernel].from_squared
    if from_squared is None:
        raise ValueError(f"`kernel` must be a function of the distance, got {kernel!r}")
    return from_squared(q)
