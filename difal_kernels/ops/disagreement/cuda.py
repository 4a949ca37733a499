"""The fused pass on an NVIDIA GPU (csrc/cuda/disagreement.cu): one read of the input, any strides, all scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ..._native import load
from .. import _gpu
from .cpu import MAX_POSITION_DIMS, _describe, _merged_positions
from .problem import GPU_SCORES, INPUTS, Problem, beyond_gpu

unavailable = _gpu.unavailable
NO_POSITION = -1  # all bits set: the largest unsigned number


def supports(problem: Problem) -> str | None:
    reason = unavailable() or _gpu.wrong_device(problem.device) or beyond_gpu(problem)
    if reason is not None:
        return reason
    if len(_merged_positions(problem)[0]) > MAX_POSITION_DIMS:
        return f"it takes at most {MAX_POSITION_DIMS} position dimensions that cannot be merged; reshape the input"
    K, C = problem.samples.shape[-2:]
    if not load("_cuda").disagreement_fits(K, C, "variation_ratio" in problem.scores):
        return f"K={K} samples of C={C} classes do not fit in shared memory"
    return None


def plan(problem: Problem) -> str:
    sizes = _merged_positions(problem)[0]
    K, C = problem.samples.shape[-2:]
    return f"one pass over K={K}, C={C}, positions {sizes}"


def run(problem: Problem) -> tuple[dict[str, torch.Tensor], int]:
    """The scores, each of shape (*positions), and the first invalid position or -1."""
    device, samples, single = problem.device, problem.samples, problem.single
    scores = {name: torch.empty(problem.position_shape, dtype=torch.float32, device=device) for name in problem.scores}
    if math.prod(problem.position_shape) == 0:
        return scores, -1
    if single is not None and single.dtype != samples.dtype:  # both to a type that holds either exactly
        wide = torch.promote_types(single.dtype, samples.dtype)
        return _launch(problem, samples.to(wide), single.to(wide), scores)
    return _launch(problem, samples, single, scores)


def _launch(problem: Problem, samples: torch.Tensor, single: torch.Tensor | None, scores: dict[str, torch.Tensor]):
    sums = (problem.samples.dtype, None if single is None else problem.single.dtype)
    problem = replace(problem, samples=samples, single=single)
    sizes, sample_strides, single_strides = _merged_positions(problem)
    K, C = samples.shape[-2:]
    first_bad = torch.full((), NO_POSITION, dtype=torch.int64, device=problem.device)
    with _gpu.on(problem.device):
        load("_cuda").disagreement(
            _gpu.queue(problem.device),
            _describe(samples, samples.stride(-2), sample_strides, sums[0]),
            (0, 0, 0, 0, (), 0.0) if single is None else _describe(single, 0, single_strides, sums[1]),
            INPUTS.index(problem.input),
            problem.check_finite,
            problem.weight,
            K,
            C,
            sizes,
            tuple(scores[name].data_ptr() if name in scores else 0 for name in GPU_SCORES),
            _log_rounded_down(C),
            _log_rounded_down(min(C, K)),
            first_bad.data_ptr(),
        )
    return scores, int(first_bad)


def _log_rounded_down(n: int) -> float:
    """The largest float32 that is no more than ln(n)."""
    rounded = np.float32(math.log(n))
    return float(np.nextafter(rounded, np.float32(0)) if float(rounded) > math.log(n) else rounded)
