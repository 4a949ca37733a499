"""Tiles of the kernel on the GPU, as csrc/cuda/sweep.cu reads them. The alive are counted in a sweep and gathered in a
second one, so that lists are as long as they need to be."""

from __future__ import annotations

from typing import Any

import torch

from difal_kernels._native import load
from difal_kernels.ops._gpu import queue

from ...bounds import column_entry_error
from ...primitives import Guessing
from ...problem import Problem
from ..gpu import GpuTuning
from ..gpu.operands import label_bytes, operand_bytes
from ..gpu.tiled import BYTES_PER_ENTRY, Events, GpuTiledGreedy, Level, Lists, PointSet, Tile
from . import greedy
from .operands import CudaCoverage, CudaOperands


def fixed_bytes(p: Problem, guessing: Guessing, tuning: GpuTuning) -> int:
    """All but the lists."""
    n = len(p.features)
    tile = 4 * min(tuning.tile_points, n) ** 2
    per_guess = (12 + 16 + 20) * n  # coverage, sums, events
    rows = 3 * tuning.guessed_at_once + guessing.settled_together + 4 * tuning.corrected_at_once(n)
    watched = 16 * guessing.watched_points**2
    return operand_bytes(p) + label_bytes(p, tuning) + tile + guessing.max_guesses * per_guess + 4 * rows * n + watched


def workspace_bytes(p: Problem, guessing: Guessing, tuning: GpuTuning) -> int:
    """The least that the path can work with: linear in N."""
    n = len(p.features)
    least = (128 + tuning.list_room) * BYTES_PER_ENTRY * n
    return fixed_bytes(p, guessing, tuning) + greedy.workspace_bytes(n, n) + least


def at(tile: Tile) -> tuple[int, int, tuple[int, int, int, int]]:
    """A tile as the native code is told of it."""
    return tile.values.data_ptr(), tile.values.stride(0), tile.place


class CudaTiledGreedy(CudaCoverage, GpuTiledGreedy):
    operands: CudaOperands

    def __init__(self, p: Problem, guessing: Guessing, tuning: GpuTuning, limit: int, horizon: int):
        n = len(p.features)
        spare = limit - fixed_bytes(p, guessing, tuning) - greedy.workspace_bytes(n, n)
        operands = CudaOperands(p, tuning)
        GpuTiledGreedy.__init__(self, p, operands, guessing, spare - tuning.list_room * BYTES_PER_ENTRY * n, horizon)
        self.entry_error = column_entry_error(operands.error, p.kernel, operands.sq_norms, 0, tuning.roundings)

    def column(
        self, points: PointSet, j: int, values: torch.Tensor, level: Level, new: Level | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = len(level.exact)
        segments = -(-rows // load("_cuda").SEGMENT)
        gain, bound = self.make(torch.float64, segments), self.make(torch.float64, segments)
        tensors = {
            "values": values,
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

    def take_tile(self, tile: Tile, events: Events) -> None:
        load("_cuda").coverage_take(queue(self.device), at(tile), **self.sums(events, self.taken, self.alive))

    def gather_tile(
        self, tile: Tile, floor: torch.Tensor, allowed: torch.Tensor, length: torch.Tensor, lists: Lists | None
    ) -> None:
        fields = {"floor": floor.data_ptr(), "allowed": allowed.data_ptr(), "list_length": length.data_ptr()}
        fields |= {} if lists is None else lists.addresses()
        load("_cuda").coverage_gather(queue(self.device), at(tile), **self.operands.native(), **fields)

    def take(self, kernel: torch.Tensor, events: Events, taken: torch.Tensor, alive: torch.Tensor) -> None:
        tile = kernel.data_ptr(), kernel.stride(0), (0, len(kernel), 0, self.n)
        load("_cuda").coverage_take(queue(self.device), tile, **self.sums(events, taken, alive))

    def greedy_on(self, lists: Lists, level: Level, open_: torch.Tensor, budget: int) -> greedy.CudaGreedy:
        task = greedy.Task(self.p, self.n, budget, level.exact)
        allowed = open_.to(torch.uint8)
        task.keep = lists, allowed, self.operands
        task.native = {**self.operands.native(), **lists.addresses(), "allowed": allowed.data_ptr(), "symmetric": True}
        return greedy.CudaGreedy([task], sparse=True)
