"""Tiles of the kernel on the GPU: a GEMM writes one, csrc/cuda/sweep.cu reads it. The alive are counted in a sweep and
gathered in a second one, so that lists are as long as they need to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from difal_kernels._native import load
from difal_kernels._precision import full_precision
from difal_kernels.ops._gpu import queue

from ...bounds import column_entry_error
from ...primitives import Guessing
from ...problem import Problem
from ..gpu import GpuTuning
from ..gpu.operands import label_bytes, operand_bytes
from ..gpu.tiled import BYTES_PER_ENTRY, Events, GpuTiledGreedy, Level, Lists, PointSet
from . import greedy
from .operands import CudaCoverage, CudaOperands


def fixed_bytes(p: Problem, guessing: Guessing, tuning: GpuTuning) -> int:
    """All but the lists."""
    n = len(p.features)
    tile = 4 * min(tuning.tile_points, n) ** 2
    per_guess = (12 + 16 + 20) * n  # coverage, sums, events
    rows = 3 * tuning.guessed_at_once + guessing.settled_together + 4 * min(tuning.rows_at_once, n)
    watched = 16 * guessing.watched_points**2
    return operand_bytes(p) + label_bytes(p, tuning) + tile + guessing.max_guesses * per_guess + 4 * rows * n + watched


def workspace_bytes(p: Problem, guessing: Guessing, tuning: GpuTuning) -> int:
    """The least that the path can work with: linear in N."""
    n = len(p.features)
    least = (128 + tuning.list_room) * BYTES_PER_ENTRY * n
    return fixed_bytes(p, guessing, tuning) + greedy.workspace_bytes(n, n) + least


class CudaTiledGreedy(CudaCoverage, GpuTiledGreedy):
    operands: CudaOperands

    def __init__(self, p: Problem, guessing: Guessing, tuning: GpuTuning, limit: int, horizon: int):
        n = len(p.features)
        spare = limit - fixed_bytes(p, guessing, tuning) - greedy.workspace_bytes(n, n)
        operands = CudaOperands(p, tuning)
        GpuTiledGreedy.__init__(self, p, operands, guessing, spare - tuning.list_room * BYTES_PER_ENTRY * n, horizon)
        self.entry_error = column_entry_error(operands.error, p.kernel, operands.sq_norms, 0, tuning.roundings)

    def column(
        self, points: PointSet, j: int, products: torch.Tensor, level: Level, new: Level | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = len(level.exact)
        segments = -(-rows // load("_cuda").SEGMENT)
        gain, bound = self.make(torch.float64, segments), self.make(torch.float64, segments)
        tensors = {
            "products": products,
            "weights": points.weights,
            "exact": level.exact,
            "rounded": level.rounded,
            "gain": gain,
            "bound": bound,
        }
        if new is not None:
            tensors |= {"new_exact": new.exact, "new_rounded": new.rounded}
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        told = self.operands.native(points.features, points.sq_norms, points.norms)
        load("_cuda").coverage_column(queue(self.device), rows, j, **{**told, **addresses})
        return gain, bound

    def tiles(self) -> Iterator[tuple[int, int, tuple[int, int, int, int]]]:
        """Make each tile of the half matrix in turn, as kernel values; where it lies for the native code."""
        n, operands = self.n, self.operands
        step = min(operands.tuning.tile_points, n)
        space = self.make(torch.float32, step * step)
        for b in range(0, n, step):
            e = min(b + step, n)
            for b2 in range(0, b + 1, step):
                e2 = min(b2 + step, n)
                tile = space[: (e - b) * (e2 - b2)].view(e - b, e2 - b2)
                with full_precision(gpu=True):
                    operands.multiply(operands.matrix[b:e], operands.matrix[b2:e2], tile)
                stride, at = e2 - b2, tile.data_ptr()
                origin = (at - 4 * (b * stride + b2)) % (1 << 64)  # where entry (0, 0) would be
                operands.fill(origin, stride, (b, e, b2, e2), None, b == b2)
                yield at, stride, (b, e, b2, e2)

    def sums(self, events: Events, taken: torch.Tensor, alive: torch.Tensor) -> dict[str, Any]:
        """The arguments of csrc's Sums."""
        return {
            **self.operands.native(),
            "event_begin": events.begin.data_ptr(),
            "event_step": events.step.data_ptr(),
            "event_low": events.low.data_ptr(),
            "event_high": events.high.data_ptr(),
            "weights": events.weights.data_ptr(),
            "taken": taken.data_ptr(),
            "alive": alive.data_ptr(),
            "points": self.n,
            "steps": len(taken),
            "magic": self.magic,
        }

    def make_tiles(self, events: Events) -> None:
        fields = self.sums(events, self.taken, self.alive)
        allowed = self.allowed.to(torch.uint8)
        for tile in self.tiles():
            load("_cuda").coverage_take(queue(self.device), tile, **fields)
            if self.counts is not None:
                self.gather_tile(tile, self.levels[-1].rounded, allowed, {"list_length": self.counts.data_ptr()})

    def gather_tile(self, tile: tuple, floor: torch.Tensor, allowed: torch.Tensor, lists: dict[str, int]) -> None:
        fields = {"floor": floor.data_ptr(), "allowed": allowed.data_ptr(), **lists}
        load("_cuda").coverage_gather(queue(self.device), tile, **self.operands.native(), **fields)

    def fill_lists(self, floor: torch.Tensor, allowed: torch.Tensor, lists: Lists) -> None:
        for tile in self.tiles():
            self.gather_tile(tile, floor, allowed, lists.addresses())

    def kernel_columns(self, points: torch.Tensor) -> torch.Tensor:
        out = self.make(torch.float32, self.n, len(points))
        with full_precision(gpu=True):
            self.operands.multiply(self.operands.matrix, self.operands.matrix[points], out)
        self.operands.fill(out.data_ptr(), out.stride(0), (0, self.n, 0, len(points)), points, False)
        return out

    def take(self, kernel: torch.Tensor, events: Events, taken: torch.Tensor, alive: torch.Tensor) -> None:
        tile = kernel.data_ptr(), kernel.stride(0), (0, len(kernel), 0, self.n)
        load("_cuda").coverage_take(queue(self.device), tile, **self.sums(events, taken, alive))

    def greedy_on(self, lists: Lists, level: Level, open_: torch.Tensor, budget: int) -> greedy.CudaGreedy:
        task = greedy.Task(self.p, self.n, budget, level.exact)
        allowed = open_.to(torch.uint8)
        task.keep = lists, allowed, self.operands
        task.native = {**self.operands.native(), **lists.addresses(), "allowed": allowed.data_ptr(), "symmetric": True}
        return greedy.CudaGreedy([task], sparse=True)
