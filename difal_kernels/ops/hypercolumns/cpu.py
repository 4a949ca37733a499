"""Hypercolumns in C++: csrc/cpu/hypercolumns.cpp."""

from __future__ import annotations

import torch

from difal_kernels import _native
from difal_kernels._memory import large_empty
from difal_kernels.ops import _maps
from difal_kernels.ops._cpu import supports, unavailable

__all__ = ["gather", "plan", "run", "supports", "unavailable"]


def plan(problem) -> str:
    width = torch.finfo(problem.out_dtype).bits // 8
    count, channels = len(problem.points), problem.channels
    work = min(count, 128) * channels * max(4, width) * _native.num_threads()
    return f"   answer {count * channels * width:,} bytes, workspace {work:,} bytes, no map copied or resized"


def run(problem) -> torch.Tensor:
    out, norms = gather(problem.maps, problem.points, problem.image, problem.size, problem.normalize, problem.out_dtype)
    finite = torch.isfinite(norms)
    if not bool(finite.all()):
        raise _maps.not_finite(problem.maps, problem.image[~finite].unique().tolist())
    return out


def gather(maps, points, image, size, normalize, out_dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The hypercolumns (P, D), and the squared norms (P,) that they had before they were normalised."""
    channels = sum(m.shape[1] for m in maps)
    out = large_empty(len(points) * channels, out_dtype).view(len(points), channels)
    norms = torch.empty(len(points), dtype=torch.float64)
    _native.load("_cpu").hypercolumns(
        [_maps.native_map(m) for m in maps],
        *size,
        points.data_ptr(),
        image.data_ptr(),
        len(points),
        normalize,
        _maps.FLOAT_CODES[out_dtype],
        out.data_ptr(),
        norms.data_ptr(),
        _native.num_threads(),
    )
    return out, norms
