"""The fused pass in Triton, for a GPU without nvcc: one read of the input, any strides, all scores together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from .. import _triton
from .cpu import _merged_positions
from .problem import GPU_SCORES, INPUTS, SUM_TOLERANCE, Problem, beyond_gpu
from .reference import round_down

unavailable = _triton.unavailable
MAX_CLASSES = 4096  # a position's mean over the samples stays in registers
MAX_POSITION_DIMS = 8
NUMBERS = 1024  # logits of a tile; more where the classes are many, or a position is one thread's
MAX_OWN_CLASSES = 32  # up to here a position is one thread's
FEW_SAMPLES = 8  # up to here their mean is summed in float32, beyond without what that loses
FLAGS = ("ENTROPY", "BALD", "EXPECTED", "MARGIN", "LEAST", "VARIATION", "COMBINED")  # as GPU_SCORES
NO_POSITION = torch.iinfo(torch.int64).max


def supports(problem: Problem) -> str | None:
    reason = unavailable() or _triton.wrong_device(problem.device) or beyond_gpu(problem)
    if reason is not None:
        return reason
    if len(_merged_positions(problem)[0]) > MAX_POSITION_DIMS:
        return f"it takes at most {MAX_POSITION_DIMS} position dimensions that cannot be merged; reshape the input"
    classes = problem.samples.shape[-1]
    if classes > MAX_CLASSES:
        return f"it takes at most {MAX_CLASSES} classes, got {classes}"
    return None


def plan(problem: Problem) -> str:
    sizes = _merged_positions(problem)[0]
    K, C = problem.samples.shape[-2:]
    positions = shape_of_tile(C, side_by_side(problem), in_pairs(problem, *_merged_positions(problem)))["POSITIONS"]
    return f"one pass over K={K}, C={C}, positions {sizes}, {positions} of them a block"


def side_by_side(problem: Problem) -> bool:
    """Whether the classes of every prediction are next to each other in memory."""
    return all(x.stride(-1) == 1 for x in (problem.samples, problem.single) if x is not None)


def in_pairs(problem: Problem, sizes: Sequence[int], *strides: Sequence[int]) -> bool:
    """Whether a thread takes two positions: few logits of half precision, which lie so that both are read at once."""
    K, C = problem.samples.shape[-2:]
    dtypes = {x.dtype for x in (problem.samples, problem.single) if x is not None}
    half = dtypes in ({torch.float16}, {torch.bfloat16}) and problem.input != "probs"
    fits = C <= MAX_OWN_CLASSES and K <= FEW_SAMPLES and "variation_ratio" not in problem.scores  # in registers
    if not (half and fits and sizes and sizes[-1] % 2 == 0):
        return False
    for x, steps in zip((problem.samples, problem.single), strides, strict=True):
        if x is None:
            continue
        apart = (*steps[:-1], x.stride(-1), x.stride(-2) if x is problem.samples else 0)
        if steps[-1] != 1 or x.data_ptr() % 4 or any(step % 2 for step in apart):
            return False
    return True


def shape_of_tile(classes: int, side_by_side: bool, in_pairs: bool = False) -> dict[str, int]:
    """Constants of a launch."""
    width = 1 << (classes - 1).bit_length()
    if classes <= MAX_OWN_CLASSES:
        # A position is one thread's, so that nothing is exchanged; its classes are two tiles, where that is less. Where
        # classes lie side by side, the lines that a warp reads stay in the L1 cache until it has read all of them.
        first = width if classes > width // 4 * 3 or width < 4 else width // 2
        rest = 0 if first == width else 1 << (classes - first - 1).bit_length()
        positions = max(NUMBERS // width, 256 if in_pairs else 128)
        return {"FIRST": first, "REST": rest, "POSITIONS": positions, "CLASSES_LAST": 0, "PAIRS": int(in_pairs)}
    if side_by_side:  # a warp reads whole lines of one position, and no thread repeats what is done for others
        return {"FIRST": width, "REST": 0, "POSITIONS": 1, "CLASSES_LAST": 1, "PAIRS": 0}
    return {"FIRST": width, "REST": 0, "POSITIONS": max(NUMBERS // width, 8), "CLASSES_LAST": 0, "PAIRS": 0}


def options(tile: dict[str, int]) -> dict[str, int]:
    numbers = (tile["FIRST"] + tile["REST"]) * tile["POSITIONS"] >> tile["PAIRS"]
    warps = max(1, min(8, numbers // 512)) if tile["CLASSES_LAST"] else 4 if numbers <= 4 * NUMBERS else 8
    return {"num_warps": warps, "enable_fp_fusion": True}


def run(problem: Problem) -> tuple[dict[str, torch.Tensor], int]:
    """The scores, each of shape (*positions), and the first invalid position or -1."""
    from .triton_scores import score

    device, samples, single = problem.device, problem.samples, problem.single
    out = {
        name: torch.empty(problem.position_shape, dtype=torch.float32, device=device)
        for name in GPU_SCORES
        if name in problem.scores
    }
    count = math.prod(problem.position_shape)
    if count == 0:
        return out, -1
    tolerances = [SUM_TOLERANCE[x.dtype] for x in (samples, samples if single is None else single)]
    if single is not None and single.dtype != samples.dtype:  # both to a type that holds either exactly
        wide = torch.promote_types(single.dtype, samples.dtype)
        problem = replace(problem, samples=samples.to(wide), single=single.to(wide))
        samples, single = problem.samples, problem.single
    K, C = samples.shape[-2:]
    merged = _merged_positions(problem) if count > 1 else ((1,), (0,), (0,))
    positions = torch.tensor(merged, dtype=torch.int64).to(device)  # sizes, strides, strides of single
    tile = shape_of_tile(C, side_by_side(problem), in_pairs(problem, *merged))
    blocks = -(-count // tile["POSITIONS"])
    first_bad = torch.full((), NO_POSITION, dtype=torch.int64, device=device)
    bounds = torch.tensor(
        [*tolerances, problem.weight, round_down(math.log(C)), round_down(math.log(min(C, K))), 1 / K],
        dtype=torch.float64,
    ).to(device)
    spare = next(iter(out.values()))  # stands for the scores that are not wanted
    with _triton.on(device):
        score[(blocks,)](
            *(samples, samples if single is None else single, positions, bounds, first_bad),
            *(out.get(name, spare) for name in GPU_SCORES),
            *(count, K, C, samples.stride(-2), samples.stride(-1), 0 if single is None else single.stride(-1)),
            **{flag: name in out for flag, name in zip(FLAGS, GPU_SCORES, strict=True)},
            DIMS=positions.shape[1],
            INPUT=INPUTS.index(problem.input),
            SINGLE=single is not None,
            CHECK=problem.check_finite,
            MANY=K > FEW_SAMPLES,
            **options(tile),
            **tile,
        )
    position = int(first_bad)
    return out, -1 if position == NO_POSITION else position
