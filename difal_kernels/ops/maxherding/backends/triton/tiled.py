"""Tiles of the kernel in Triton, which never reach memory: the kernel that multiplies also adds up what rows take from
columns at each guessed step (`sweep`), and later keeps the entries that are alive (`gather`)."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...bounds import column_entry_error
from ...kernel_functions import KERNEL_FUNCTIONS
from ...primitives import Guessing
from ...problem import Problem
from ..gpu import GpuTuning
from ..gpu.operands import label_bytes, operand_bytes
from ..gpu.tiled import BYTES_PER_ENTRY, Events, GpuTiledGreedy, Level, Lists, PointSet
from .dense import PROGRAMS, SIDE, fill, launch_options, make_pairs, pair_bytes, strips
from .greedy import Engine, Task
from .greedy import workspace_bytes as engine_bytes
from .operands import GROUP, TritonCoverage, TritonOperands, packed_model, widened


def fixed_bytes(p: Problem, guessing: Guessing, tuning: GpuTuning) -> int:
    """All but the lists."""
    n, d = p.features.shape
    per_guess = (12 + 16 + 4 + 20) * n  # coverage, sums, levels, events
    rows = 3 * tuning.guessed_at_once + guessing.settled_together + 8 * min(tuning.rows_at_once, n)
    return (
        operand_bytes(p)
        + n * 64 * 8
        + 4 * n * d
        + label_bytes(p, tuning)
        + pair_bytes(n, n)
        + guessing.max_guesses * per_guess
        + 4 * rows * n
        + 16 * guessing.watched_points**2
    )


def workspace_bytes(p: Problem, guessing: Guessing, tuning: GpuTuning) -> int:
    """The least that the path can work with: linear in N."""
    n = len(p.features)
    return fixed_bytes(p, guessing, tuning) + engine_bytes(n, n) + (128 + tuning.list_room) * BYTES_PER_ENTRY * n


class TritonTiledGreedy(TritonCoverage, GpuTiledGreedy):
    operands: TritonOperands

    def __init__(self, p: Problem, guessing: Guessing, tuning: GpuTuning, limit: int, horizon: int):
        n = len(p.features)
        spare = limit - fixed_bytes(p, guessing, tuning) - engine_bytes(n, n)
        operands = TritonOperands(p, tuning)
        GpuTiledGreedy.__init__(self, p, operands, guessing, spare - tuning.list_room * BYTES_PER_ENTRY * n, horizon)
        # A tile's sums are float32, of weights that are rounded too.
        self.entry_error = column_entry_error(operands.error, p.kernel, operands.sq_norms, SIDE, tuning.roundings)
        # Weights in units of a power of two that is at least their sum: sums are multiples of 2^-51 of it.
        self.weight_unit = math.ldexp(1.0, math.frexp(self.total)[1]) if self.total > 0 else 1.0
        self.shares = (self.weights / self.weight_unit).float()
        self.share_magic = torch.tensor([3.0], dtype=torch.float64, device=self.device)
        self.pairs, self.pair_count = make_pairs(n, n, self.device)
        self.tiled = {"KIND": KERNEL_FUNCTIONS[p.kernel].code, "WIDEN": widened(), "SIDE": SIDE}

    def column(
        self, points: PointSet, j: int, products: torch.Tensor, level: Level, new: Level | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from . import column_kernels as kernels

        operands, rows = self.operands, len(level.exact)
        groups = -(-rows // GROUP)
        gain, bound = self.make(torch.float64, groups), self.make(torch.float64, groups)
        raised = level if new is None else new  # not written without
        kernels.column[(groups,)](
            products, *operands.where(points.features, points.norms).values(), operands.reals(), operands.model,
            points.sq_norms, points.weights, level.exact, level.rounded, raised.exact, raised.rounded, gain, bound,
            rows, j, EXACT=new is not None, num_warps=4, **operands.constants(),
        )  # fmt: skip
        return gain, bound

    def make_tiles(self, events: Events) -> None:
        from . import tile_kernels as kernels

        n, operands, steps = self.n, self.operands, len(self.taken)
        last = self.levels[-1].rounded
        levels = torch.stack(
            [*(level.rounded for level in self.levels[self.first :]), torch.full_like(last, torch.inf)]
        )
        counts = torch.zeros(n, dtype=torch.int32, device=self.device) if self.counts is None else self.counts
        sums = (levels, self.shares, self.taken, self.alive)
        where, reals = operands.where(), operands.reals()
        for b, e in strips(n, n):
            self.pair_count.zero_()
            kernels.sweep[(-(-(e - b) // SIDE), -(-e // SIDE))](
                operands.matrix, operands.units, b, n, operands.sq_norms, where["norms_at"], operands.model, *sums,
                steps, self.share_magic, last, self.allowed.to(torch.uint8), counts, self.pairs, self.pair_count,
                int(self.counts is not None), **self.tiled, **launch_options(),
            )  # fmt: skip
            kernels.sweep_pairs[(PROGRAMS,)](
                self.pairs, self.pair_count, *where.values(), reals, operands.model, *sums, n, steps,
                self.share_magic, SIDE=SIDE, num_warps=4, **operands.constants(),
            )  # fmt: skip
        self.taken *= self.weight_unit
        self.alive *= self.weight_unit

    def kernel_columns(self, points: torch.Tensor) -> torch.Tensor:
        out = self.make(torch.float32, self.n, len(points))
        fill(self.operands, points, out, False)
        return out

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

    def fill_lists(self, floor: torch.Tensor, allowed: torch.Tensor, lists: Lists) -> None:
        from . import tile_kernels as kernels

        operands, where = self.operands, self.operands.where()
        arrays = (lists.begin, lists.length, lists.point, lists.value)
        kernels.gather[(-(-self.n // SIDE),)](
            operands.matrix, operands.units, self.n, operands.sq_norms, where["norms_at"], operands.model, floor,
            allowed, *arrays, **self.tiled, **launch_options(),
        )  # fmt: skip
        if bool((lists.length <= lists.begin[1:] - lists.begin[:-1]).all()):
            kernels.repair_lists[(self.n,)](
                *arrays, *where.values(), operands.reals(), num_warps=4, **operands.constants()
            )

    def greedy_on(self, lists: Lists, level: Level, open_: torch.Tensor, budget: int) -> Any:
        # Entry (i, j) of list i need not be that of list j to the last bit, so the difference is charged as well.
        operands = self.operands
        model = packed_model(operands.error.doubled(), operands.product, self.device)
        arrays = {name: getattr(lists, name.removeprefix("list_")) for name in lists.addresses()}
        task = Task(
            self.p, self.n, torch.arange(self.n, device=self.device), open_, operands.features, operands.norms,
            operands.sq_norms, model, budget, level.exact, lists=arrays,
        )  # fmt: skip
        return Engine([task], None, True)
