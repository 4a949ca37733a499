"""Facility location as an estimator, with the names of apricot and the conventions of scikit-learn.

>>> import numpy as np
>>> from difal.adapters.facility_location import FacilityLocationSelection
>>> X = np.random.default_rng(0).normal(size=(500, 8))
>>> selector = FacilityLocationSelection(20).fit(X)
>>> selector.transform(X).shape, selector.ranking.shape
((20, 8), (20,))
"""

from __future__ import annotations

from typing import Any

import numpy as np

from difal.adapters._require import required
from difal_kernels import maxherding

with required("scikit-learn", "scikit-learn"):
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.metrics import pairwise_distances


class FacilityLocationSelection(TransformerMixin, BaseEstimator):
    """Select rows that represent all rows best, greedily: maximise sum_i max_{s selected} similarity(i, s).

    Args:
        n_samples: how many rows to select.
        metric: a kernel of `maxherding` ("rbf", "cosine", ...), "precomputed" for an (n, n) similarity matrix, or
            "euclidean" for apricot's similarity, the largest squared distance minus the squared distance.
        bandwidth: of the kernel, in feature units, or "median".
        initial_subset: indices of rows selected before; not selected again.
        verbose: show a progress bar.

    Attributes:
        ranking: (n_samples,) int64 rows, in the order of selection.
        gains: (n_samples,) float64, what each row added to the sum.
        subset: (n_samples, d), the selected rows.

    Notes:
        Equal to apricot's naive and lazy optimizers where those do not lose digits: float64 greedy selection, ties to
        the lowest index, never a row twice. "euclidean" and "precomputed" hold the n x n matrix.
    """

    def __init__(
        self,
        n_samples: int,
        metric: str = "rbf",
        bandwidth: float | str = "median",
        initial_subset: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_samples = n_samples
        self.metric = metric
        self.bandwidth = bandwidth
        self.initial_subset = initial_subset
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> FacilityLocationSelection:
        """Select rows.

        Args:
            X: (n, d) rows, or the (n, n) similarities where metric is "precomputed".
            y: not used.
            sample_weight: (n,) numbers >= 0: how much it counts that a row is represented.

        Raises:
            TypeError, ValueError: as in `maxherding`.
        """
        X = np.asarray(X)
        if X.dtype not in (np.float16, np.float32, np.float64):
            X = X.astype(np.float64)
        features, kernel = X, self.metric
        if self.metric == "euclidean":
            squared = pairwise_distances(X, metric="sqeuclidean")
            features, kernel = squared.max() - squared, "precomputed"
        labeled, candidates = None, None
        if self.initial_subset is not None and len(self.initial_subset):
            before = np.asarray(self.initial_subset, dtype=np.int64)
            if before.ndim != 1 or before.min() < 0 or before.max() >= len(X):
                raise ValueError(f"`initial_subset` must be row indices from 0 to {len(X) - 1}, got {before.tolist()}")
            labeled = features[:, before].T if kernel == "precomputed" else features[before]
            candidates = np.setdiff1d(np.arange(len(X)), before)
        selection = maxherding(
            features,
            self.n_samples,
            labeled=labeled,
            candidates=candidates,
            weights=sample_weight,
            kernel=kernel,
            bandwidth=self.bandwidth,
            return_info=True,
            progress=self.verbose,
        )
        self.ranking = selection.indices
        self.gains = selection.gains * len(X)
        self.subset = X[self.ranking]
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """The selected rows of `X`, in the order of selection; with `y` and `sample_weight` those of them too."""
        if not hasattr(self, "ranking"):
            raise ValueError("nothing is selected yet: call fit first")
        rows = np.asarray(X)[self.ranking]
        if sample_weight is not None:
            return rows, None if y is None else np.asarray(y)[self.ranking], np.asarray(sample_weight)[self.ranking]
        return rows if y is None else (rows, np.asarray(y)[self.ranking])

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        return self.fit(X, y, sample_weight).transform(X, y, sample_weight)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "ranking")
