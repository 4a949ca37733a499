"""PatchCore's coreset under anomalib's names: k-center greedy on the embedding itself, the same picks every time.

Needs no anomalib.

>>> import torch
>>> from difal.adapters.anomalib import KCenterGreedy
>>> embedding = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
>>> sampler = KCenterGreedy(embedding, sampling_ratio=0.01)
>>> sampler.sample_coreset().shape
torch.Size([20, 32])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from difal_kernels import kcenter_greedy


class KCenterGreedy:
    """Select a coreset greedily: each row the farthest from all rows selected before.

    Args:
        embedding: (n, ...) float tensor, a row per patch; rows of several dimensions are flattened.
        sampling_ratio: share of the rows to select, above 0 and at most 1: int(n * sampling_ratio) rows.

    Attributes:
        embedding, coreset_size, n_observations: as given, the number of rows to select, and n.
        radius: after a selection, the largest distance of any row to the nearest selected one; None before.

    Raises:
        TypeError: `embedding` is not a tensor of floating-point numbers.
        ValueError: it is empty or not finite, or `sampling_ratio` selects no row or more than there are.

    Notes:
        anomalib projects the embedding at random to fewer dimensions and starts from a random row. Here distances are
        those of the embedding, in float64, and the first row is row 0; ties go to the lowest index. It runs on the
        CPU, wherever the embedding is.
    """

    def __init__(self, embedding: torch.Tensor, sampling_ratio: float) -> None:
        if not isinstance(embedding, torch.Tensor) or not embedding.is_floating_point():
            raise TypeError(f"`embedding` must be a torch.Tensor of floating-point numbers, got {_kind(embedding)}")
        if embedding.ndim < 2:
            raise ValueError(f"`embedding` must have a row per patch, (n, d), got shape {tuple(embedding.shape)}")
        self.embedding = embedding
        self.n_observations = len(embedding)
        if not 0 < sampling_ratio <= 1 or int(self.n_observations * sampling_ratio) == 0:
            raise ValueError(
                f"`sampling_ratio` must be at most 1 and select a row or more of {self.n_observations}, got "
                f"{sampling_ratio}"
            )
        self.coreset_size = int(self.n_observations * sampling_ratio)
        self.radius: float | None = None

    def select_coreset_idxs(self, selected_idxs: Sequence[int] | None = None) -> list[int]:
        """Select `coreset_size` rows.

        Args:
            selected_idxs: rows that are in the coreset already; they count as selected, and are not selected again.

        Returns:
            Indices of the rows, in the order of selection, without those of `selected_idxs`.

        Raises:
            ValueError: fewer rows are left than are to be selected, or an index is out of range.
        """
        features = self.embedding.detach().reshape(self.n_observations, -1).cpu()
        before = np.asarray([] if selected_idxs is None else [int(i) for i in selected_idxs], dtype=np.int64)
        options: dict[str, Any] = {}
        if len(before):
            if before.min() < 0 or before.max() >= self.n_observations:
                raise ValueError(f"`selected_idxs` must be from 0 to {self.n_observations - 1}, got {before.tolist()}")
            options["labeled"] = features[torch.from_numpy(before)]
            options["candidates"] = np.setdiff1d(np.arange(self.n_observations), before)
            if len(options["candidates"]) < self.coreset_size:
                raise ValueError(
                    f"`selected_idxs` must leave {self.coreset_size} rows to select, got {len(np.unique(before))} of "
                    f"{self.n_observations} rows"
                )
        result = kcenter_greedy(features, self.coreset_size, return_info=True, **options)
        self.radius = result.radius
        return result.indices.tolist()

    def sample_coreset(self, selected_idxs: Sequence[int] | None = None) -> torch.Tensor:
        """Select rows and return them: (coreset_size, ...) of `embedding`, on its device."""
        return self.embedding[self.select_coreset_idxs(selected_idxs)]


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__
