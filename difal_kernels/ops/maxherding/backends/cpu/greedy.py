"""The native classes of csrc/cpu: made for a problem, covered by labeled rows, and asked for picks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from difal_kernels._native import load
from difal_kernels._precision import full_precision
from difal_kernels._progress import Progress
from difal_kernels._workers import Workers

from ...bounds import ErrorModel
from ...kernel_functions import KERNEL_FUNCTIONS
from ...problem import Problem
from .operands import GemmOperands, cut, native

# As csrc's NumberType.
NUMBER_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8)


def make_native(
    name: str,
    p: Problem,
    features: torch.Tensor,
    sq_norms: torch.Tensor,
    error: ErrorModel,
    threads: int,
    matrix: torch.Tensor | None = None,
    symmetric: bool = True,
    order: torch.Tensor | None = None,
) -> tuple[Any, Any]:
    """Make the native class `name` for this problem; and the tensors that must outlive it, the matrix last.

    With `order` the problem's weights and candidates, and `sq_norms`, are by position: point order[i] is at i.
    """
    allowed = None
    if p.candidates is not None and symmetric:
        allowed = torch.zeros(len(features), dtype=torch.uint8)
        allowed[p.candidates] = 1
    candidates = None if symmetric else p.candidates
    weights = p.weights.contiguous()
    row_sq_norms = None if p.rows is None else sq_norms[p.rows]
    greedy = getattr(load("_cpu"), name)(
        rows=p.row_count,
        columns=len(features) if matrix is None else matrix.shape[1],
        dimension=features.shape[1],
        type=NUMBER_TYPES.index(features.dtype),
        features=features.data_ptr(),
        points=len(features),
        feature_stride=features.stride(0),
        weights=weights.data_ptr(),
        candidates=0 if candidates is None else candidates.data_ptr(),
        allowed=0 if allowed is None else allowed.data_ptr(),
        kind=KERNEL_FUNCTIONS[p.kernel].code,
        bandwidth=p.bandwidth or 1.0,
        sq_norms=sq_norms.data_ptr(),
        covered=0 if p.rows is None else p.rows.data_ptr(),
        row_sq_norms=0 if row_sq_norms is None else row_sq_norms.data_ptr(),
        matrix=0 if matrix is None else matrix.data_ptr(),
        matrix_stride=0 if matrix is None else matrix.stride(0),
        is_short=matrix is not None and matrix.dtype == torch.int16,
        symmetric=symmetric,
        first_gain=-1.0 if p.first_gain is None else p.first_gain * p.row_count,
        threads=threads,
        quantization_err=error.quantization_err,
        order=0 if order is None else order.data_ptr(),
        **error.native(),
    )
    return greedy, (features, weights, candidates, allowed, sq_norms, p.rows, row_sq_norms, order, matrix)


def cover(greedy: Any, operands: GemmOperands, rows: torch.Tensor, workers: Workers) -> None:
    """Cover the pool by labeled rows, at most as many as a slice of `operands` has."""
    rows, n = native(rows), len(operands.features if operands.covered is None else operands.covered)
    products = operands.products_with(rows)
    sq_norms, out = torch.empty(len(rows), dtype=torch.float32), torch.empty(len(rows), n, dtype=torch.float32)
    ready = products.prepare(rows, products.empty(len(rows)), sq_norms)

    def multiply(block: tuple[int, int], slot: int) -> None:
        begin, end = block
        products.multiply(ready, operands.covered_for(products, begin, end, 2 * slot + 1), out[:, begin:end])

    with full_precision():
        workers.run(multiply, cut(n, operands.heights[1]))
    greedy.cover(rows.data_ptr(), len(rows), out.data_ptr(), n, sq_norms.data_ptr())


def in_chunks(count: int, some: Callable[[int, int], int], bar: Progress, chunk: int = 16) -> int:
    """Make `count` picks in chunks of some tenths of a second, for Ctrl-C and the progress bar; how many were made.

    Args:
        count: picks.
        some: makes so many picks after so many, and says how many it made: fewer to end it.
        bar: counts them.
        chunk: how many at first.
    """
    done = 0
    while done < count:
        wanted = min(chunk, count - done)
        began = time.monotonic()
        made = some(wanted, done)
        done += made
        bar.update(made)
        if made < wanted:
            break
        took = time.monotonic() - began
        if took < 0.1:
            chunk *= 2
        elif took > 0.4:
            chunk = max(1, chunk // 2)
    return done


def run_picks(greedy: Any, picks: torch.Tensor, gains: torch.Tensor, bar: Progress) -> None:
    """Fill `picks` and `gains`."""

    def some(most: int, done: int) -> int:
        greedy.select(most, picks[done:].data_ptr(), gains[done:].data_ptr())
        return most

    in_chunks(len(picks), some, bar)


def next_picks(greedy: Any, count: int, bar: Progress) -> tuple[torch.Tensor, torch.Tensor]:
    """Make `count` picks: columns, and gains not divided by N."""
    picks, gains = torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.float64)
    run_picks(greedy, picks, gains, bar)
    return picks, gains
