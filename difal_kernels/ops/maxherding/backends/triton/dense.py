"""Stored kernel matrices of several problems, made tile by tile, then the greedy loop on all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from difal_kernels._progress import Progress
from difal_kernels.ops._triton import interpreted

from ...bounds import precomputed_model
from ...dense import columns, padded, points_of_columns, symmetric
from ...kernel_functions import KERNEL_FUNCTIONS
from ...primitives import DenseMemory
from ...problem import Problem
from ..gpu import GpuTuning
from ..gpu.operands import label_bytes, operand_bytes
from .greedy import Engine, Task
from .greedy import workspace_bytes as engine_bytes
from .operands import OPTIONS, TritonCoverage, TritonOperands, aligned, packed_model, widened

SIDE = 64  # rows and columns of a tile: with 128 the compiler runs out of registers
MAX_TILE_ROWS = 16  # in a launch
MAX_PAIRS = 1 << 27  # uncertain entries that a launch has room for: every entry of as many rows as that allows
PROGRAMS = 4 if interpreted() else 1024  # that settle them


def launch_options() -> dict:
    """Warps and stages of the kernels that multiply."""
    return {"num_warps": 8, "num_stages": 3, **OPTIONS}


def strips(rows: int, columns: int) -> list[tuple[int, int]]:
    """Rows [begin, end) of one launch: whole tiles, as many as the list of uncertain entries allows."""
    step = SIDE * max(1, min(MAX_TILE_ROWS, MAX_PAIRS // (SIDE * columns)))
    return [(b, min(b + step, rows)) for b in range(0, rows, step)]


def pair_bytes(rows: int, columns: int) -> int:
    b, e = strips(rows, columns)[0]
    return 8 * -(-(e - b) // SIDE) * SIDE * (columns + SIDE)


def make_pairs(rows: int, columns: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.empty(pair_bytes(rows, columns) // 8, dtype=torch.int64, device=device)
    return pairs, torch.zeros(1, dtype=torch.int64, device=device)


def fill(operands: TritonOperands, points: torch.Tensor, gram: torch.Tensor, square: bool) -> None:
    """Make kernel values of all points with `points`, (N, len(points)) in `gram`; none is uncertain."""
    from . import tile_kernels as kernels

    n, width = len(operands.features), len(points)
    chosen, sq_norms = operands.matrix, operands.sq_norms
    if not square:
        chosen, sq_norms = aligned(operands.matrix[points], 64), operands.sq_norms[points].contiguous()
    pairs, length = make_pairs(n, width, gram.device)
    where, reals = operands.where(), operands.reals()
    code = KERNEL_FUNCTIONS[operands.kernel].code
    constants = {"KIND": code, "WIDEN": widened(), "SYMMETRIC": square, "SIDE": SIDE}
    for b, e in strips(n, width):
        last = e if square else width
        length.zero_()
        kernels.fill[(-(-(e - b) // SIDE), -(-last // SIDE))](
            operands.matrix, chosen, gram, gram.stride(0), operands.units, b, n, width, points, operands.sq_norms,
            sq_norms, where["norms_at"], operands.model, pairs, length, **constants, **launch_options(),
        )  # fmt: skip
        kernels.fill_pairs[(PROGRAMS,)](
            pairs, length, gram, gram.stride(0), points, *where.values(), reals, SYMMETRIC=square, num_warps=4,
            **operands.constants(),
        )  # fmt: skip


def memory(p: Problem, tuning: GpuTuning) -> DenseMemory:
    n, d = p.features.shape
    given = p.kernel == "precomputed"
    held = n * n * 8 if given else n * (d + 64) * p.features.element_size()
    kept = 4 * n * padded(columns(p), tuning.row_multiple) + held + engine_bytes(n, columns(p))
    if given:
        return DenseMemory(kept, 12 * p.features.numel())
    chosen = 0 if symmetric(p) else 4 * columns(p) * (d + 64)
    passing = operand_bytes(p) + 4 * n * (d + 64) + label_bytes(p, tuning) + chosen + pair_bytes(n, columns(p))
    return DenseMemory(kept, passing)


class TritonMatrix(TritonCoverage):
    """The stored matrix of one problem while it is made, and the task that follows."""

    def __init__(self, p: Problem, gram: torch.Tensor, tuning: GpuTuning):
        n, device = len(p.features), p.features.device
        self.p, self.gram, self.tuning = p, gram, tuning
        points = points_of_columns(p)
        self.points = (torch.arange(n) if points is None else points).to(device)
        self.allowed: torch.Tensor | None = None
        if points is None and p.candidates is not None:
            self.allowed = torch.zeros(n, dtype=torch.bool, device=device)
            self.allowed[p.candidates.to(device)] = True
        self.exact = torch.zeros(n, dtype=torch.float64, device=device)
        self.rounded = torch.zeros(n, dtype=torch.float32, device=device)
        if p.kernel != "precomputed":
            self.operands = TritonOperands(p, tuning)

    def fill(self) -> None:
        fill(self.operands, self.points, self.gram, symmetric(self.p))

    def copy(self) -> None:
        """The kernel itself is the matrix, copied once."""
        p, n = self.p, len(self.p.features)
        exact = (p.features if p.features.dtype == torch.float64 else p.features.float()).contiguous()
        self.given = exact.clone() if exact.data_ptr() % 16 else exact
        self.gram[:n, : len(self.points)] = exact if p.candidates is None else exact[:, self.points]

    def task(self) -> Task:
        p, n = self.p, len(self.p.features)
        width = len(self.points)
        if p.kernel == "precomputed":
            sq_norms = torch.zeros(n, dtype=torch.float32, device=self.gram.device)
            model = packed_model(precomputed_model(self.given.dtype, self.tuning.roundings), 1.0, self.gram.device)
            return Task(p, width, self.points, self.allowed, self.given, None, sq_norms, model, p.budget, self.exact)
        own = self.operands
        return Task(
            p, width, self.points, self.allowed, own.features, own.norms, own.sq_norms, own.model, p.budget, self.exact
        )


class TritonDenseGreedy:
    """See `primitives.DenseGreedy`. The problems are alike; their arrays are stacked."""

    def __init__(self, problems: Sequence[Problem], tuning: GpuTuning):
        self.problems, self.tuning = problems, tuning
        rows = max(len(p.features) for p in problems)
        width = padded(max(columns(p) for p in problems), tuning.row_multiple)
        device = problems[0].features.device
        self.gram = torch.empty(len(problems), rows, width, dtype=torch.float32, device=device)
        self.tasks: list[Task] = []

    @contextmanager
    def matrix(self, b: int) -> Iterator[TritonMatrix]:
        made = TritonMatrix(self.problems[b], self.gram[b], self.tuning)
        yield made
        self.tasks.append(made.task())

    def start(self) -> None:
        self.greedy = Engine(self.tasks, self.gram, symmetric(self.problems[0]))
        self.greedy.start(-1.0)

    def select(self, counts: Sequence[int], bar: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return self.greedy.select(bar)

    def covered(self, b: int) -> float:
        return self.greedy.covered(b)

    def contested(self, b: int) -> int:
        return self.greedy.contested(b)
