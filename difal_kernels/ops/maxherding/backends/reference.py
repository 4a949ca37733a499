"""The oracle as a backend: all arithmetic in float64, on any device."""

from __future__ import annotations

from .. import reference
from ..problem import Batch
from ..result import Result


def unavailable() -> None:
    return None


def supports(batch: Batch) -> None:
    return None


def run(batch: Batch) -> list[Result]:
    results = []
    for p in batch.problems:
        indices, gains, coverage = reference.greedy(
            p.features,
            p.budget,
            labeled=p.labeled,
            candidates=p.candidates,
            weights=p.weights,
            kernel=p.kernel,
            bandwidth=p.bandwidth,
        )
        results.append(Result(indices, gains, coverage, contested_picks=p.budget))
    return results
