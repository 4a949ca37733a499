"""What the CUDA and the Triton backend share: torch on the device, and neither's kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from difal_kernels._progress import Progress
from difal_kernels.ops import _gpu

from ...bounds import ROUNDINGS, Roundings
from ...plan import PlannedBackend
from ...primitives import DenseGreedy, DenseMemory, Guessing, Solve, TiledGreedy
from ...problem import Batch, Problem, in_one_dtype
from ...result import Result

# Every sweep goes over all pairs, and a wrong guess makes those after it wrong: so guesses grow with what is proven.
GUESSING = Guessing(
    max_guesses=256,
    first_guesses=4,
    sample_rows=1024,
    first_rows=8192,
    next_tried=0,
    tried=256,
    most_tried=256,
    points_a_row=512,
    largest_error=math.inf,
    growth=8,
    most_corrected=1,
)


@dataclass(frozen=True, kw_only=True)
class GpuTuning:
    """Sizes and thresholds. No value changes a pick.

    Attributes:
        tile_points: rows and columns of a tile, without the matrix.
        rows_at_once: points that are covered at a time.
        labels_at_once: labeled rows that cover them at a time.
        row_multiple: rows of the matrix are a multiple of so many numbers apart.
        max_entries: alive entries that are worth gathering: a sweep is cheaper than lists that are longer.
        list_room: entries of a list beyond those counted.
        guessed_at_once: kernel rows that are made at a time for guessing.
        corrected_numbers: kernel values that are made at a time for a correction, in whole rows.
        max_tensor_core_err: largest relative error of a kernel value that a tensor core's sums may cause.
        roundings: what the bounds are made from.
    """

    tile_points: int = 8192
    rows_at_once: int = 4096
    labels_at_once: int = 8192
    row_multiple: int = 32
    max_entries: int = 3 << 30
    list_room: int = 32
    guessed_at_once: int = 128
    corrected_numbers: int = 1 << 28
    max_tensor_core_err: float = 2.0**-11
    roundings: Roundings = ROUNDINGS

    def corrected_at_once(self, points: int) -> int:
        """Rows of the kernel among so many points that are made at a time for a correction."""
        return max(1, min(self.rows_at_once, points, self.corrected_numbers // points))


class GpuBackend(PlannedBackend):
    """What is the same of `primitives.Device` for both."""

    tuning: GpuTuning
    path: str | None = None
    memory_name = "what is free on the device"
    max_problems = 1 << 14  # of one launch: a grid has at most 65,535 blocks in its second and third dimension

    def default_memory_limit(self, device: torch.device) -> int:
        return _gpu.free_memory(device) * 9 // 10

    def at_a_time(self) -> int:
        return self.max_problems

    def entry_bits(self, p: Problem) -> int:
        return 32

    def supports_rows(self, batch: Batch) -> str | None:
        """Why it cannot cover some of the points alone, or None."""
        if any(p.rows is not None for p in batch.problems):
            return "`sample_rows` runs on the CPU; move the features with .cpu()"
        return None

    def plan(self, batch: Batch) -> str:
        return super().plan(in_one_dtype(batch))  # type: ignore[misc]  # the backends add the rest

    def run(self, batch: Batch) -> list[Result]:
        return super().run(in_one_dtype(batch))  # type: ignore[misc]

    def in_groups(self, problems: Sequence[Problem], solve: Solve, bar: Progress) -> list[Result]:
        return solve(self, problems, bar)  # type: ignore[arg-type]


__all__ = ["GUESSING", "DenseGreedy", "DenseMemory", "GpuBackend", "GpuTuning", "TiledGreedy"]
