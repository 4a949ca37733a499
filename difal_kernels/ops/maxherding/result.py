"""What backends return, and what the user gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

TIE = 1e-12  # gains closer than this, in units of the first gain, are equal: the lowest index wins


@dataclass(frozen=True)
class Result:
    """A backend's answer to one problem."""

    indices: torch.Tensor  # (budget,) int64 into the pool, in pick order
    gains: torch.Tensor  # (budget,) float64
    coverage: float
    settled: int  # picks for which more than one candidate was compared in float64


class Selection(NamedTuple):
    """The answer of `maxherding(..., return_info=True)`; with a batch, each field has a leading dimension B.

    Attributes:
        indices: (budget,) int64, in pick order.
        gains: (budget,) float64, the rise of C(S) at each pick.
        coverage: C(S) at the end, labeled points included.
        bandwidth: the kernel's bandwidth in feature units; NaN for kernels that have none.
        settled: picks at which several candidates were too close for estimates and were compared in float64.
        backend: what ran.
    """

    indices: Any
    gains: Any
    coverage: Any
    bandwidth: Any
    settled: Any
    backend: str
