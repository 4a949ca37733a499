"""Baal heuristics: `MaxHerding` ranks embeddings by coverage, `EDALD` scores noisy predictions.

    from difal.adapters.baal import MaxHerding
    loop = ActiveLearningLoop(dataset, embed, MaxHerding(budget=100), query_size=100)

where `embed` gives an embedding an item, as Baal's `get_probabilities` gives a prediction an item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from difal.adapters._arguments import float_array, herd
from difal.adapters._require import required
from difal_kernels import edald

with required("Baal", "baal"):
    from baal.active.heuristics import AbstractHeuristic


class MaxHerding(AbstractHeuristic):
    """Rank items so that the first `budget` cover all of them best.

    Args:
        budget: how many items to choose, usually the loop's `query_size`; all if there are fewer.
        labeled: (L, D) embeddings of the items labeled already, or a function that returns them at each ranking.
        **options: for `difal_kernels.maxherding`: `kernel`, `bandwidth`, `weights` ...
    """

    def __init__(self, budget: int, labeled: Any | Callable[[], Any] = None, **options: Any) -> None:
        super().__init__(reverse=True)
        self.budget = budget
        self.labeled = labeled
        self.options = options

    def get_ranks(self, predictions: Any, target_predictions: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Rank embeddings.

        Args:
            predictions: (N, D) embeddings, or (N, D, ..., iterations), of which the mean over iterations and places is
                taken; an array, a tensor, or an iterable of batches of items or of single items, (D,) each.
            target_predictions: not used.

        Returns:
            ranks: (N,) int64, the chosen in the order of choice and then the rest, ascending.
            scores: (N,) float64, what each chosen item added to the coverage; 0 for the rest.
        """
        pool = _embeddings(predictions)
        labeled = self.labeled() if callable(self.labeled) else self.labeled
        if labeled is not None:
            labeled = _embeddings(labeled)
            labeled = labeled if len(labeled) else None
        selection = herd(pool, min(self.budget, len(pool)), labeled=labeled, return_info=True, **self.options)
        scores = np.zeros(len(pool))
        scores[selection.indices] = selection.gains
        rest = np.setdiff1d(np.arange(len(pool)), selection.indices)
        return np.concatenate([selection.indices, rest]), scores

    def compute_score(self, predictions: Any, target_predictions: Any = None) -> np.ndarray:
        return self.get_ranks(predictions, target_predictions)[1]


class EDALD(AbstractHeuristic):
    """Score by eDALD: entropy of one pass plus disagreement between passes that differ in the diffusion noise.

    Args:
        single: which iteration is the pass under the fixed noise; the others are the noise samples.
        weight: of the disagreement.
        input: "logits", "log_probs" or "probs": what the predictions are.
        reduction: as in Baal, "mean" for one score an image of a segmentation.

    References:
        Kim et al. (2025), arXiv 2510.22229.
    """

    def __init__(self, single: int = 0, weight: float = 1.0, input: str = "logits", reduction: Any = "none") -> None:
        super().__init__(reverse=True, reduction=reduction)
        self.single = single
        self.weight = weight
        self.input = input

    def compute_score(self, predictions: Any, target_predictions: Any = None) -> np.ndarray:
        """Score predictions of shape (N, C, ..., iterations): (N, ...) float32 in nats.

        Raises:
            ValueError: fewer than two iterations, or no iteration `single`.
        """
        values = float_array(predictions)
        if values.ndim < 3 or values.shape[-1] < 2:
            raise ValueError(f"`predictions` must be (N, C, ..., iterations) with 2 or more, got shape {values.shape}")
        passes = values.shape[-1]
        if not -passes <= self.single < passes:
            raise ValueError(f"`single` must be one of the {passes} iterations, got {self.single}")
        samples = np.delete(values, self.single, axis=-1)
        return edald(
            samples, values[..., self.single], weight=self.weight, input=self.input, sample_dim=-1, class_dim=1
        )


def _embeddings(values: Any) -> np.ndarray:
    if isinstance(values, Iterable) and not isinstance(values, (np.ndarray, torch.Tensor)):
        parts = [float_array(part) for part in values]
        if not parts:
            raise ValueError("`predictions` must hold an embedding an item, got none")
        values = np.stack(parts) if parts[0].ndim == 1 else np.concatenate(parts)
    values = float_array(values)
    return values.mean(axis=tuple(range(2, values.ndim))) if values.ndim > 2 else values
