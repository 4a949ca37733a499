"""What the dense and the matrix-free path share: the native problem, labeled points, and running the picks."""

from __future__ import annotations

import time
from typing import Any

import torch

from difal_kernels._native import load
from difal_kernels._progress import Progress
from difal_kernels._workers import Workers

from ...kernel_functions import KERNELS
from ...problem import Problem
from .operands import Panels, cut, full_precision, native


def make_engine(
    name: str, p: Problem, features: torch.Tensor, scale: torch.Tensor, matrix: Any, symmetric: bool, error, threads
):
    """The native class `name` for this problem, and the tensors that must outlive it."""
    allowed = None
    if p.candidates is not None and symmetric:
        allowed = torch.zeros(len(features), dtype=torch.uint8)
        allowed[p.candidates] = 1
    candidates = None if symmetric else p.candidates
    weights = p.weights.contiguous()
    engine = getattr(load("_cpu"), name)(
        rows=len(features),
        columns=len(features) if matrix is None else matrix.shape[1],
        dimension=features.shape[1],
        is_double=features.dtype == torch.float64,
        features=features.data_ptr(),
        feature_stride=features.stride(0),
        weights=weights.data_ptr(),
        candidates=0 if candidates is None else candidates.data_ptr(),
        allowed=0 if allowed is None else allowed.data_ptr(),
        kind=KERNELS.index(p.kernel),
        bandwidth=p.bandwidth or 1.0,
        scale=scale.data_ptr(),
        matrix=0 if matrix is None else matrix.data_ptr(),
        matrix_stride=0 if matrix is None else matrix.stride(0),
        is_short=matrix is not None and matrix.dtype == torch.int16,
        symmetric=symmetric,
        threads=threads,
        **error,
    )
    return engine, (features, weights, candidates, allowed, scale, matrix)


def cover_labeled(engine: Any, p: Problem, panels: Panels, workers: Workers | None = None) -> None:
    """Tell the engine what the labeled points cover; the caller alone makes the products if there are no workers."""
    if p.labeled is None:
        return
    labeled, workers = native(p.labeled), workers or Workers(1)
    n, (height, width) = len(panels.features), panels.heights[:2]
    products = panels.products_with(labeled)
    height = min(height, len(labeled))
    own, out = products.empty(height), torch.empty(height, n, dtype=torch.float32)
    scale = torch.empty(height, dtype=torch.float32)
    for rows in labeled.split(height):
        ready, some = products.prepare(rows, own, scale), out[: len(rows)]

        def multiply(block: tuple[int, int], slot: int, ready=ready, some=some) -> None:
            begin, end = block
            if products is panels.products:
                other = panels.block(begin, end, 2 * slot + 1)
            else:
                other = products.prepare(panels.features[begin:end], products.empty(end - begin))
            products.multiply(ready, other, some[:, begin:end])

        with full_precision():
            workers.run(multiply, cut(n, width))
        engine.cover(rows.data_ptr(), len(rows), some.data_ptr(), n, scale.data_ptr())


def run_picks(engine: Any, picks: torch.Tensor, gains: torch.Tensor, bar: Progress) -> None:
    """Fill `picks` and `gains`, in chunks of some tenths of a second, for Ctrl-C and the progress bar."""
    done, chunk = 0, 16
    while done < len(picks):
        count = min(chunk, len(picks) - done)
        began = time.monotonic()
        engine.select(count, picks[done:].data_ptr(), gains[done:].data_ptr())
        done += count
        bar.update(count)
        if time.monotonic() - began < 0.1:
            chunk *= 2
