"""One function per library: features in, picks out, its own way of being called and its fastest exact setting.

All take float32 features (N, D), the budget, the RBF bandwidth, and the rows labeled already (empty if none); all
maximise the mean over the N rows of the best similarity to a labeled or picked row. Libraries that want a similarity
matrix get the same one, made in place by torch; making it is part of the time, as it is for who uses them. A function
imports what it needs, so that the names are known without any of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def similarity(features: np.ndarray, bandwidth: float, dtype: str = "float32") -> np.ndarray:
    import torch

    x = torch.from_numpy(features.astype(dtype, copy=False))
    return torch.cdist(x, x).div_(bandwidth).square_().neg_().exp_().numpy()


def difal(features, budget, bandwidth, labeled):
    import numpy as np

    from difal_kernels import maxherding

    rest = np.setdiff1d(np.arange(len(features)), labeled)
    options = {"labeled": features[labeled], "candidates": rest} if len(labeled) else {}
    return maxherding(features, budget, bandwidth=bandwidth, **options)


def naive_torch(features, budget, bandwidth, labeled):
    import torch

    from naive import naive_maxherding

    return naive_maxherding(torch.from_numpy(features), budget, bandwidth, labeled=labeled.tolist())


def scikit_activeml(features, budget, bandwidth, labeled):
    import numpy as np
    from skactiveml.pool import MaxHerding

    y = np.full(len(features), np.nan)
    y[labeled] = 0
    strategy = MaxHerding(normalize_samples=False, metric="rbf", metric_dict={"gamma": bandwidth**-2}, random_state=0)
    return strategy.query(features, y, batch_size=budget)


def _apricot(features, budget, bandwidth, labeled, optimizer):
    from apricot import FacilityLocationSelection

    kernel = similarity(features, bandwidth, "float64")  # its compiled loops take float64 only
    initial = labeled if len(labeled) else None
    return FacilityLocationSelection(budget, "precomputed", initial, optimizer).fit(kernel).ranking


def apricot_lazy(features, budget, bandwidth, labeled):
    return _apricot(features, budget, bandwidth, labeled, "lazy")


def apricot_naive(features, budget, bandwidth, labeled):
    return _apricot(features, budget, bandwidth, labeled, "naive")


def submodlib_lazy(features, budget, bandwidth, labeled):
    from submodlib import FacilityLocationConditionalGainFunction, FacilityLocationFunction

    kernel = similarity(features, bandwidth)
    if len(labeled):
        function = FacilityLocationConditionalGainFunction(
            len(kernel), len(labeled), data_sijs=kernel, private_sijs=kernel[:, labeled], privacyHardness=1.0
        )
    else:
        function = FacilityLocationFunction(
            len(kernel), mode="dense", separate_rep=False, sijs=kernel, pybind_mode="array"
        )
    chosen = function.maximize(
        budget, "LazyGreedy", stopIfZeroGain=False, stopIfNegativeGain=False, show_progress=False
    )
    return [index for index, _ in chosen]


def kmedoids_build(features, budget, bandwidth, labeled):
    import kmedoids
    import numpy as np

    if len(labeled):
        raise NotImplementedError("has no rows selected before")
    kernel = similarity(features, bandwidth)
    np.subtract(1, kernel, out=kernel)
    return kmedoids.pam_build(kernel, budget).medoids


def coreax_herding(features, budget, bandwidth, labeled):
    """Kernel herding: greedy for the mean embedding, another objective on the same kernel."""
    import equinox
    import jax.numpy as jnp
    from coreax import Data, SquaredExponentialKernel
    from coreax.solvers import KernelHerding

    if len(labeled):
        raise NotImplementedError("has no rows selected before")
    kernel = SquaredExponentialKernel(length_scale=bandwidth / 2**0.5)
    solver = KernelHerding(budget, kernel, block_size=min(len(features), 1_000))
    coreset, _ = equinox.filter_jit(solver.reduce)(Data(jnp.asarray(features)))
    return coreset.unweighted_indices.tolist()


LIBRARIES = {
    "difal": (difal, "difal-kernels"),
    "naive torch": (naive_torch, "torch"),
    "scikit-activeml": (scikit_activeml, "scikit-activeml"),
    "apricot lazy": (apricot_lazy, "apricot-select"),
    "apricot naive": (apricot_naive, "apricot-select"),
    "submodlib lazy": (submodlib_lazy, "submodlib-py"),
    "kmedoids BUILD": (kmedoids_build, "kmedoids"),
    "coreax herding": (coreax_herding, "coreax"),
}
