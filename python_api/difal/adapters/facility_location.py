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

from difal.adapters._arguments import count, float_array, herd, positions
from difal.adapters._require import required
from difal_kernels.ops.maxherding.kernel_functions import KERNELS

with required("scikit-learn", "scikit-learn"):
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.metrics import pairwise_distances
    from sklearn.utils.validation import check_array, check_is_fitted


APRICOTS = ("euclidean", "cosine")  # metrics of which apricot makes similarities


def similarities(rows: np.ndarray, metric: str) -> np.ndarray:
    """(n, n) similarities as apricot makes them of a metric: cosines are squared."""
    if metric == "euclidean":
        squared = pairwise_distances(rows, metric="sqeuclidean")
        return squared.max() - squared
    return (1 - pairwise_distances(rows, metric=metric)) ** 2


class FacilityLocationSelection(TransformerMixin, BaseEstimator):
    """Select rows that represent all rows best, greedily: maximise sum_i max_{s selected} similarity(i, s).

    Args:
        n_samples: how many rows to select.
        metric: a kernel of `maxherding` ("rbf", "laplace", ...), "precomputed" for an (n, n) similarity matrix, or one
            of apricot's: "euclidean", the largest squared distance minus the squared distance, and "cosine",
            which apricot squares. (`maxherding(kernel="cosine")` does not.)
        initial_subset: indices of rows selected before, or a mask of them; not selected again.
        optimizer, n_jobs, random_state: apricot's, accepted and not used: every optimizer of apricot's looks for the
            picks of the greedy one, which are found here in any case.
        verbose: show a progress bar.
        bandwidth: of the kernel, in feature units, or "median".

    Attributes:
        ranking, ranking_: (n_samples,) int64 rows, in the order of selection.
        gains, gains_: (n_samples,) float64, what each row added to the sum.
        subset, subset_: (n_samples, d), the selected rows.

    Notes:
        Equal to apricot's naive and lazy optimizers where those do not lose digits: float64 greedy selection, ties to
        the lowest index, never a row twice. apricot's metrics and "precomputed" hold the n x n matrix.
    """

    def __init__(
        self,
        n_samples: int,
        metric: str = "rbf",
        initial_subset: Any = None,
        optimizer: Any = "lazy",
        *,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
        bandwidth: float | str = "median",
    ) -> None:
        self.n_samples = n_samples
        self.metric = metric
        self.initial_subset = initial_subset
        self.optimizer = optimizer
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.bandwidth = bandwidth

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> FacilityLocationSelection:
        """Select rows.

        Args:
            X: (n, d) rows, or the (n, n) similarities where metric is "precomputed". Sparse matrices are made dense.
            y: not used.
            sample_weight: (n,) numbers >= 0: how much it counts that a row is represented.

        Raises:
            TypeError, ValueError: as in `maxherding`; more rows asked for than there are, an unknown metric.
        """
        # Integers become the first type.
        X = check_array(X, accept_sparse="csr", dtype=[np.float64, np.float32, np.float16])
        known = (*APRICOTS, *(name for name in KERNELS if name not in APRICOTS))
        if not isinstance(self.metric, str) or self.metric not in known:
            raise ValueError(f"`metric` must be one of {', '.join(known)}, got {self.metric!r}")
        features = X.toarray() if hasattr(X, "toarray") else X
        kernel = "precomputed" if self.metric in APRICOTS else self.metric
        if self.metric in APRICOTS:
            features = similarities(features, self.metric)
        rows = len(features)
        labeled, candidates = None, None
        before = positions([] if self.initial_subset is None else self.initial_subset, "initial_subset", rows, "rows")
        if len(before):
            labeled = features[:, before].T if kernel == "precomputed" else features[before]
            candidates = np.setdiff1d(np.arange(rows), before)
        count(self.n_samples, "n_samples", rows if candidates is None else len(candidates), "rows to select from")
        weights = None if sample_weight is None else float_array(sample_weight)
        if weights is not None and weights.shape != (rows,):
            raise ValueError(f"`sample_weight` must have shape ({rows},), got {weights.shape}")
        selection = herd(
            features,
            self.n_samples,
            labeled=labeled,
            candidates=candidates,
            weights=weights,
            kernel=kernel,
            bandwidth=self.bandwidth,
            return_info=True,
            progress=self.verbose,
        )
        self.ranking_ = selection.indices
        self.gains_ = selection.gains * rows
        self.subset_ = X[self.ranking_]
        self.n_features_in_ = X.shape[1]
        self.n_rows_in_ = rows
        return self

    def transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """The selected rows of `X`, in the order of selection; with `y` and `sample_weight` those of them too.

        `X` may be anything with a row for each row that was fitted, such as the images whose embeddings were.
        """
        check_is_fitted(self)
        rows = self._selected(X, "X")
        if sample_weight is not None:
            return rows, None if y is None else self._selected(y, "y"), self._selected(sample_weight, "sample_weight")
        return rows if y is None else (rows, self._selected(y, "y"))

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        return self.fit(X, y, sample_weight).transform(X, y, sample_weight)

    @property
    def ranking(self) -> np.ndarray:
        check_is_fitted(self)
        return self.ranking_

    @property
    def gains(self) -> np.ndarray:
        check_is_fitted(self)
        return self.gains_

    @property
    def subset(self) -> np.ndarray:
        check_is_fitted(self)
        return self.subset_

    def _selected(self, values: Any, name: str) -> Any:
        array = values.tocsr() if hasattr(values, "tocsr") else np.asarray(values)
        if array.ndim == 0 or array.shape[0] != self.n_rows_in_:
            raise ValueError(f"`{name}` must have the {self.n_rows_in_} rows that were fitted, got shape {array.shape}")
        return array[self.ranking_]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "ranking_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.metric == "precomputed"
        tags.input_tags.sparse = True
        return tags
