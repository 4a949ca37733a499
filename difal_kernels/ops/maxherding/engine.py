"""What the dense and the matrix-free path share: the native problem, labeled points, and running the picks."""

from __future__ import annotations

import time
from typing import Any

import torch

from ..._native import load
from ..._progress import Progress
from .kernels import KERNELS
from .panels import Panels, cut, full_precision, native
from .problem import Problem


def make_engine(
    name: str, p: Problem, features: torch.Tensor, scale: torch.Tensor, gram: Any, symmetric: bool, error, threads
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
        columns=len(features) if gram is None else gram.shape[1],
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
        gram=0 if gram is None else gram.data_ptr(),
        gram_stride=0 if gram is None else gram.stride(0),
        symmetric=symmetric,
        threads=threads,
        **error,
    )
    return engine, (features, weights, candidates, allowed, scale, gram)


def cover_labeled(engine: Any, p: Problem, panels: Panels) -> None:
    """Tell the engine what the labeled points cover."""
    if p.labeled is None:
        return
    labeled, n = native(p.labeled), len(panels.features)
    height, width = panels.heights[:2]
    products = torch.empty(min(height, len(labeled)), n, dtype=torch.float32)
    scale = torch.empty(len(products), dtype=torch.float32)
    with full_precision():
        for rows in labeled.split(height):
            own = panels.rows(rows, 0)
            panels.rows_into(rows, own, scale)
            for begin, end in cut(n, width):
                torch.mm(own, panels.block(begin, end, 1).T, out=products[: len(rows), begin:end])
            engine.cover(rows.data_ptr(), len(rows), products.data_ptr(), n, scale.data_ptr())


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
