"""Arguments of `probcover` to a problem of `maxherding` with the tophat kernel, whose ball is open."""

from __future__ import annotations

import math
from typing import Any

from ..._checks import as_numbers
from ..maxherding.problem import Batch
from ..maxherding.problem import prepare as prepare_maxherding

ROUNDING = 1e-12  # a distance that exceeds the radius by no more than this share of it is equal to it


def prepare(features: Any, radius: float, budget: int, **options: Any) -> Batch:
    return prepare_maxherding(features, budget, kernel="tophat", bandwidth=open_radius(radius), **options)


def open_radius(radius: Any) -> float:
    """The bandwidth of the tophat kernel that reaches as far as `radius`: r < it exactly where r <= radius, rounded."""
    return math.nextafter(as_radius(radius) * (1 + ROUNDING), math.inf)


def as_radius(value: Any) -> float:
    numbers = as_numbers(value, "radius", "a positive number")
    if numbers.ndim:
        raise ValueError(f"`radius` must be one number, got shape {numbers.shape}")
    radius = float(numbers)
    if not (math.isfinite(radius) and 1e-150 <= radius <= 1e150):
        raise ValueError(f"`radius` must be positive and from 1e-150 to 1e150, got {radius}")
    return radius
