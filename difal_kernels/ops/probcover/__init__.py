"""ProbCover: greedy coverage of the pool by balls of one radius."""

from __future__ import annotations

from typing import Any

import torch

from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from ..maxherding.result import answer
from . import cpu, reference
from .problem import prepare

_OP = Op("probcover", prepare, {"cpu": cpu, "reference": reference})


@on_cpu_by_default
def probcover(
    features: Any,
    radius: float,
    budget: int,
    *,
    labeled: Any = None,
    candidates: Any = None,
    lengths: Any = None,
    memory_limit: int | str | None = None,
    backend: str = "auto",
    return_info: bool = False,
    progress: bool = False,
) -> Any:
    """Pick `budget` points whose balls together hold the most points of the pool, greedily and exactly.

    A pick covers the points at distance `radius` or less. At each step the candidate with the most points that nothing
    covers yet, gain_j = (1/N) |{i : |x_i - x_j| <= radius and m_i = 0}|; ties go to the lowest index.

    Args:
        features: (N, D), or (B, N, D) for B independent problems. torch.Tensor or numpy.ndarray of float16,
            bfloat16, float32 or float64, any strides.
        radius: positive, in feature units. The paper takes the largest radius at which 95 % of the balls hold points
            of one class only, classes being guessed by k-means.
        budget: how many points to pick, from 0 to the number of candidates.
        labeled: (L, D) features of points labeled already: they cover but are not picked. With a batch as for
            `maxherding`.
        candidates: indices that may be picked; all N by default. All N are covered regardless.
        lengths: (B,) how many of the N rows each problem of a ragged batch has.
        memory_limit: what the selection may use beyond the features, in bytes or as text such as "8GiB" or "500MB"; by
            default a share of what is free.
        backend: "auto", "cpu" or "reference". `explain(probcover, ...)` says which would run and why.
        return_info: return a `Selection` instead of the indices alone; its `bandwidth` is the radius.
        progress: show a progress bar on standard error.

    Returns:
        int64 indices into `features` in pick order, (budget,) or (B, budget), of the library and on the device of
        `features`; or a `Selection`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a value out of range, a wrong shape, NaN or infinite numbers, a zero-size array, or a
            `memory_limit` below what is needed. Raised before any work; the message names the argument.
        BackendUnavailableError: `backend` was named and cannot run this here.

    Notes:
        Distances near the radius are computed in float64. One that exceeds it by no more than 1e-12 of it, which is
        rounding, counts as equal, inside. When nothing is left to cover, the lowest unpicked candidates follow. The
        `cpu` backend needs no N x N matrix: 16 bytes for each pair within the radius where these fit in the limit,
        else no more than two and a half passes of GEMM in memory linear in N.

    References:
        Yehuda, Dekel, Hacohen, Weinshall. Active Learning Through a Covering Lens. NeurIPS 2022, arXiv 2205.11085.

    Example:
        >>> import torch
        >>> from difal_kernels import probcover
        >>> line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
        >>> probcover(line, 1.0, 2)
        tensor([1, 3])
    """
    batch = prepare(
        features,
        radius,
        budget,
        labeled=labeled,
        candidates=candidates,
        lengths=lengths,
        memory_limit=memory_limit,
        progress=progress,
        return_info=return_info,
    )
    chosen = _OP.choose(backend, batch)
    with torch.no_grad():
        results = _OP.backends[chosen].run(batch)
    return answer(features, batch, results, [float(radius)] * len(results), chosen, return_info)
