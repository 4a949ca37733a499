"""K-center greedy (CoreSet): always the point farthest from all centres."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..._checks import back_converter
from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from .._pool import prepare
from . import cpu, reference
from .result import Centers

_prepare = partial(prepare, narrow=True)
_OP = Op("kcenter_greedy", _prepare, {"cpu": cpu, "reference": reference})


@on_cpu_by_default
def kcenter_greedy(
    features: Any,
    budget: int,
    *,
    labeled: Any = None,
    candidates: Any = None,
    backend: str = "auto",
    return_info: bool = False,
    progress: bool = False,
) -> Any:
    """Pick `budget` points by farthest-first traversal: each the farthest from what is labeled or picked.

    At each step the candidate with the largest min_{s in S u L} |x_j - x_s|; ties go to the lowest index. The largest
    distance of any point to its nearest centre is then at most twice the smallest possible (Gonzalez 1985), if nothing
    is labeled and all points are candidates.

    Args:
        features: (N, D) torch.Tensor or numpy.ndarray of float16, bfloat16, float32, float64, int8 or
            uint8, any strides.
        budget: how many points to pick, from 0 to the number of candidates.
        labeled: (L, D) features of points labeled already: centres, but not picked. Without any, all distances are
            infinite at first and the lowest candidate is the first pick.
        candidates: indices that may be picked; all N by default.
        backend: "auto", "cpu" or "reference". `explain(kcenter_greedy, ...)` says which would run and why.
        return_info: return `Centers` with distances and radius instead of the indices alone.
        progress: show a progress bar on standard error.

    Returns:
        (budget,) int64 indices into `features` in pick order, of the library and on the device of `features`; or
        `Centers`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a value out of range, a wrong shape, NaN or infinite numbers, or a zero-size array. Raised before
            any work; the message names the argument.
        BackendUnavailableError: `backend` was named and cannot run this here.

    Notes:
        Distances are float64. Two that differ by less than 1e-12 of the larger are tied. When every distance is 0 the
        lowest unpicked candidates follow. On the CPU a point meets the centres it has not seen no sooner than it may be
        the farthest, many points and many centres at a time: as products of low precision that bound the distances,
        of which few are then computed (docs/exactness.md). Memory beyond the features is linear in N and in the budget.

    References:
        Sener, Savarese. Active Learning for Convolutional Neural Networks: A Core-Set Approach. ICLR 2018,
        arXiv 1708.00489.

    Example:
        >>> import torch
        >>> from difal_kernels import kcenter_greedy
        >>> line = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
        >>> kcenter_greedy(line, 3)
        tensor([0, 3, 2])
    """
    options = {"labeled": labeled, "candidates": candidates, "progress": progress, "return_info": return_info}
    pool = _prepare(features, budget, **options)
    chosen = _OP.choose(backend, pool)
    with torch.no_grad():
        result = _OP.backends[chosen].run(pool)
    back = back_converter(features)
    if not return_info:
        return back(result.indices)
    return result._replace(indices=back(result.indices), distances=back(result.distances), backend=chosen)


__all__ = ["Centers", "kcenter_greedy"]
