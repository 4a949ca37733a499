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
        features, labeled, kernel = p.features, p.labeled, p.kernel
        if p.rows is not None:  # of these rows and all columns, and no longer square
            rows, kernel = features[p.rows], "precomputed"
            if labeled is not None:
                labeled = reference.kernel_matrix(labeled, rows, p.kernel, p.bandwidth)
            features = reference.kernel_matrix(rows, features, p.kernel, p.bandwidth)
        indices, gains, coverage = reference.greedy(
            features,
            p.budget,
            labeled=labeled,
            candidates=p.candidates,
            weights=p.weights,
            kernel=kernel,
            bandwidth=p.bandwidth,
        )
        results.append(Result(indices, gains, coverage, contested_picks=p.budget))
    return results
