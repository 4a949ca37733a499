"""Tiles of the kernel in Triton: what rows take from columns at each guessed step, and later what is alive."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...bounds import column_entry_error
from ...kernel_functions import KERNEL_FUNCTIONS
from ...primitives import Guessing
from ...problem import Problem
from ..gpu import GpuTuning
from ..gpu.operands import OPTIONS, GpuOperands, label_bytes, operand_bytes
from ..gpu.tiled import BYTES_PER_ENTRY, Events, GpuTiledGreedy, Level, Lists, PointSet, Tile
from .covered import TritonCoverage
from .greedy import GROUP, TILE, Engine, Task
from .greedy import workspace_bytes as engine_bytes


def fixed_bytes(p: Problem, guessing: Guessing, tuning: GpuTuning) -> int:
    """All but the lists."""
    n = len(p.features)
    per_guess = (12 + 16 + 4 + 20) * n  # coverage, sums, levels, events
    rows = 3 * tuning.guessed_at_once + guessing.settled_together + 8 * tuning.corrected_at_once(n)
    return (
        operand_bytes(p)
        + label_bytes(p, tuning)
        + 4 * min(tuning.tile_points, n) ** 2
        + guessing.max_guesses * per_guess
        + 4 * rows * n
        + 16 * guessing.watched_points**2
    )


def workspace_bytes(p: Problem, guessing: Guessing, tuning: GpuTuning) -> int:
    """The least that the path can work with: linear in N."""
    n = len(p.features)
    return fixed_bytes(p, guessing, tuning) + engine_bytes(n, n) + (128 + tuning.list_room) * BYTES_PER_ENTRY * n


class TritonTiledGreedy(TritonCoverage, GpuTiledGreedy):
    def __init__(self, p: Problem, guessing: Guessing, tuning: GpuTuning, limit: int, horizon: int):
        n = len(p.features)
        spare = limit - fixed_bytes(p, guessing, tuning) - engine_bytes(n, n)
        operands = GpuOperands(p, tuning)
        GpuTiledGreedy.__init__(self, p, operands, guessing, spare - tuning.list_room * BYTES_PER_ENTRY * n, horizon)
        # A tile's sums are float32, of weights that are rounded too.
        self.entry_error = column_entry_error(operands.error, p.kernel, operands.sq_norms, TILE, tuning.roundings)
        # Weights in units of a power of two that is at least their sum: sums are multiples of 2^-51 of it.
        self.weight_unit = math.ldexp(1.0, math.frexp(self.total)[1]) if self.total > 0 else 1.0
        self.shares = (self.weights / self.weight_unit).float()
        self.share_magic = torch.tensor([3.0], dtype=torch.float64, device=self.device)

    def column(
        self, points: PointSet, j: int, values: torch.Tensor, level: Level, new: Level | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from . import column_kernels as kernels

        operands, rows = self.operands, len(level.exact)
        groups = -(-rows // GROUP)
        gain, bound = self.make(torch.float64, groups), self.make(torch.float64, groups)
        raised = level if new is None else new  # not written without
        kernels.column[(groups,)](
            values, *operands.where(points.features, points.norms).values(), operands.reals, operands.model,
            points.sq_norms, points.weights, level.exact, level.rounded, raised.exact, raised.rounded, gain, bound,
            rows, j, EXACT=new is not None, num_warps=4, **operands.constants(),
        )  # fmt: skip
        return gain, bound

    def make_tiles(self, events: Events) -> None:
        last = self.levels[-1].rounded
        self.stacked = torch.stack(
            [*(level.rounded for level in self.levels[self.first :]), torch.full_like(last, torch.inf)]
        )
        super().make_tiles(events)
        self.taken *= self.weight_unit
        self.alive *= self.weight_unit

    def take_tile(self, tile: Tile, events: Events) -> None:
        from . import tile_kernels as kernels

        (b, e, b2, e2), operands = tile.place, self.operands
        kernels.take[(-(-(e - b) // TILE), -(-(e2 - b2) // TILE))](
            tile.values, tile.values.stride(0), b, e, b2, e2, operands.model, self.stacked, self.shares, self.taken,
            self.alive, self.n, len(self.taken), self.share_magic, int(not tile.on_diagonal), SIDE=TILE, num_warps=8,
            **OPTIONS,
        )  # fmt: skip

    def gather_tile(
        self, tile: Tile, floor: torch.Tensor, allowed: torch.Tensor, length: torch.Tensor, lists: Lists | None
    ) -> None:
        from . import tile_kernels as kernels

        b, e, b2, e2 = tile.place
        begin, point, value = self.operands.every, length, floor  # not read or written without lists
        if lists is not None:
            begin, point, value = lists.begin, lists.point, lists.value
        for turned in (False,) if tile.on_diagonal else (False, True):
            count = e2 - b2 if turned else e - b
            kernels.gather[(-(-count // TILE),)](
                tile.values, tile.values.stride(0), b, e, b2, e2, self.operands.sq_norms, self.operands.model, floor,
                allowed, begin, length, point, value, KIND=KERNEL_FUNCTIONS[self.p.kernel].code, TURNED=turned,
                WRITING=lists is not None, SIDE=TILE, num_warps=8, **OPTIONS,
            )  # fmt: skip

    def take(self, kernel: torch.Tensor, events: Events, taken: torch.Tensor, alive: torch.Tensor) -> None:
        error = self.operands.error
        stretch = 1 + 2 * error.tolerance + error.relative
        counts = events.begin[1:] - events.begin[:-1]
        row_of = torch.arange(len(kernel), device=self.device).repeat_interleave(counts)
        for step in events.step.unique().tolist():
            at = (events.step == step).nonzero()[:, 0]
            k, w = kernel[row_of[at]], events.weights[row_of[at], None]
            low, high = events.low[at, None], events.high[at, None]
            clipped = torch.minimum(torch.maximum(k, low), high).double()
            gain = ((clipped - low) * w + self.magic) - self.magic  # a multiple of the sums' unit
            taken[step] += gain.sum(0)
            reach = k * stretch + error.absolute
            alive[step] += (((reach > low) & (reach <= high)) * (w * 1.000001)).sum(0)

    def greedy_on(self, lists: Lists, level: Level, open_: torch.Tensor, budget: int) -> Any:
        operands = self.operands
        arrays = {name: getattr(lists, name.removeprefix("list_")) for name in lists.addresses()}
        task = Task(
            self.p, self.n, torch.arange(self.n, device=self.device), open_, operands.features, operands.norms,
            operands.sq_norms, operands.model, budget, level.exact, lists=arrays,
        )  # fmt: skip
        return Engine([task], None, True)
