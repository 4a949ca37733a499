"""The released two-stage code's names and signatures: change the import line, keep the calls.

    from difal.adapters.two_stage import GlobalHerding, local_herding

What differs from the released code: picks are those of float64 greedy selection and come in pick order; nothing is
split into chunks and no earlier pick is left out, however many there are; the bandwidth does not depend on the global
random state; candidates are not shuffled; ties go to the lowest index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from difal_kernels import maxherding
from difal_kernels.ops.maxherding.kernel_functions import KERNELS

# By the released kernel's class: our kernel, and its bandwidth where that class ignores the one it is given.
RELEASED_KERNELS = {
    "RBFKernel": ("rbf", None),
    "TopHatKernel": ("tophat", None),
    "StudentTKernel": ("student_t", None),
    "LaplaceKernel": ("laplace", None),
    "CauchyKernel": ("cauchy", 1.0),
    "RationalQuadKernel": ("rational_quadratic", 1.0),
}


def local_herding(
    candidate_features: torch.Tensor,
    budget: int,
    kernel_fn: Any = None,
    sigma: float | str = "auto",
    percentile: Any = None,
    batch_size: int = 2048,
    device: Any = None,
    prev_rep_features: torch.Tensor | None = None,
    disable_tqdm: bool = False,
    progress_desc: str = "Local Herding",
) -> tuple[np.ndarray, np.ndarray, int | None, float]:
    """Choose the candidates that represent all candidates of one image best.

    Args:
        candidate_features: (N, D), a tensor or an array.
        budget: how many to choose.
        kernel_fn: None for "rbf", a name of `maxherding`'s, or an object of one of the released kernel classes.
        sigma: the bandwidth; "auto" for twice the median distance.
        device: where to run; None for where the features are.
        prev_rep_features: (L, D) features labeled already.
        disable_tqdm: False shows a progress bar.
        percentile, batch_size, progress_desc: accepted, not used.

    Returns:
        selected: (budget,) int64, in pick order.
        selection_order: the same.
        init_idx: the first pick where nothing was labeled, else None.
        init_cov: the coverage before the first pick where something was labeled, else after it.

    Raises:
        TypeError, ValueError: as in `maxherding`, or an unknown kernel.
    """
    features = torch.as_tensor(candidate_features, device=device)
    previous = prev_rep_features if prev_rep_features is not None and len(prev_rep_features) else None
    if previous is not None:
        previous = torch.as_tensor(previous).to(features)
    selection = maxherding(
        features, budget, labeled=previous, return_info=True, progress=not disable_tqdm, **_kernel(kernel_fn, sigma)
    )
    picks = selection.indices.cpu().numpy()
    before = selection.coverage - float(selection.gains.sum())
    if previous is not None:
        return picks, picks.copy(), None, before
    first = int(picks[0]) if budget else None
    return picks, picks.copy(), first, float(selection.gains[0]) if budget else 0.0


class GlobalHerding:
    """Choose among the local picks of all images.

    Args:
        kernel_fn, sigma: as in `local_herding`.
        device: where to run; None for where the features are.
        dtype: what to convert features to; None for no change.
        batch_size, seed: accepted, not used: nothing is drawn at random.
    """

    def __init__(
        self,
        kernel_fn: Any = None,
        sigma: float | str = "auto",
        batch_size: int = 1024,
        device: Any = None,
        dtype: torch.dtype | None = None,
        seed: int | None = None,
    ) -> None:
        self.kernel_fn = kernel_fn
        self.sigma = sigma
        self.device = device
        self.dtype = dtype

    def greedy_select(
        self, feats: torch.Tensor, budget: int, num_prev: int = 0, allow_split: bool = True
    ) -> np.ndarray:
        """Choose `budget` of the rows from `num_prev` on.

        Args:
            feats: (M, D), of which the first `num_prev` are labeled already. Coverage is over the others.
            budget: how many to choose; all of them if there are fewer.
            allow_split: accepted, not used: nothing is split.

        Returns:
            (budget,) int64 rows of `feats`, in pick order.

        Raises:
            TypeError, ValueError: as in `maxherding`, or `num_prev` out of range.
        """
        if not 0 <= num_prev <= len(feats):
            raise ValueError(f"`num_prev` must be from 0 to {len(feats)}, got {num_prev}")
        budget = min(budget, len(feats) - num_prev)
        if budget <= 0:
            return np.empty(0, dtype=np.int64)
        features = torch.as_tensor(feats, device=self.device, dtype=self.dtype)
        options = _kernel(self.kernel_fn, self.sigma)
        labeled = features[:num_prev] if num_prev else None
        picks = maxherding(features[num_prev:], budget, labeled=labeled, **options)
        return picks.cpu().numpy() + num_prev


def _kernel(kernel_fn: Any, sigma: float | str) -> dict[str, Any]:
    bandwidth = "median" if isinstance(sigma, str) and sigma == "auto" else sigma
    if kernel_fn is None:
        return {"kernel": "rbf", "bandwidth": bandwidth}
    if isinstance(kernel_fn, str):
        return {"kernel": kernel_fn, "bandwidth": bandwidth}
    name = type(kernel_fn).__name__
    if name not in RELEASED_KERNELS:
        raise ValueError(
            f"`kernel_fn` must be a name of {KERNELS} or an object of {sorted(RELEASED_KERNELS)}, got a {name}"
        )
    kernel, fixed = RELEASED_KERNELS[name]
    return {"kernel": kernel, "bandwidth": bandwidth if fixed is None else fixed}
