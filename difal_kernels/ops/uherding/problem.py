"""Arguments of `uherding` to a problem of `maxherding`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..maxherding.kernel_functions import SCALE_FREE
from ..maxherding.problem import Batch
from ..maxherding.problem import prepare as prepare_maxherding


def prepare(features: Any, uncertainty: Any, budget: int, *, bandwidth: Any = "median", **options: Any) -> Batch:
    if uncertainty is None:
        raise TypeError("`uncertainty` must be (N,) or (B, N) numbers, got None; `maxherding` needs none")
    adapt = isinstance(bandwidth, str) and bandwidth == "labeled"
    try:
        batch = prepare_maxherding(
            features, budget, weights=uncertainty, bandwidth="median" if adapt else bandwidth, **options
        )
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("`weights`", "`uncertainty`")) from None
    if not adapt:
        return batch
    if batch.problems[0].kernel in SCALE_FREE:
        raise ValueError(f"`bandwidth` must not be 'labeled' with kernel={batch.problems[0].kernel!r}, which has none")
    adapted = []
    for p in batch.problems:
        width = None if p.labeled is None else smallest_distance(p.labeled)
        adapted.append(p if width is None else replace(p, bandwidth=width))
    return replace(batch, problems=tuple(adapted))


def smallest_distance(points: torch.Tensor) -> float | None:
    """The smallest non-zero distance between two rows, in float64; None if there is none."""
    points, best = points.double(), torch.inf
    for start in range(0, len(points), 256):
        r = torch.cdist(points[start : start + 256], points[start:], compute_mode="donot_use_mm_for_euclid_dist")
        r = r[r > 0]
        best = min(best, float(r.min())) if len(r) else best
    return None if best == torch.inf else best
