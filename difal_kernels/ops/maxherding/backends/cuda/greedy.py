"""The state of selections on the GPU, and the launches that run many of them together (csrc/cuda/greedy.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from difal_kernels._native import load
from difal_kernels._progress import Progress
from difal_kernels.ops._gpu import queue

from ...problem import Problem
from .operands import CudaCoverage

# The first numbers of csrc's Control: looks at all columns, columns settled and float64 kernel values, barriers that a
# block waited at, rows whose coverage rose, and blocks that worked together.
COUNTS = ("picks", "contested", "rounds", "settled_candidates", "float64_rows", "barriers", "rows_updated", "blocks")
MAX_PICKS_PER_LAUNCH = 1 << 13  # well below what a driver lets a kernel run where a screen hangs on the GPU
MAX_PICKS_WATCHED = 256  # and where somebody watches a progress bar


class Task(CudaCoverage):
    """One selection's arrays. `native` becomes csrc's CoverageTask; the tensors must outlive it."""

    def __init__(self, p: Problem, columns: int, budget: int, exact: torch.Tensor | None = None):
        module, device, rows = load("_cuda"), p.features.device, len(p.features)
        self.rows, self.columns, self.budget = rows, columns, budget
        self.native: dict[str, Any] = {}
        self.keep: Any = None

        def make(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self.weights = p.weights.contiguous()
        self.exact = make(torch.float64, rows).zero_() if exact is None else exact.clone()
        self.rounded = self.exact.float()
        self.picks, self.gains = make(torch.int64, budget), make(torch.float64, budget)
        self.control = make(torch.int64, module.CONTROL_BYTES // 8)
        self.state = {
            "weights": self.weights,
            "exact": self.exact,
            "rounded": self.rounded,
            "gains": make(torch.float64, columns),
            "bounds": make(torch.float64, columns),
            "settled": make(torch.float64, columns),
            "offset": make(torch.float64, columns),
            "touched": make(torch.float64, columns),
            "flag": make(torch.uint8, columns),
            "rises": make(torch.uint8, rows * module.RISE_BYTES),
            "partial": make(torch.float64, module.CONTENDERS * -(-rows // module.SEGMENT)),
            "kept": make(torch.float64, module.KEPT * rows),
            "reports": make(torch.uint8, module.REPORT_BYTES),
            "winners": make(torch.int64, module.WINNERS),
            "control": self.control,
            "picks": self.picks,
            "pick_gains": self.gains,
        }

    def as_bytes(self) -> bytes:
        addresses = {name: tensor.data_ptr() for name, tensor in self.state.items()}
        fields = {"rows": self.rows, "columns": self.columns, "budget": self.budget, "gram_stride": 0}
        return load("_cuda").coverage_task(**{**fields, **self.native, **addresses})


def workspace_bytes(rows: int, columns: int) -> int:
    return rows * (8 + 4 + 16 + 8 + 4 * 8 + 8 * 8 + 8) + columns * (5 * 8 + 1) + (1 << 16)


class CudaGreedy:
    """The greedy loop of some tasks: two short launches to start, then one for many picks of all."""

    def __init__(self, tasks: Sequence[Task], sparse: bool):
        self.tasks, self.device = tasks, tasks[0].exact.device
        packed = bytearray(b"".join(task.as_bytes() for task in tasks))
        self.packed = torch.frombuffer(packed, dtype=torch.uint8).to(self.device)
        self.arrivals = torch.empty(len(tasks), dtype=torch.int32, device=self.device)
        most = max(task.columns for task in tasks)
        self.launch = (queue(self.device), self.packed.data_ptr(), len(tasks), most, sparse)

    def start(self, first_gain: float = -1.0) -> None:
        load("_cuda").coverage_start(*self.launch, first_gain)

    def select(self, bar: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Make all picks of all tasks: columns, and gains not divided by N."""
        module, on_gpu = load("_cuda"), self.device.type == "cuda"
        step = MAX_PICKS_WATCHED if bar.enabled else MAX_PICKS_PER_LAUNCH
        for done in range(0, max(task.budget for task in self.tasks), step):
            module.coverage_select(*self.launch, self.arrivals.data_ptr(), step, module.THREADS)
            if bar.enabled and on_gpu:
                torch.cuda.synchronize(self.device)  # so that the bar tells the truth, and Ctrl-C is heard
            bar.update(sum(min(task.budget, done + step) - min(task.budget, done) for task in self.tasks))
        if on_gpu:
            torch.cuda.current_stream(self.device).synchronize()  # `packed` is read until the last launch ends
        return [(task.picks, task.gains) for task in self.tasks]

    def covered(self, b: int) -> float:
        return float(self.tasks[b].weights @ self.tasks[b].exact)

    def contested(self, b: int) -> int:
        return int(self.tasks[b].control[1])

    def counts(self, b: int) -> dict[str, int]:
        """What the loop did for task b: see `COUNTS`."""
        return dict(zip(COUNTS, self.tasks[b].control[: len(COUNTS)].tolist(), strict=True))
