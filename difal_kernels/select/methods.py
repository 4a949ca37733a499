"""The selection methods of the command, each made in portions that can be saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from ..curve import mean_weight
from ..ops.kcenter_greedy import kcenter_greedy
from ..ops.maxherding import MaxHerding


class Selecting(Protocol):
    """A selection that goes on from the picks of an earlier one.

    Attributes:
        remaining: candidates that are left.
        before: coverage before the first pick of all; None where the method knows no coverage.
    """

    @property
    def remaining(self) -> int: ...

    @property
    def before(self) -> float | None: ...

    def more(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The next picks, and what each adds to coverage; for k-center its distance to what was picked before."""
        ...

    def next_portion(self, done: int, last: int, seconds: float, wanted: float) -> int:
        """How many picks to make next, if the last ones took that long and `wanted` seconds would be good."""
        ...


class Herding:
    """MaxHerding, and what it is called with other weights or another kernel: uncertainty herding and ProbCover.

    Args:
        features, labeled, candidates, weights, kernel, bandwidth, memory_limit: as for `MaxHerding`.
        picks, gains: of the earlier part of this selection; gains as `more` returns them.
        report: called with a line of text now and then while `more` runs.
    """

    def __init__(
        self,
        features: torch.Tensor,
        *,
        picks: np.ndarray,
        gains: np.ndarray,
        labeled: torch.Tensor | None,
        candidates: torch.Tensor | None,
        weights: np.ndarray | None,
        report: Callable[[str], None],
        **options: Any,
    ):
        self._report = report
        self._unit = mean_weight(weights)
        picked = torch.from_numpy(picks), torch.from_numpy(gains * self._unit)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*all zeros")  # the command has named them by their ids
            self._herding = MaxHerding(
                features, weights=weights, labeled=labeled, candidates=candidates, picked=picked, **options
            )

    @property
    def remaining(self) -> int:
        return self._herding.remaining

    @property
    def before(self) -> float:
        return float(self._herding.coverage - self._herding.gains.sum()) / self._unit

    def more(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        picks = self._herding.select(count, progress=self._report)
        return picks.numpy(), self._herding.gains[len(self._herding.gains) - count :].numpy() / self._unit

    def next_portion(self, done: int, last: int, seconds: float, wanted: float) -> int:
        return max(16, min(4 * last, int(last * wanted / max(seconds, 1e-6))))


class Centers:
    """K-center greedy. The same arguments, as far as it has them."""

    before = None

    def __init__(
        self,
        features: torch.Tensor,
        *,
        picks: np.ndarray,
        labeled: torch.Tensor | None,
        candidates: torch.Tensor | None,
    ):
        self._features, self._labeled = features, labeled
        self._left = torch.arange(len(features)) if candidates is None else candidates
        self._picks = torch.empty(0, dtype=torch.int64)
        self._take(torch.from_numpy(picks))

    @property
    def remaining(self) -> int:
        return len(self._left)

    def more(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        known = self._features[self._picks]
        if self._labeled is not None:
            known = torch.cat([self._labeled.to(known.dtype), known])
        found = kcenter_greedy(
            self._features,
            count,
            labeled=known if len(known) else None,
            candidates=self._left,
            return_info=True,
        )
        self._take(found.indices)
        return found.indices.numpy(), found.distances.numpy()

    def next_portion(self, done: int, last: int, seconds: float, wanted: float) -> int:
        return max(256, done)  # each portion measures the distances to all earlier picks anew

    def _take(self, picks: torch.Tensor) -> None:
        self._picks = torch.cat([self._picks, picks])
        self._left = self._left[~torch.isin(self._left, picks)]
