"""small-text query strategies: `MaxHerdingStrategy` and `UHerdingStrategy`, for classifiers that embed.

from difal.adapters.small_text import MaxHerdingStrategy
active_learner = PoolBasedActiveLearner(classifier_factory, MaxHerdingStrategy(), dataset)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from difal.adapters._arguments import float_array, herd
from difal.adapters._require import required
from difal_kernels import entropy

with required("small-text", "small-text"):
    from sklearn.preprocessing import normalize as unit_length
    from small_text.query_strategies.strategies import EmbeddingBasedQueryStrategy


class MaxHerdingStrategy(EmbeddingBasedQueryStrategy):
    """Choose the instances whose embeddings cover all embeddings best, given those labeled.

    Args:
        normalize: whether to scale embeddings to unit length first.
        **options: for `difal_kernels.maxherding`: `kernel`, `bandwidth`, `memory_limit` ...
    """

    def __init__(self, normalize: bool = True, **options: Any) -> None:
        self.normalize = normalize
        self.options = options

    def sample(
        self, clf, dataset, indices_unlabeled, indices_labeled, y, n, embeddings, embeddings_proba=None
    ) -> np.ndarray:
        """Positions in `embeddings` of the `n` chosen, in the order of choice."""
        pool = float_array(embeddings)
        rows = len(indices_unlabeled) + len(indices_labeled)
        if len(pool) != rows:
            raise ValueError(
                f"`embeddings` must have {rows} rows, the unlabeled instances and then the labeled, got {len(pool)}"
            )
        weights = self._weights(clf, dataset, embeddings_proba)
        pool = unit_length(pool) if self.normalize else pool
        labeled = pool[indices_labeled] if len(indices_labeled) else None
        return herd(pool, n, labeled=labeled, candidates=indices_unlabeled, weights=weights, **self.options)

    def _weights(self, clf, dataset, proba) -> np.ndarray | None:
        return None

    def __str__(self) -> str:
        return f"{type(self).__name__}(normalize={self.normalize})"


class UHerdingStrategy(MaxHerdingStrategy):
    """Choose the instances that cover best what the classifier is uncertain about, by the entropy of its prediction.

    The probabilities come with the embeddings where the classifier gives both, else from `predict_proba`.
    """

    def _weights(self, clf, dataset, proba) -> np.ndarray:
        proba = np.asarray(clf.predict_proba(dataset) if proba is None else proba)
        return np.maximum(entropy(proba, input="probs"), 0)
