"""TypiClust: the most typical point of each cluster that has no label yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..._checks import as_int, back_converter
from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from .._pool import Pool
from .._pool import prepare as prepare_pool
from . import reference
from .reference import Typical


@dataclass(frozen=True)
class Problem(Pool):
    """What a backend receives."""

    max_clusters: int
    neighbours: int
    seed: int


def prepare(
    features: Any, budget: int, *, max_clusters: int = 500, neighbours: int = 20, seed: int = 0, **options: Any
) -> Problem:
    pool = prepare_pool(features, budget, **options)
    return Problem(
        **vars(pool),
        max_clusters=as_int(max_clusters, "max_clusters", low=1),
        neighbours=as_int(neighbours, "neighbours", low=1),
        seed=as_int(seed, "seed", low=0, high=2**63 - 1),
    )


_OP = Op("typiclust", prepare, {"reference": reference})


@on_cpu_by_default
def typiclust(
    features: Any,
    budget: int,
    *,
    labeled: Any = None,
    candidates: Any = None,
    max_clusters: int = 500,
    neighbours: int = 20,
    seed: int = 0,
    backend: str = "auto",
    return_info: bool = False,
    progress: bool = False,
) -> Any:
    """Pick `budget` points: of each cluster with the fewest labels, the largest first, its most typical point.

    Pool and labeled points together are clustered by k-means into L + budget clusters. Clusters are visited in order of
    fewest labels (picks included), then of most points, then of lowest number; from each the candidate with
    the highest typicality 1 / (mean distance to its nearest neighbours in the cluster) is picked.

    Args:
        features: (N, D) torch.Tensor or numpy.ndarray of float16, bfloat16, float32 or float64, any strides. The paper
            uses self-supervised features.
        budget: how many points to pick, from 0 to the number of candidates.
        labeled: (L, D) features of points labeled already.
        candidates: indices that may be picked; all N by default. All N are clustered regardless.
        max_clusters: most clusters; beyond it clusters are visited more than once.
        neighbours: of how many nearest neighbours the distance is averaged; at most half of the cluster's points.
        seed: of k-means++. The same seed gives the same picks.
        backend: "auto" or "reference".
        return_info: return `Typical` with the clusters instead of the indices alone.
        progress: show a progress bar on standard error.

    Returns:
        (budget,) int64 indices into `features` in pick order, of the library and on the device of `features`; or
        `Typical`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a value out of range, a wrong shape, NaN or infinite numbers, or a zero-size array. Raised before
            any work; the message names the argument.
        BackendUnavailableError: `backend` was named and cannot run this here.

    Notes:
        Clusters of fewer than 5 points come after all others: they are outliers. k-means is Lloyd's in float64 from
        k-means++ with a hash for a generator, at most 100 rounds, written here so that clusters depend neither on
        threads nor on a library's version. Ties in typicality (within 1e-12) go to the lowest index.

    References:
        Hacohen, Dekel, Weinshall. Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets. ICML
        2022, arXiv 2202.02794.

    Example:
        >>> import torch
        >>> from difal_kernels import typiclust
        >>> line = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 20.0, 21.0, 22.0, 23.0, 24.0])[:, None]
        >>> typiclust(line, 2)
        tensor([1, 7])
    """
    problem = prepare(
        features,
        budget,
        labeled=labeled,
        candidates=candidates,
        max_clusters=max_clusters,
        neighbours=neighbours,
        seed=seed,
        progress=progress,
        return_info=return_info,
    )
    chosen = _OP.choose(backend, problem)
    with torch.no_grad():
        result = _OP.backends[chosen].run(problem)
    back = back_converter(features)
    if not return_info:
        return back(result.indices)
    indices, typicality, clusters = (back(t) for t in result[:3])
    return Typical(indices, typicality, clusters, chosen)


__all__ = ["Typical", "typiclust"]
