"""Hypercolumns in Triton, for a GPU without nvcc: a block per point and map, then one pass that normalises."""

from __future__ import annotations

import torch

from difal_kernels.ops import _maps, _triton

unavailable = _triton.unavailable
BLOCK = 256  # channels a block takes at a time
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def supports(problem) -> str | None:
    return unavailable() or _triton.wrong_device(problem.device)


def plan(problem) -> str:
    count, channels = len(problem.points), problem.channels
    width = torch.finfo(problem.out_dtype).bits // 8
    work = 0 if problem.out_dtype == work_dtype(problem) else count * channels * work_dtype(problem).itemsize
    return f"   answer {count * channels * width:,} bytes, workspace {work:,} bytes, a block per point, no map copied"


def work_dtype(problem) -> torch.dtype:
    """What values are rounded to before they are normalised."""
    wide = any(dtype == torch.float64 for dtype in (problem.out_dtype, *(m.dtype for m in problem.maps)))
    return torch.float64 if wide else torch.float32


def run(problem) -> torch.Tensor:
    from .triton_gather import gather, normalise

    count, channels, device = len(problem.points), problem.channels, problem.device
    out = torch.empty(count, channels, dtype=problem.out_dtype, device=device)
    if count == 0:
        return out
    kind = work_dtype(problem)
    work = out if out.dtype == kind else torch.empty(count, channels, dtype=kind, device=device)
    squares = torch.zeros(count, dtype=torch.float64, device=device)
    with _triton.on(device):
        first = 0
        for view in problem.maps:
            gather[(count,)](
                *(view, problem.points, problem.image, work, squares, first, channels),
                *(*view.shape[1:], *view.stride(), *problem.size),
                BLOCK=BLOCK,
                **OPTIONS,
            )
            first += view.shape[1]
        if problem.normalize or work is not out:
            normalise[(count,)](work, squares, out, channels, NORMALIZE=problem.normalize, BLOCK=BLOCK, **OPTIONS)
    finite = torch.isfinite(squares)
    if not bool(finite.all()):
        raise _maps.not_finite(problem.maps, problem.image[~finite].unique().tolist())
    return out
