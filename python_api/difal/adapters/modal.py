"""modAL query strategies: functions that return the pair (indices, metrics).

    from difal.adapters.modal import maxherding_sampling
    learner = ActiveLearner(estimator=..., query_strategy=maxherding_sampling, X_training=..., y_training=...)
    indices, instances = learner.query(X_pool, n_instances=10)

modAL unpacks whatever a strategy returns into indices and metrics, so that a bare array of two indices would be taken
apart without a word. Options go through `query`: `learner.query(X_pool, n_instances=10, bandwidth=0.5)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from difal.adapters._require import required
from difal_kernels import maxherding

with required("modAL", "modAL-python"):
    from modAL.uncertainty import classifier_entropy, classifier_margin, classifier_uncertainty

UNCERTAINTIES = {
    "entropy": classifier_entropy,
    "least_confident": classifier_uncertainty,
    "margin": lambda learner, X: 1 - classifier_margin(learner, X),
}


def maxherding_sampling(learner: Any, X_pool: Any, n_instances: int = 1, **options: Any) -> tuple[Any, Any]:
    """Choose the instances that cover the pool best, given those that the learner was taught.

    Args:
        learner: an ActiveLearner or a Committee; its training instances count as labeled.
        X_pool: (N, D) unlabeled instances.
        n_instances: how many to choose.
        **options: for `difal_kernels.maxherding`; `labeled` replaces the learner's training instances.

    Returns:
        indices: (n_instances,) int64 into `X_pool`, in the order of choice.
        gains: (n_instances,) float64, what each added to the coverage.
    """
    pool = _seen(learner, X_pool)
    if "labeled" not in options:
        taught = _taught(learner)
        options["labeled"] = None if taught is None else _seen(learner, taught)
    selection = maxherding(pool, n_instances, return_info=True, **options)
    return selection.indices, selection.gains


def uherding_sampling(
    learner: Any, X_pool: Any, n_instances: int = 1, uncertainty: str = "margin", **options: Any
) -> tuple[Any, Any]:
    """Choose the instances that cover best what the learner is uncertain about.

    Args:
        uncertainty: "margin" (one minus the margin), "entropy" or "least_confident", by modAL's own functions.
        learner, X_pool, n_instances, **options: as in `maxherding_sampling`.

    Returns:
        indices, gains: as in `maxherding_sampling`.

    Raises:
        ValueError: an unknown uncertainty.
    """
    if uncertainty not in UNCERTAINTIES:
        raise ValueError(f"`uncertainty` must be one of {sorted(UNCERTAINTIES)}, got {uncertainty!r}")
    weights = np.maximum(np.asarray(UNCERTAINTIES[uncertainty](learner, X_pool), dtype=np.float64), 0)
    return maxherding_sampling(learner, X_pool, n_instances, weights=weights, **options)


def _taught(learner: Any) -> Any:
    taught = getattr(learner, "X_training", None)
    if taught is None and getattr(learner, "learner_list", None):
        taught = learner.learner_list[0].X_training
    return taught


def _seen(learner: Any, instances: Any) -> np.ndarray:
    """As the estimator sees them, where the learner says so; always a 2-D float array."""
    if getattr(learner, "on_transformed", False):
        instances = learner.transform_without_estimating(instances)
    if hasattr(instances, "toarray"):  # a sparse matrix
        instances = instances.toarray()
    array = np.asarray(instances)
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)
    return array.reshape(len(array), -1)
