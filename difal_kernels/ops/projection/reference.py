"""The linear layer on dense hypercolumns, in float64 torch, a thousand pixels at a time."""

from __future__ import annotations

import torch

from difal_kernels.ops.hypercolumns import reference as hypercolumns
from difal_kernels.ops.projection._assemble import assemble

PIXELS = 1024


def unavailable() -> str | None:
    return None


def supports(problem) -> str | None:
    return None


def run(problem) -> torch.Tensor:
    return assemble(problem, filler)


def filler(problem, image: int):
    def fill(begin: int, end: int, out: torch.Tensor) -> None:
        width = problem.size[1]
        for start in range(begin * width, end * width, PIXELS):
            pixels = torch.arange(start, min(start + PIXELS, end * width), device=problem.device)
            rows = slice(start - begin * width, start - begin * width + len(pixels))
            out[rows] = linear(problem, image, pixels, hypercolumns)

    return fill


def linear(problem, image: int, pixels: torch.Tensor, implementation) -> torch.Tensor:
    """The layer at flat pixel positions of one image, from their float64 hypercolumns."""
    from difal_kernels.ops.hypercolumns import HypercolumnProblem

    width = problem.size[1]
    points = torch.stack([pixels // width, pixels % width], dim=1)
    vectors = implementation.run(
        HypercolumnProblem(
            problem.maps,
            points,
            torch.full_like(pixels, image),
            problem.size,
            problem.normalize,
            torch.float64,
        )
    )
    answer = vectors @ problem.weight.double().T
    return answer if problem.bias is None else answer + problem.bias.double()
