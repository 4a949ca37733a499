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

from difal.adapters._arguments import count, float_array, herd
from difal.adapters._require import required

with required("modAL", "modAL-python"):
    from modAL.uncertainty import classifier_entropy, classifier_margin, classifier_uncertainty

UNCERTAINTIES = {
    "entropy": classifier_entropy,
    "least_confident": classifier_uncertainty,
    "margin": lambda learner, X: 1 - classifier_margin(learner, X),
}


def maxherding_sampling(
    learner: Any, X_pool: Any, n_instances: int = 1, random_tie_break: bool = False, **options: Any
) -> tuple[Any, Any]:
    """Choose the instances that cover the pool best, given those that the learner was taught.

    Args:
        learner: an ActiveLearner or a Committee; its training instances count as labeled.
        X_pool: (N, D) unlabeled instances.
        n_instances: how many to choose.
        random_tie_break: accepted, as modAL's strategies do, and not used: ties go to the lowest index.
        **options: for `difal_kernels.maxherding`; `labeled` replaces the learner's training instances.

    Returns:
        indices: (n_instances,) int64 into `X_pool`, in the order of choice.
        gains: (n_instances,) float64, what each added to the coverage.

    Raises:
        TypeError, ValueError: as in `maxherding`; more instances asked for than there are.
    """
    pool = _seen(learner, X_pool)
    count(n_instances, "n_instances", len(pool), "instances in `X_pool`")
    if "labeled" not in options:
        taught = [_seen(learner, instances) for instances in _taught(learner)]
        options["labeled"] = np.concatenate(taught) if taught else None
    selection = herd(pool, n_instances, return_info=True, **options)
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


def _taught(learner: Any) -> list[Any]:
    """What the learner was taught, or each member of a committee; a set that all members share comes once."""
    members = getattr(learner, "learner_list", None) or [learner]
    sets = {id(taught): taught for taught in (getattr(member, "X_training", None) for member in members)}
    return [taught for taught in sets.values() if taught is not None]


def _seen(learner: Any, instances: Any) -> np.ndarray:
    """As the estimator sees them, where the learner says so; always a 2-D float array."""
    if getattr(learner, "on_transformed", False):
        instances = learner.transform_without_estimating(instances)
    array = float_array(instances)
    return array.reshape(len(array), -1) if len(array) else array
