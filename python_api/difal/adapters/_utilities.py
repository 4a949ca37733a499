"""What every candidate was worth at every step, for libraries that ask for more than the picks."""

from __future__ import annotations

import numpy as np
import torch

from difal_kernels.ops.maxherding.kernel_functions import kernel_matrix, kernel_of_scaled_square

BLOCK = 2**22  # kernel values at a time: 32 MB


def step_gains(
    features: np.ndarray,
    picks: np.ndarray,
    candidates: np.ndarray,
    *,
    kernel: str,
    bandwidth: float,
    labeled: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The gain of each candidate when each pick was made, in float64; NaN once a candidate is picked.

    Args:
        features: (N, D) pool.
        picks: (budget,) indices into the pool, in pick order, all among the candidates.
        candidates: (M,) indices into the pool.
        kernel, bandwidth, labeled, weights: as `maxherding` used them; the kernel a function of features.

    Returns:
        (budget, M) float64.

    Notes:
        Gains are made once, N M kernel values, and then changed for the rows that each pick covers better.
    """
    x = torch.from_numpy(np.asarray(features, dtype=np.float64))
    known = torch.from_numpy(np.asarray(labeled, dtype=np.float64)) if labeled is not None and len(labeled) else None
    w = torch.ones(len(x), dtype=torch.float64)
    if weights is not None:
        w = torch.from_numpy(np.asarray(weights, dtype=np.float64))
    if kernel not in ("cosine", "tophat"):  # distances by a product lose digits to a common offset
        center = x.mean(0)
        x, known = x - center, None if known is None else known - center
    columns = torch.from_numpy(np.asarray(candidates, dtype=np.int64))
    targets = x[columns]
    covered = torch.zeros(len(x), dtype=torch.float64)
    if known is not None:
        for rows in known.split(_rows(len(x))):
            covered = torch.maximum(covered, _kernel(x, rows, kernel, bandwidth).amax(1))

    gains = torch.zeros(len(columns), dtype=torch.float64)
    for block in torch.arange(len(x)).split(_rows(len(columns))):
        values = _kernel(x[block], targets, kernel, bandwidth)
        gains += w[block] @ (values - covered[block, None]).clamp_(min=0)
    steps = torch.empty(len(picks), len(columns), dtype=torch.float64)
    position = {int(index): at for at, index in enumerate(columns)}
    taken: list[int] = []
    for step, pick in enumerate(picks):
        steps[step] = gains.clamp(min=0) / len(x)
        steps[step, taken] = torch.nan
        taken.append(position[int(pick)])
        raised = torch.maximum(covered, _kernel(x, x[pick : pick + 1], kernel, bandwidth)[:, 0])
        for block in (raised > covered).nonzero()[:, 0].split(_rows(len(columns))):
            values = _kernel(x[block], targets, kernel, bandwidth)
            before = (values - covered[block, None]).clamp_(min=0)
            gains -= w[block] @ (before - (values - raised[block, None]).clamp_(min=0))
        covered = raised
    return steps.numpy()


def _rows(columns: int) -> int:
    return max(1, BLOCK // max(1, columns))


def _kernel(x: torch.Tensor, y: torch.Tensor, kernel: str, bandwidth: float) -> torch.Tensor:
    if kernel in ("cosine", "tophat"):
        return kernel_matrix(x, y, kernel, bandwidth)
    square = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2 * (x @ y.T)
    return kernel_of_scaled_square(square.clamp_(min=0) / bandwidth**2, kernel)
