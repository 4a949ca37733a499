"""scikit-activeml query strategies: `MaxHerdingQuery` and `UHerdingQuery`.

>>> import numpy as np
>>> from difal.adapters.scikit_activeml import MaxHerdingQuery
>>> X = np.random.default_rng(0).normal(size=(200, 8))
>>> y = np.full(200, np.nan)
>>> MaxHerdingQuery().query(X, y, batch_size=5).shape
(5,)
"""

from __future__ import annotations

import numpy as np
import torch

from difal.adapters._arguments import float_array
from difal.adapters._require import required
from difal.adapters._utilities import step_gains
from difal_kernels import maxherding
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth

with required("scikit-activeml", "scikit-activeml"):
    from skactiveml.base import SingleAnnotatorPoolQueryStrategy, SkactivemlClassifier
    from skactiveml.pool import uncertainty_scores
    from skactiveml.utils import MISSING_LABEL, check_equal_missing_label, check_type, is_labeled
    from sklearn.base import clone
    from sklearn.preprocessing import normalize


class MaxHerdingQuery(SingleAnnotatorPoolQueryStrategy):
    """Query the samples that cover the pool best, given those labeled already.

    Coverage counts all of `X`, also where `candidates` names fewer; where `candidates` are samples of their own,
    it counts those. Ties go to the lowest index, so nothing is drawn at random.

    Parameters
    ----------
    normalize_samples : bool, default=True
        Whether to scale samples to unit length first.
    kernel : str, default="rbf"
        A kernel of `difal_kernels.maxherding` that is a function of features.
    bandwidth : float or "median", default="median"
        In units of the (normalized) features. scikit-learn's `gamma` is 1 / bandwidth ** 2. The median is that of
        `X`, whatever the candidates.
    missing_label : scalar or string or np.nan or None, default=np.nan
        What stands for a label that is not there.
    random_state : None or int or np.random.RandomState, default=None
        Accepted by convention, not used.

    References
    ----------
    .. [1] Bae, Noh, Sutherland. Generalized Coverage for More Robust Low-Budget Active Learning. ECCV 2024.
    """

    def __init__(
        self, normalize_samples=True, kernel="rbf", bandwidth="median", missing_label=MISSING_LABEL, random_state=None
    ):
        super().__init__(missing_label=missing_label, random_state=random_state)
        self.normalize_samples = normalize_samples
        self.kernel = kernel
        self.bandwidth = bandwidth

    def query(self, X, y, candidates=None, batch_size=1, return_utilities=False):
        """Choose samples to label.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The whole pool, labeled samples included.
        y : array-like of shape (n_samples,)
            Labels, `missing_label` where there is none.
        candidates : None or array-like of shape (n_candidates,), dtype=int or array-like of shape
                (n_candidates, n_features), default=None
            What may be chosen: the unlabeled samples, samples of `X` by index, or samples of their own.
        batch_size : int, default=1
            How many to choose.
        return_utilities : bool, default=False
            Whether to return the gains as well.

        Returns
        -------
        query_indices : numpy.ndarray of shape (batch_size,)
            Indices into `X`, or into `candidates` where those are samples; in the order of choice.
        utilities : numpy.ndarray of shape (batch_size, n_samples) or (batch_size, n_candidates)
            The gain in coverage of each candidate at each choice, a mean over the unlabeled samples; NaN for labeled,
            chosen and other samples.
        """
        X, y, candidates, batch_size, return_utilities = self._checked(X, y, candidates, batch_size, return_utilities)
        return self._herd(X, y, candidates, batch_size, return_utilities)

    def _checked(self, X, y, candidates, batch_size, return_utilities):
        if np.asarray(candidates).dtype == bool:  # would be read as the indices 0 and 1
            raise TypeError("`candidates` must be indices or samples, got a mask; give numpy.flatnonzero(mask)")
        return self._validate_data(X, y, candidates, batch_size, return_utilities, reset=True)

    def _herd(self, X, y, candidates, batch_size, return_utilities, weigh=None):
        """`weigh` maps the pool, (n, n_features), to its weights."""
        check_type(self.normalize_samples, "normalize_samples", bool)
        check_type(self.kernel, "kernel", str)
        if self.kernel == "precomputed":
            raise ValueError("`kernel` must be a function of features here, got 'precomputed'")
        samples, mapping = self._transform_candidates(candidates, X, y)
        known = is_labeled(y, missing_label=self.missing_label_)
        pool = samples if mapping is None else X
        allowed = np.arange(len(samples)) if mapping is None else np.asarray(mapping)
        weights = None if weigh is None else weigh(pool)
        prepare = normalize if self.normalize_samples else float_array
        X = prepare(X)
        pool = prepare(samples) if mapping is None else X
        bandwidth = self.bandwidth
        if mapping is None and isinstance(bandwidth, str) and bandwidth == "median":
            bandwidth = median_bandwidth(torch.from_numpy(X))
        options = {"kernel": self.kernel, "weights": weights, "labeled": X[known] if known.any() else None}
        selection = maxherding(pool, batch_size, candidates=allowed, bandwidth=bandwidth, return_info=True, **options)
        if not return_utilities:
            return selection.indices
        gains = step_gains(pool, selection.indices, allowed, bandwidth=selection.bandwidth, **options)
        # The library's mean is over the unlabeled; labeled samples gain nothing.
        counted = len(pool) if mapping is None else max(1, len(pool) - int(known.sum()))
        utilities = np.full((len(selection.indices), len(pool)), np.nan)
        utilities[:, allowed] = gains * (len(pool) / counted)
        return selection.indices, utilities


class UHerdingQuery(MaxHerdingQuery):
    """Query the samples that cover best what a classifier is uncertain about.

    Each sample's coverage counts as much as the classifier is uncertain of it. Before anything is labeled a
    classifier is equally uncertain of all, and the choice is that of `MaxHerdingQuery`.

    Parameters
    ----------
    method : "least_confident", "margin_sampling" or "entropy", default="margin_sampling"
        The uncertainty, as in `skactiveml.pool.uncertainty_scores`.
    normalize_samples, kernel, bandwidth, missing_label, random_state
        As in `MaxHerdingQuery`. The classifier sees the samples as they are.

    References
    ----------
    .. [1] Bae, Sutherland, Oliveira. Uncertainty Herding: One Active Learning Method for All Label Budgets. ICLR 2025.
    """

    def __init__(
        self,
        method="margin_sampling",
        normalize_samples=True,
        kernel="rbf",
        bandwidth="median",
        missing_label=MISSING_LABEL,
        random_state=None,
    ):
        super().__init__(normalize_samples, kernel, bandwidth, missing_label, random_state)
        self.method = method

    def query(self, X, y, clf, fit_clf=True, sample_weight=None, candidates=None, batch_size=1, return_utilities=False):  # type: ignore[override]
        """Choose samples to label.

        Parameters
        ----------
        clf : skactiveml.base.SkactivemlClassifier
            Implements `predict_proba`.
        fit_clf : bool, default=True
            Whether to fit a copy of `clf` on `X` and `y` first.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights for that fit.
        X, y, candidates, batch_size, return_utilities
            As in `MaxHerdingQuery.query`.

        Returns
        -------
        query_indices, utilities
            As in `MaxHerdingQuery.query`.
        """
        X, y, candidates, batch_size, return_utilities = self._checked(X, y, candidates, batch_size, return_utilities)
        check_type(clf, "clf", SkactivemlClassifier)
        check_equal_missing_label(clf.missing_label, self.missing_label_)
        check_type(fit_clf, "fit_clf", bool)
        if self.method not in ("least_confident", "margin_sampling", "entropy"):
            raise ValueError(f"`method` must be 'least_confident', 'margin_sampling' or 'entropy', got {self.method!r}")
        if fit_clf:
            clf = clone(clf).fit(X, y) if sample_weight is None else clone(clf).fit(X, y, sample_weight)

        def weigh(pool):
            return np.maximum(uncertainty_scores(clf.predict_proba(pool), method=self.method), 0)

        return self._herd(X, y, candidates, batch_size, return_utilities, weigh)
