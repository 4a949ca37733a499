"""Hypercolumns by indexing, in float64 torch: short and obvious, on any device."""

from __future__ import annotations

import torch

from difal_kernels.ops import _maps


def unavailable() -> str | None:
    return None


def supports(problem) -> str | None:
    return None


def taps(position: torch.Tensor, size_in: int, size_out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two source cells of output coordinates and the weight of the second (align_corners=False)."""
    source = ((position.double() + 0.5) * size_in / size_out - 0.5).clamp(0, size_in - 1)
    low = source.long()
    weight = source - low
    return low, torch.where(weight > 0, low + 1, low), weight[:, None]


def run(problem) -> torch.Tensor:
    rows, columns = problem.points.unbind(1)
    parts = []
    for view in problem.maps:
        top, bottom, down = taps(rows, view.shape[2], problem.size[0])
        left, right, across = taps(columns, view.shape[3], problem.size[1])

        def at(y, x, view=view):
            return view[problem.image, :, y, x].double()

        above = (1 - across) * at(top, left) + across * at(top, right)
        below = (1 - across) * at(bottom, left) + across * at(bottom, right)
        parts.append((1 - down) * above + down * below)
    vectors = torch.cat(parts, dim=1)
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if not bool(torch.isfinite(norms).all()):
        raise _maps.not_finite(problem.maps, problem.image.unique().tolist())
    if problem.normalize:
        vectors = vectors / torch.where(norms > 0, norms, 1)
    return vectors.to(problem.out_dtype)
