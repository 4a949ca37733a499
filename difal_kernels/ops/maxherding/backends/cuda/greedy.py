"""The state of selections on the GPU, and the launches that run many of them together (csrc/cuda/greedy.cu)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from difal_kernels._native import load
from difal_kernels._progress import Progress
from difal_kernels.ops._gpu import queue

from ...problem import Problem
from ...result import Result

MOST_PICKS = 1 << 13  # picks per launch: well below what a driver lets a kernel run where a screen hangs on the GPU
WITH_BAR = 256  # and where somebody watches


class Task:
    """One selection's arrays. `native` becomes csrc's CoverageTask; the tensors must outlive it."""

    def __init__(self, p: Problem, native: dict[str, Any], rows: int, columns: int, budget: int, keep: Any):
        module, device = load("_cuda"), p.features.device
        self.rows, self.columns, self.budget, self.keep = rows, columns, budget, keep

        def make(dtype: torch.dtype, *shape: int, zero: bool = False) -> torch.Tensor:
            return (torch.zeros if zero else torch.empty)(shape, dtype=dtype, device=device)

        self.weights = p.weights.contiguous()
        self.exact = make(torch.float64, rows, zero=True)
        self.rounded = make(torch.float32, rows, zero=True)
        self.picks, self.gains = make(torch.int64, budget), make(torch.float64, budget)
        self.control = make(torch.int64, module.CONTROL_BYTES // 8)
        self.state = {
            "weights": self.weights,
            "exact": self.exact,
            "rounded": self.rounded,
            "gains": make(torch.float64, columns),
            "bounds": make(torch.float64, columns),
            "settled": make(torch.float64, columns),
            "scanned": make(torch.int32, columns),
            "flag": make(torch.uint8, columns),
            "rises": make(torch.uint8, rows * module.RISE_BYTES),
            "partial": make(torch.float64, module.CONTENDERS * -(-rows // module.SEGMENT)),
            "said": make(torch.uint8, module.SAID_BYTES),
            "winners": make(torch.int64, module.WINNERS),
            "control": self.control,
            "picks": self.picks,
            "pick_gains": self.gains,
        }
        self.native = native

    def cover_with(self, coverage: torch.Tensor) -> None:
        self.exact.copy_(coverage)
        self.rounded.copy_(coverage)

    def as_bytes(self) -> bytes:
        addresses = {name: tensor.data_ptr() for name, tensor in self.state.items()}
        fields = {"rows": self.rows, "columns": self.columns, "budget": self.budget, "gram_stride": 0}
        return load("_cuda").coverage_task(**{**fields, **self.native, **addresses})

    def result(self, p: Problem) -> Result:
        """Waits for the device."""
        n = len(p.features)
        covered = float(self.weights @ self.exact)
        contested = int(self.control[1])
        return Result(self.picks, self.gains / n, covered / n, contested)


def workspace_bytes(rows: int, columns: int) -> int:
    return rows * (8 + 4 + 16 + 8 + 4 * 8 + 8) + columns * (3 * 8 + 5) + (1 << 16)


def run(tasks: Sequence[Task], sparse: bool, first_gain: float, bar: Progress) -> None:
    """All picks of all tasks: two short launches, then one for up to MOST_PICKS picks."""
    module, device = load("_cuda"), tasks[0].exact.device
    packed = torch.frombuffer(bytearray(b"".join(task.as_bytes() for task in tasks)), dtype=torch.uint8).to(device)
    arrivals = torch.empty(len(tasks), dtype=torch.int32, device=device)
    columns = max(task.columns for task in tasks)
    where, at, count = queue(device), packed.data_ptr(), len(tasks)
    module.coverage_start(where, at, count, columns, sparse, first_gain)
    most = max(task.budget for task in tasks)
    step = WITH_BAR if bar.enabled else MOST_PICKS
    for done in range(0, most, step):
        module.coverage_select(where, at, count, columns, sparse, arrivals.data_ptr(), step, module.THREADS)
        if bar.enabled and device.type == "cuda":
            torch.cuda.synchronize(device)  # so that the bar tells the truth, and Ctrl-C is heard
        bar.update(sum(min(task.budget, done + step) - min(task.budget, done) for task in tasks))
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # `packed` is read until the last launch ends


def pad(columns: int) -> int:
    """Numbers from row to row of a matrix: a multiple of 32, so that rows begin on a cache line."""
    return math.ceil(columns / 32) * 32
