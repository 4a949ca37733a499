"""GEMMs by torch at the maps' own resolution; the rest in csrc/cpu/projection.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from difal_kernels import _native
from difal_kernels.ops import _maps
from difal_kernels.ops._cpu import supports, unavailable
from difal_kernels.ops.hypercolumns import cpu as hypercolumns
from difal_kernels.ops.projection._assemble import assemble
from difal_kernels.ops.projection.reference import PIXELS, linear

__all__ = ["run", "supports", "unavailable"]

COPIED_NUMBERS = 1 << 18  # of a map that GEMM cannot read as it stands, converted at a time
GRAM_MAPS = 5
NARROW_OUTPUTS = 16  # up to so many, GEMM is several times faster with a plane-by-plane map as its right operand


@dataclass(frozen=True)
class Split:
    """The maps by how they meet the image: fewer cells than it, its very size, or more cells."""

    coarse: list[int]
    same: list[int]
    finer: list[int]

    def by_size(self, maps: Sequence[torch.Tensor]) -> dict[tuple[int, int], list[int]]:
        """The coarse maps by (h, w). Those of one size are projected into one sum, which is resized once."""
        found: dict[tuple[int, int], list[int]] = {}
        for i in self.coarse:
            found.setdefault((maps[i].shape[2], maps[i].shape[3]), []).append(i)
        return found


def split(problem) -> Split:
    sizes = [tuple(m.shape[2:]) for m in problem.maps]
    pixels = problem.size[0] * problem.size[1]
    same = [i for i, size in enumerate(sizes) if size == problem.size]
    coarse = [i for i, (h, w) in enumerate(sizes) if h * w < pixels]
    return Split(coarse, same, [i for i in range(len(sizes)) if i not in coarse and i not in same])


def plan(problem) -> str:
    parts, (height, width) = split(problem), problem.size
    size = problem.weight.element_size()
    sizes = parts.by_size(problem.maps)
    cells = sum(h * w for h, w in sizes)
    finer = sum(problem.maps[i].shape[1] for i in parts.finer)
    outputs, channels = problem.weight.shape
    gram = 8 * (GRAM_MAPS if problem.normalize else 1)
    second = max((h * w for (h, w), alike in sizes.items() if len(alike) > 1), default=0)  # until it is added
    chunk = problem.rows_per_chunk * width * (outputs + finer) * size
    kept = cells * (outputs * size + gram) + second * gram + 8 * height * width
    return (
        f"   per image: {kept:,} bytes of projected maps and norms, chunks of {problem.rows_per_chunk} rows with "
        f"{chunk:,} bytes; dense features would take {height * width * channels * size:,} bytes"
    )


def run(problem) -> torch.Tensor:
    return assemble(problem, filler)


def filler(problem, image: int):
    native, threads = _native.load("_cpu"), _native.num_threads()
    height, width = problem.size
    outputs = len(problem.weight)
    parts = split(problem)
    weights = problem.weight.split([m.shape[1] for m in problem.maps], dim=1)

    def gram_maps(index: int, self_only: bool) -> torch.Tensor:
        view = problem.maps[index]
        gram = torch.empty(1 if self_only else GRAM_MAPS, *view.shape[2:], dtype=torch.float64)
        native.gram_maps(_maps.native_map(view), image, self_only, gram.data_ptr(), threads)
        if not bool(torch.isfinite(gram[0]).all()):
            raise _maps.not_finite(problem.maps, [image])
        return gram

    norms = torch.zeros(height, width, dtype=torch.float64)
    for i in parts.same:
        norms += gram_maps(i, self_only=True)[0]
    projected = []
    for (map_height, map_width), alike in parts.by_size(problem.maps).items():
        values = problem.weight.new_empty(map_height * map_width, outputs)
        gram = gram_maps(alike[0], self_only=not problem.normalize)
        for step, i in enumerate(alike):
            if step > 0:
                gram += gram_maps(i, self_only=not problem.normalize)
            multiply(problem.maps[i][image], weights[i], values, add=step > 0)
        projected.append((values, gram, map_height, map_width))
    finer_weight = torch.cat([weights[i] for i in parts.finer], dim=1).T if parts.finer else None

    def fill(begin: int, end: int, out: torch.Tensor) -> None:
        for step, i in enumerate(parts.same):
            multiply(problem.maps[i][image, :, begin:end], weights[i], out, add=step > 0)
        if parts.finer:
            points, index = grid(begin, end, width, image)
            vectors, squares = hypercolumns.gather(
                [problem.maps[i] for i in parts.finer], points, index, problem.size, False, problem.dtype
            )
            if not bool(torch.isfinite(squares).all()):
                raise _maps.not_finite(problem.maps, [image])
            norms[begin:end] += squares.view(-1, width)
            torch.addmm(out, vectors, finer_weight, beta=1 if parts.same else 0, out=out)
        if not parts.same and not parts.finer:
            out.zero_()
        native.resize_projected(
            [(values.data_ptr(), gram.data_ptr(), h, w) for values, gram, h, w in projected],
            height,
            width,
            begin,
            end,
            outputs,
            problem.dtype == torch.float64,
            problem.normalize,
            0 if problem.bias is None else problem.bias.data_ptr(),
            out.data_ptr(),
            norms[begin:end].data_ptr(),
            threads,
        )
        cancelled = (norms[begin:end].flatten() < 0).nonzero().flatten()
        for some in cancelled.split(PIXELS):
            out[some] = linear(problem, image, some + begin * width, hypercolumns).to(out.dtype)

    return fill


def multiply(cells: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, *, add: bool) -> None:
    """out (h*w, O) = or += the cells (C, h, w) times weight (O, C) transposed."""
    channels, height, width = cells.shape
    vectors = cells.permute(1, 2, 0).is_contiguous()
    readable = cells.dtype == weight.dtype and (cells.is_contiguous() or vectors or strided_matrix(cells))
    rows = height if readable else max(1, COPIED_NUMBERS // (channels * width))
    for begin in range(0, height, rows):
        matrix = cells[:, begin : begin + rows].to(weight.dtype).flatten(1)
        target = out[begin * width : (begin + rows) * width]
        if len(weight) > NARROW_OUTPUTS or vectors:
            torch.addmm(target, matrix.T, weight.T, beta=int(add), out=target)
        elif add:
            target.add_((weight @ matrix).T)
        else:
            target.copy_((weight @ matrix).T)


def strided_matrix(cells: torch.Tensor) -> bool:
    """Whether (C, h*w) is a view that GEMM takes: rows of unit stride, evenly spaced."""
    return cells.stride(2) == 1 and cells.stride(1) == cells.shape[2] and cells.stride(0) >= cells[0].numel()


def grid(begin: int, end: int, width: int, image: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All pixels of some image rows as points, and their image index."""
    pixels = torch.arange(begin * width, end * width)
    return torch.stack([pixels // width, pixels % width], dim=1), torch.full_like(pixels, image)
