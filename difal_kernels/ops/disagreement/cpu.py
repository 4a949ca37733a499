"""The fused C++ pass: one read of the input, any strides, all scores together (csrc/cpu/disagreement*)."""

from __future__ import annotations

import torch

from ..._native import load, num_threads
from .. import _cpu
from .._cpu import unavailable
from .problem import INPUTS, SCORES, SUM_TOLERANCE, Problem

__all__ = ["plan", "run", "supports", "unavailable"]

SCALARS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MAX_POSITION_DIMS = 16


def supports(problem: Problem) -> str | None:
    reason = _cpu.supports(problem)
    if reason is None and len(_merged_positions(problem)[0]) > MAX_POSITION_DIMS:
        return f"it takes at most {MAX_POSITION_DIMS} position dimensions that cannot be merged; reshape the input"
    return reason


def plan(problem: Problem) -> str:
    sizes = _merged_positions(problem)[0]
    K, C = problem.samples.shape[-2:]
    return f"one pass over K={K}, C={C}, positions {sizes}, with the {load('_cpu').isa()} instruction set"


def run(problem: Problem) -> tuple[dict[str, torch.Tensor], int]:
    """The scores, each of shape (*positions), and the first invalid position or -1."""
    scores = {name: torch.empty(problem.position_shape, dtype=torch.float32) for name in problem.scores}
    sizes, sample_strides, single_strides = _merged_positions(problem)
    K, C = problem.samples.shape[-2:]
    first_bad = load("_cpu").disagreement(
        _describe(problem.samples, problem.samples.stride(-2), sample_strides),
        (0, 0, 0, 0, (), 0.0) if problem.single is None else _describe(problem.single, 0, single_strides),
        INPUTS.index(problem.input),
        problem.check_finite,
        problem.weight,
        K,
        C,
        sizes,
        tuple(scores[name].data_ptr() if name in scores else 0 for name in SCORES),
        num_threads(),
    )
    return scores, first_bad


def _describe(
    array: torch.Tensor, sample_stride: int, position_strides: tuple[int, ...], given: torch.dtype | None = None
) -> tuple:
    """What the native modules read an array by; `given` is the user's dtype where that is another."""
    scalar = SCALARS.index(array.dtype)
    return (
        array.data_ptr(),
        scalar,
        sample_stride,
        array.stride(-1),
        position_strides,
        SUM_TOLERANCE[given or array.dtype],
    )


def _merged_positions(problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Sizes and strides of the position dimensions, merged where both arrays step through two as one."""
    first = problem.samples.stride()[:-2]
    second = first if problem.single is None else problem.single.stride()[:-1]
    merged: list[list[int]] = []
    for size, *strides in zip(problem.position_shape, first, second, strict=True):
        if size == 1:
            continue
        if merged and all(old == size * new for old, new in zip(merged[-1][1:], strides, strict=True)):
            merged[-1] = [merged[-1][0] * size, *strides]
        else:
            merged.append([size, *strides])
    sizes, sample_strides, single_strides = zip(*merged, strict=True) if merged else ((), (), ())
    return tuple(sizes), tuple(sample_strides), tuple(single_strides)
