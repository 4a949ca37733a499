"""What `kcenter_greedy` returns, and when two distances are equal."""

from __future__ import annotations

from typing import Any, NamedTuple

TIE = 1e-12  # distances closer than this share of the larger are equal: the lowest index wins


class Centers(NamedTuple):
    """The answer of `kcenter_greedy(..., return_info=True)`.

    Attributes:
        indices: (budget,) int64, in pick order.
        distances: (budget,) float64, of each pick to the nearest centre before it; infinite if there was none.
        radius: the largest distance of any of the N points to its nearest centre at the end; infinite without any.
        backend: what ran.
    """

    indices: Any
    distances: Any
    radius: float
    backend: str = ""
