"""The dense path on the GPU: kernel matrices of several problems at once, then one launch that picks from all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from difal_kernels._native import load
from difal_kernels._progress import Progress
from difal_kernels.ops._gpu import FLOAT_CODES, queue

from ...kernel_functions import KERNELS
from ...problem import Problem
from ...reference import initial_coverage
from ...result import Result
from ..cpu.operands import TOLERANCE, UNIT
from . import greedy
from .operands import Panels, full_precision, matrix_bytes

BLOCK = 4096  # rows of the matrix per GEMM
LABELS = 8192  # labeled points per GEMM


def symmetric(p: Problem) -> bool:
    """Whether the whole square matrix is made: half of it by symmetry costs less than a column per candidate."""
    return p.kernel != "precomputed" and (p.candidates is None or 2 * len(p.candidates) > len(p.features))


def columns(p: Problem) -> int:
    return len(p.features) if p.candidates is None or symmetric(p) else len(p.candidates)


def kept_bytes(p: Problem) -> int:
    """Bytes held until the last pick."""
    n, d = p.features.shape
    copy = 0 if p.features.is_contiguous() else n * d * p.features.element_size()
    if p.kernel == "precomputed":
        copy = n * n * (8 if p.features.dtype == torch.float64 else 4)
    return 4 * n * greedy.pad(columns(p)) + copy + greedy.workspace_bytes(n, columns(p))


def passing_bytes(p: Problem) -> int:
    """Bytes held while the matrix is made."""
    if p.kernel == "precomputed":
        return 12 * p.features.numel()
    d = p.features.shape[1]
    labels = 0 if p.labeled is None else label_bytes(p)
    return matrix_bytes(p) + labels + (0 if symmetric(p) else 4 * columns(p) * d)


def label_bytes(p: Problem) -> int:
    """Bytes held while labeled points are covered."""
    count, d = p.labeled.shape
    return count * (8 * d + 16) + 4 * BLOCK * min(LABELS, count)


def workspace_bytes(p: Problem) -> int:
    return kept_bytes(p) + passing_bytes(p)


def plan(p: Problem) -> str:
    passes = "no GEMM pass" if p.kernel == "precomputed" else f"{0.5 if symmetric(p) else 1} GEMM passes"
    return f"dense, {len(p.features)} x {columns(p)} kernel in float32, {passes}"


def select(problems: Sequence[Problem], bar: Progress) -> list[Result]:
    tasks = [_precomputed(p) if p.kernel == "precomputed" else _from_features(p) for p in problems]
    greedy.run(tasks, False, -1.0, bar)
    results = []
    for p, task in zip(problems, tasks, strict=True):
        result = task.result(p)
        if p.candidates is not None and not symmetric(p):
            picks = p.candidates.to(result.indices.device)[result.indices]
            result = Result(picks, result.gains, result.coverage, result.contested_picks)
        results.append(result)
    return results


def _candidates(p: Problem) -> tuple[dict, torch.Tensor | None]:
    """What the task is told of the candidates, and the tensor that holds it."""
    if p.candidates is None:
        return {}, None
    device = p.features.device
    if symmetric(p):
        allowed = torch.zeros(len(p.features), dtype=torch.uint8, device=device)
        allowed[p.candidates.to(device)] = 1
        return {"allowed": allowed.data_ptr()}, allowed
    index = p.candidates.to(device)
    return {"candidates": index.data_ptr()}, index


def _from_features(p: Problem) -> greedy.Task:
    n, width, square = len(p.features), columns(p), symmetric(p)
    panels = Panels(p)
    native = panels.native()
    gram = torch.empty(n, greedy.pad(width), dtype=torch.float32, device=p.features.device)
    told, index = _candidates(p)
    fields = {**native, **told, "symmetric": square, "gram": gram.data_ptr(), "gram_stride": gram.stride(0)}
    task = greedy.Task(p, fields, n, width, p.budget, (gram, index, panels.features, panels.scale, panels.norms))
    cover_labeled(task, p, panels)
    chosen = None if square else panels.matrix[index]
    where = queue(p.features.device)
    with full_precision():
        for b in range(0, n, BLOCK):
            e = min(b + BLOCK, n)
            if square:
                panels.multiply(panels.matrix[b:e], panels.matrix[:e], gram[b:e, :e])
            else:
                panels.multiply(panels.matrix[b:e], chosen, gram[b:e, :width])
            load("_cuda").coverage_fill(
                where,
                gram.data_ptr(),
                gram.stride(0),
                (b, e, 0, e if square else width),
                0 if square else index.data_ptr(),
                symmetric=square,
                **native,
            )
    return task


def cover_labeled(task: greedy.Task, p: Problem, panels: Panels) -> None:
    """The coverage that the labeled points give."""
    if p.labeled is None:
        return
    n = len(p.features)
    for labeled in p.labeled.split(LABELS):
        rows = labeled.to(panels.features.dtype).contiguous()
        matrix, scale, norms = panels.others(rows)
        products = torch.empty(min(BLOCK, n), len(rows), dtype=torch.float32, device=rows.device)
        with full_precision():
            for b in range(0, n, BLOCK):
                e = min(b + BLOCK, n)
                panels.multiply(panels.matrix[b:e], matrix, products[: e - b])
                load("_cuda").coverage_cover(
                    queue(rows.device),
                    products.data_ptr(),
                    products.stride(0),
                    b,
                    e,
                    len(rows),
                    rows.data_ptr(),
                    scale.data_ptr(),
                    0 if norms is None else norms.data_ptr(),
                    task.exact.data_ptr(),
                    task.rounded.data_ptr(),
                    **panels.native(),
                )


def _precomputed(p: Problem) -> greedy.Task:
    """The kernel itself is the matrix, copied once."""
    n, width, device = len(p.features), columns(p), p.features.device
    exact = (p.features if p.features.dtype == torch.float64 else p.features.float()).contiguous()
    told, index = _candidates(p)
    gram = torch.empty(n, greedy.pad(width), dtype=torch.float32, device=device)
    gram[:, :width] = exact if index is None else exact[:, index]
    scale = torch.zeros(n, dtype=torch.float32, device=device)
    fields = {
        "features": exact.data_ptr(),
        "feature_stride": exact.stride(0),
        "dimension": 0,
        "bandwidth": 1.0,
        "type": FLOAT_CODES[exact.dtype],
        "kind": KERNELS.index("precomputed"),
        "product": 1.0,
        "scale": scale.data_ptr(),
        "lambda_": 0.0,
        "relative": 4 * UNIT if exact.dtype == torch.float64 else 0.0,
        "absolute": 0.0,
        "tolerance": TOLERANCE,
        "symmetric": False,
        "gram": gram.data_ptr(),
        "gram_stride": gram.stride(0),
        **told,
    }
    task = greedy.Task(p, fields, n, width, p.budget, (exact, gram, index, scale))
    task.cover_with(initial_coverage(p))
    return task
