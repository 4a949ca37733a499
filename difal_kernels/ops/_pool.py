"""Checks of the ops that pick from one pool by distance: `kcenter_greedy` and `typiclust`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .._checks import as_features
from .maxherding.problem import prepare as prepare_maxherding


@dataclass(frozen=True)
class Pool:
    """One selection; tensors are on one device."""

    features: torch.Tensor  # (N, D), the user's dtype and strides
    budget: int
    labeled: torch.Tensor | None  # (L, D) of the same dtype; None if there are none
    candidates: torch.Tensor | None  # (M,) int64 ascending, on the CPU; None for all
    progress: bool

    @property
    def device(self) -> torch.device:
        return self.features.device

    def allowed(self) -> torch.Tensor:
        """(N,) bool, on the device: may the point be picked."""
        open_ = torch.zeros(len(self.features), dtype=torch.bool)
        open_[slice(None) if self.candidates is None else self.candidates] = True
        return open_.to(self.device)


def prepare(
    features: Any,
    budget: int,
    *,
    labeled: Any = None,
    candidates: Any = None,
    progress: bool = False,
    return_info: bool = False,
    narrow: bool = False,
) -> Pool:
    """Validate the arguments; `narrow`: 8-bit features stay."""
    x = as_features(features, "features", narrow)
    if x.ndim != 2:
        raise ValueError(f"`features` must be 2-D (N, D), got shape {tuple(x.shape)}")
    (p,) = prepare_maxherding(
        x,
        budget,
        labeled=labeled,
        candidates=candidates,
        bandwidth=1.0,
        progress=progress,
        return_info=return_info,
    ).problems
    return Pool(p.features, p.budget, p.labeled, p.candidates, bool(progress))
