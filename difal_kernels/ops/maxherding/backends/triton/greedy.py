"""Selections side by side, in stacked arrays, and the launches that pick for them (greedy_kernels.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from difal_kernels._progress import Progress
from difal_kernels.ops._triton import interpreted

from ...kernel_functions import KERNEL_FUNCTIONS
from ...problem import Problem
from ..gpu.operands import OPTIONS, WIDTH, triton_type

TILE, GROUP = 64, 16  # as in greedy_kernels.py
CONTENDERS, PARTS = 32, 64  # columns settled in a turn, at most, and programs that settle one
TAKERS, LOWERERS = 1024, 8  # programs that take, at most, and that lower a tile of columns
TURNS = 256  # turns queued before the host asks how far the selections are


@dataclass
class Task:
    """One selection. `keep` holds what `features_at` and `norms_at` point to."""

    p: Problem
    columns: int
    points: torch.Tensor  # (M,) int64: the point of each column
    allowed: torch.Tensor | None  # (M,) bool: may it be picked
    features: torch.Tensor  # (N, D) with aligned rows, or the (N, N) kernel
    norms: torch.Tensor | None
    sq_norms: torch.Tensor  # (N,) float32
    model: torch.Tensor  # (8,) float32
    budget: int
    exact: torch.Tensor  # (N,) float64 coverage
    keep: Any = None
    lists: dict[str, torch.Tensor] = field(default_factory=dict)


class Engine:
    """All state of some tasks: row b of every array is task b's. `gram` is (B, N, stride), or None for lists."""

    def __init__(self, tasks: Sequence[Task], gram: torch.Tensor | None, symmetric: bool):
        import triton.language  # noqa: F401

        self.tasks, self.gram, self.symmetric = tasks, gram, symmetric
        self.device = tasks[0].exact.device
        self.count = len(tasks)
        # Programs are what costs in the interpreter.
        contenders, parts, self.lowerers = (3, 2, 2) if interpreted() else (CONTENDERS, PARTS, LOWERERS)
        self.many = {"CONTENDERS": contenders, "PARTS": parts}
        self.rows = max(len(t.p.features) for t in tasks)
        self.columns = max(t.columns for t in tasks)
        self.tiles = -(-self.columns // TILE)
        self.budget, self.turns = max(t.budget for t in tasks), 0
        i64, i32, f64, f32 = torch.int64, torch.int32, torch.float64, torch.float32
        rows, columns = (self.count, self.rows), (self.count, self.columns)
        self.sizes = self.stack([torch.tensor(self._sizes(t)) for t in tasks], i64, WIDTH)
        self.reals = self.stack([torch.tensor([t.p.bandwidth or 1.0], dtype=torch.float64) for t in tasks], f64, WIDTH)
        self.model = self.stack([t.model for t in tasks], f32, WIDTH)
        self.control = self.make((self.count, WIDTH), i64, 0)
        self.weights = self.stack([t.p.weights for t in tasks], f64, self.rows)
        self.exact = self.stack([t.exact for t in tasks], f64, self.rows)
        self.rounded = self.exact.float()
        self.sq_norms = self.stack([t.sq_norms for t in tasks], f32, self.rows)
        self.points = self.stack([t.points for t in tasks], i64, self.columns)
        open_ = [torch.ones(t.columns, dtype=torch.bool) if t.allowed is None else t.allowed for t in tasks]
        self.flag = torch.where(self.stack(open_, torch.bool, self.columns), 0, 2).to(torch.int8)
        self.gains, self.bounds = self.make(columns, f64, 0), self.make(columns, f64, 0)
        self.settled, self.offset, self.touched = (self.make(columns, f64, 0) for _ in range(3))
        self.rise_row = self.make(rows, i64)
        self.rise_low, self.rise_high = self.make(rows, f32), self.make(rows, f32)
        tiles = (self.count, self.tiles)
        self.best, self.lower_bound, self.upper_bound = (self.make(tiles, f64) for _ in range(3))
        self.proposal, self.slot = self.make(tiles, i64, -1), self.make(tiles, i32, -1)
        self.contender = self.make((self.count, contenders), i64, 0)
        self.partial = self.make((self.count, contenders, parts), f64)
        self.picks, self.pick_gains = (
            self.make((self.count, self.budget), i64),
            self.make((self.count, self.budget), f64),
        )
        kind = KERNEL_FUNCTIONS[tasks[0].p.kernel].code
        self.kind = {"KIND": kind, **OPTIONS}
        self.typed = {**self.kind, "DTYPE": triton_type(tasks[0].features.dtype)}
        self.shape = {"SPARSE": gram is None, "SYMMETRIC": symmetric}
        if gram is None:
            lists = tasks[0].lists
            self.lists = tuple(lists[name] for name in ("list_begin", "list_length", "list_point", "list_value"))
        else:  # in the places of the lists: never read
            self.lists = (self.control, self.contender, self.slot, self.rounded)

    def make(self, shape: tuple[int, ...], dtype: torch.dtype, value: float | None = None) -> torch.Tensor:
        if value is None:
            return torch.empty(shape, dtype=dtype, device=self.device)
        return torch.full(shape, value, dtype=dtype, device=self.device)

    def stack(self, parts: Sequence[torch.Tensor], dtype: torch.dtype, width: int) -> torch.Tensor:
        out = self.make((len(parts), width), dtype, 0)
        for row, part in zip(out, parts, strict=True):
            row[: len(part)] = part
        return out

    @staticmethod
    def _sizes(t: Task) -> list[int]:
        norms = 0 if t.norms is None else t.norms.data_ptr()
        n, d = t.features.shape
        return [n, t.columns, t.budget, t.features.data_ptr(), norms, t.features.stride(0), d]

    def matrix(self) -> tuple:
        """The values, and numbers from row to row and from task to task."""
        if self.gram is None:
            return self.lists[3], 0, 0
        return self.gram, self.gram.stride(1), self.gram.stride(0)

    def start(self, first_gain: float) -> None:
        """First estimates, rounded to multiples of a power of two of which the largest has at most 2^51."""
        from . import greedy_kernels as kernels

        if not self.budget:
            return

        self.reals[:, 3] = first_gain
        if self.gram is not None:
            kernels.start[(self.tiles, self.count)](
                *self.matrix(), self.sizes, self.model, self.weights, self.rounded, self.sq_norms, self.points,
                self.gains, self.bounds, self.flag, self.rows, self.columns, num_warps=4, **self.kind,
            )  # fmt: skip
            self._round_by_largest()
            for sums, magic in ((self.gains, self.reals[:, 1:2]), (self.bounds, self.reals[:, 4:5])):
                sums.add_(magic).sub_(magic)
            return
        for last in (False, True):  # to know the largest; then in multiples, which add up exactly in any order
            kernels.start_sparse[(self.rows,)](
                *self.lists, self.reals, self.model, self.weights, self.rounded, self.sq_norms, self.gains, self.bounds,
                num_warps=4, **self.kind,
            )  # fmt: skip
            if not last:
                self._round_by_largest()
                self.gains.zero_()
                self.bounds.zero_()

    def _round_by_largest(self) -> None:
        """Choose the multiples that estimates and their bounds are rounded to."""
        largest = torch.where(self.flag == 0, self.gains, 0.0).amax(1)
        # What is charged since a column was settled is compared while it is below twice its bound.
        scale = 4 * torch.where(self.flag == 0, self.bounds, 0.0).amax(1)
        self.reals[:, 1], self.reals[:, 2] = magic_of(largest), largest
        self.reals[:, 4], self.reals[:, 5] = magic_of(scale), scale

    def turn(self) -> None:
        """Settle, and if then nobody contends, pick."""
        self.turns += 1
        self._look(picking=False)
        self._settle()
        self._look(picking=True)
        self._take()
        self._lower()

    def _look(self, picking: bool) -> None:
        from . import greedy_kernels as kernels

        best = (self.best, self.lower_bound, self.upper_bound, self.proposal)
        kernels.look[(self.tiles, self.count)](
            self.sizes, self.control, self.gains, self.bounds, self.settled, self.offset, self.touched, self.flag,
            self.partial, *best, self.slot, self.columns, self.tiles, num_warps=1, **self.many, **OPTIONS,
        )  # fmt: skip
        kernels.survey[(self.count,)](
            self.sizes, self.control, self.reals, self.settled, self.flag, *best, self.contender, self.picks,
            self.pick_gains, self.columns, self.tiles, self.budget, int(picking), num_warps=4,
            CONTENDERS=self.many["CONTENDERS"], **OPTIONS,
        )  # fmt: skip

    def _settle(self) -> None:
        from . import greedy_kernels as kernels

        kernels.settle[(self.many["PARTS"], self.many["CONTENDERS"], self.count)](
            *self.matrix(), *self.lists[:3], self.sizes, self.control, self.reals, self.model, self.weights,
            self.exact, self.rounded, self.sq_norms, self.points, self.proposal, self.contender, self.slot,
            self.partial, self.rows, self.columns, self.tiles, num_warps=4, **self.many, **self.typed, **self.shape,
        )  # fmt: skip

    def _take(self) -> None:
        from . import greedy_kernels as kernels

        rises = (self.rise_row, self.rise_low, self.rise_high)
        kernels.take[(min(TAKERS, -(-self.rows // GROUP)), self.count)](
            *self.matrix(), *self.lists[:3], self.sizes, self.control, self.reals, self.model, self.weights,
            self.exact, self.rounded, self.sq_norms, self.points, *rises, self.rows, self.columns, num_warps=4,
            **self.typed, **self.shape,
        )  # fmt: skip

    def _lower(self) -> None:
        from . import column_kernels as kernels

        rises = (self.rise_row, self.rise_low, self.rise_high)
        if self.gram is None:
            kernels.lower_sparse[(min(TAKERS, self.rows),)](
                *self.lists, self.control, self.reals, self.model, self.weights, self.sq_norms, self.gains,
                self.bounds, self.touched, self.flag, *rises, num_warps=4, **self.kind,
            )  # fmt: skip
            return
        kernels.lower[(self.tiles, self.lowerers, self.count)](
            *self.matrix(), self.sizes, self.control, self.reals, self.model, self.weights, self.sq_norms, self.points,
            self.gains, self.bounds, self.touched, self.flag, *rises, self.rows, self.columns, num_warps=4,
            **self.kind,
        )  # fmt: skip

    def select(self, bar: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Make all picks of all tasks: columns, and gains not divided by N; waits for the device every TURNS turns."""
        done, turns = 0, min(TURNS, self.budget)
        total = sum(t.budget for t in self.tasks)
        while done < total:
            for _ in range(turns):
                self.turn()
            before, done = done, int(self.control[:, 0].sum())
            bar.update(done - before)
            left = int((self.sizes[:, 2] - self.control[:, 0]).max())
            turns = max(1, min(TURNS, left))
        return [(self.picks[b, : t.budget], self.pick_gains[b, : t.budget]) for b, t in enumerate(self.tasks)]

    def covered(self, b: int) -> float:
        return float(self.weights[b] @ self.exact[b])

    def contested(self, b: int) -> int:
        return int(self.control[b, 1])

    def counts(self, b: int) -> dict[str, int]:
        """What the loop did for task b, turns those of all."""
        picks, contested, rows_updated, settled = self.control[b, [0, 1, 2, 7]].tolist()
        return {
            "picks": picks,
            "contested": contested,
            "rounds": self.turns,
            "settled_candidates": settled,
            "rows_updated": rows_updated,
        }


def workspace_bytes(rows: int, columns: int) -> int:
    """Of one task, lists and matrix left out."""
    return rows * (3 * 8 + 2 * 4 + 16) + columns * (6 * 8 + 1) + columns + (1 << 16)


def magic_of(largest: torch.Tensor) -> torch.Tensor:
    """1.5 * 2^52 units, of which `largest` has at most 2^51: adding and subtracting it rounds to multiples of one."""
    power = largest / torch.frexp(largest).mantissa  # of two, exactly
    return torch.where(largest > 0, 3 * power, 0.0)
