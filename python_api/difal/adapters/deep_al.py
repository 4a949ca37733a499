"""Samplers for the deep-al codebases (TypiClust, ProbCover, Uncertainty Herding): objects with `select_samples()`.

In `pycls/al/ActiveLearning.py`:

    from difal.adapters.deep_al import MaxHerding
    sampler = MaxHerding(cfg=self.cfg, lSet=lSet, uSet=uSet, budgetSize=self.cfg.ACTIVE_LEARNING.BUDGET_SIZE)
    activeSet, uSet = sampler.select_samples()
"""

from __future__ import annotations

from typing import Any

import numpy as np

from difal.adapters._arguments import count, float_array, herd, positions, whole


class MaxHerding:
    """Choose the samples that cover the labeled and unlabeled sets best.

    Args:
        cfg: the codebase's configuration; read only where `features` are not given.
        lSet, uSet: indices of labeled and unlabeled samples into the whole data set.
        budgetSize: how many to choose.
        features: (whole data set, D); by default `pycls.datasets.utils.load_features(name, seed)` with the data set's
            name and the seed of `cfg`.
        weights: (whole data set,), how much each sample's coverage counts.
        **options: for `difal_kernels.maxherding`: `kernel`, `bandwidth` ...

    Raises:
        TypeError, ValueError: an index that the features lack or that comes twice, a weight for too few samples, more
            to choose than `uSet` has.
    """

    def __init__(
        self,
        cfg: Any,
        lSet: Any,
        uSet: Any,
        budgetSize: int,
        *,
        features: Any = None,
        weights: Any = None,
        **options: Any,
    ) -> None:
        self.cfg = cfg
        self.all_features = float_array(_load_features(cfg) if features is None else features)
        samples = len(self.all_features)
        self.lSet = _indices(lSet, "lSet", samples)
        self.uSet = _indices(uSet, "uSet", samples)
        both = np.intersect1d(self.lSet, self.uSet)
        if len(both):
            raise ValueError(f"`uSet` must not share samples with `lSet`, got {both[0]} in both")
        self.budgetSize = count(budgetSize, "budgetSize", len(self.uSet), "samples in `uSet`")
        self.weights = None if weights is None else float_array(weights)
        if self.weights is not None and self.weights.shape != (samples,):
            raise ValueError(
                f"the uncertainty must be a number for each of the {samples} samples of the whole data set, got shape "
                f"{self.weights.shape}"
            )
        self.options = options

    def select_samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Choose.

        Returns:
            activeSet: (budgetSize,) int64 indices into the whole data set, in the order of choice.
            remainSet: the rest of `uSet`, ascending.
        """
        relevant = np.concatenate([self.lSet, self.uSet])
        pool = self.all_features[relevant]
        known = len(self.lSet)
        picks = herd(
            pool,
            self.budgetSize,
            labeled=pool[:known] if known else None,
            candidates=np.arange(known, len(relevant)),
            weights=None if self.weights is None else self.weights[relevant],
            **self.options,
        )
        chosen = relevant[picks]
        return chosen, np.setdiff1d(self.uSet, chosen)


class ProbCover(MaxHerding):
    """ProbCover is MaxHerding with a top-hat kernel: a sample is covered where a labeled one is nearer than `delta`.

    Args:
        delta: the radius, in feature units.
        cfg, lSet, uSet, budgetSize, **options: as in `MaxHerding`.
    """

    def __init__(self, cfg: Any, lSet: Any, uSet: Any, budgetSize: int, delta: float, **options: Any) -> None:
        super().__init__(cfg, lSet, uSet, budgetSize, kernel="tophat", bandwidth=delta, **options)


class UHerding(MaxHerding):
    """MaxHerding weighted by uncertainty.

    Args:
        uncertainty: (whole data set,) numbers >= 0 from the model of the last round.
        cfg, lSet, uSet, budgetSize, **options: as in `MaxHerding`.
    """

    def __init__(self, cfg: Any, lSet: Any, uSet: Any, budgetSize: int, uncertainty: Any, **options: Any) -> None:
        super().__init__(cfg, lSet, uSet, budgetSize, weights=uncertainty, **options)


def _indices(values: Any, name: str, samples: int) -> np.ndarray:
    index = np.asarray(values)
    if index.dtype == bool:
        index = positions(index, name, samples, "samples")
    index = whole(index, name)
    if index.ndim != 1:
        raise ValueError(f"`{name}` must be 1-D, got shape {index.shape}")
    outside = index[(index < 0) | (index >= samples)]
    if len(outside):
        raise ValueError(f"`{name}` must hold indices from 0 to {samples - 1}, got {outside[0]}")
    found, times = np.unique(index, return_counts=True)
    if (times > 1).any():
        raise ValueError(f"`{name}` must not repeat, got {found[times > 1][0]} more than once")
    return index


def _load_features(cfg: Any) -> Any:
    try:
        from pycls.datasets.utils import load_features
    except ImportError as error:
        raise ImportError(f"give `features=`, or run this inside a deep-al codebase ({error})") from error
    return load_features(cfg["DATASET"]["NAME"], cfg["RNG_SEED"])
