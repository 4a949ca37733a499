"""Hypercolumns on an NVIDIA GPU: csrc/cuda/hypercolumns.cu."""

from __future__ import annotations

import torch

from difal_kernels import _native
from difal_kernels.ops import _gpu, _maps

unavailable = _gpu.unavailable


def supports(problem) -> str | None:
    reason = unavailable() or _gpu.wrong_device(problem.device)
    if reason is not None:
        return reason
    most = _native.load("_cuda").MAX_MAPS
    if len(problem.maps) > most:
        return f"it takes at most {most} maps, got {len(problem.maps)}; gather them in two calls"
    return None


def plan(problem) -> str:
    width = torch.finfo(problem.out_dtype).bits // 8
    return f"   answer {len(problem.points) * problem.channels * width:,} bytes, a block per point, no map copied"


def run(problem) -> torch.Tensor:
    device = problem.device
    out = torch.empty(len(problem.points), problem.channels, dtype=problem.out_dtype, device=device)
    norms = torch.empty(len(problem.points), dtype=torch.float64, device=device)
    with _gpu.on(device):
        _native.load("_cuda").hypercolumns(
            _gpu.queue(device),
            [_maps.native_map(m) for m in problem.maps],
            *problem.size,
            problem.points.data_ptr(),
            problem.image.data_ptr(),
            len(problem.points),
            problem.normalize,
            _maps.FLOAT_CODES[problem.out_dtype],
            out.data_ptr(),
            norms.data_ptr(),
        )
    finite = torch.isfinite(norms)
    if not bool(finite.all()):
        raise _maps.not_finite(problem.maps, problem.image[~finite].unique().tolist())
    return out
