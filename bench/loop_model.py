"""The selection loop of csrc/cuda/block_group.h on the host, rule by rule, to count what it would do on a GPU.

Who proposes, who contends, who is settled and how bounds fall are the kernel's; so are the numbers, up to the order of
the sums in which the first estimates are made. A test holds the counters against the kernel's own at a few hundred
points (tests/gpu/test_loop_model.py); gpu_rounds.py runs it at the benchmark's sizes, which no emulator could.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from difal_kernels.ops.maxherding.bounds import ErrorModel
from difal_kernels.ops.maxherding.kernel_functions import KERNEL_FUNCTIONS

TIE = 1e-12
UNIT = 2.0**-50
TILE, WARP, SEGMENT = 64, 32, 8
CONTENDERS, KEPT = 32, 8
OPEN, SETTLED, TAKEN, KNOWN = 0, 1, 2, 3


@dataclass
class Counts:
    """What the kernel's control block counts."""

    rounds: int = 0
    settled_candidates: int = 0
    float64_rows: int = 0
    rows_updated: int = 0
    barriers: int = 0


def proposers(columns: int, blocks: int, threads: int) -> tuple[torch.Tensor, int]:
    """Which of a group's proposers each column belongs to, (M,) int64, and how many there are."""
    warps = threads // WARP
    per_block = min(warps, max(1, CONTENDERS // blocks))
    j = torch.arange(columns)
    rank = j // TILE % blocks
    at = j // TILE // blocks * TILE + j % TILE
    return rank * per_block + at % threads // WARP % per_block, blocks * per_block


@functools.cache
def library() -> ctypes.CDLL:
    """loop_model.cpp, compiled for this processor; no product is fused with an addition, as in the kernels' bounds."""
    root = Path(__file__).parents[1]
    source = root / "bench/loop_model.cpp"
    flags = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-ffp-contract=off", "-fopenmp-simd"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "loop_model.so"
        compiler = os.environ.get("CXX", "c++")
        command = [compiler, *flags, "-shared", "-fPIC", f"-I{root}/csrc/include", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(target))


def float32_bound(model: ErrorModel, kernel: str, k: torch.Tensor, sq_norms: torch.Tensor) -> torch.Tensor:
    """entry_bound of csrc/include/difal/estimate.h, operation by operation in float32."""
    if kernel == "cosine":
        return torch.full_like(k, model.absolute)
    estimated = sq_norms * model.sq_dist_rel_err
    if kernel == "laplace":
        estimated = estimated * (1 / (1 - k).clamp(min=1e-7))
    return k * (estimated.clamp(max=model.tolerance) * 1.01 + model.relative)


class LoopModel:
    """One selection by a group of blocks, of all points against all.

    Args:
        gram: (N, N) float32 estimates of the kernel, equal to its transpose.
        exact_values: the float64 kernel between point j and some rows, (rows,), from (j, rows).
        model: the error model of the estimates.
        kernel: the kernel function's name.
        sq_norms: (N,) float32, as the model's.
        weights: (N,) float64.
        blocks: blocks of the group.
        threads: threads of a block.
    """

    def __init__(
        self,
        gram: torch.Tensor,
        exact_values: Callable[[int, torch.Tensor], torch.Tensor],
        model: ErrorModel,
        kernel: str,
        sq_norms: torch.Tensor,
        weights: torch.Tensor,
        blocks: int,
        threads: int,
    ):
        self.gram, self.exact_values, self.model, self.kernel = gram, exact_values, model, kernel
        self.sq_norms, self.weights, self.blocks = sq_norms, weights, blocks
        self.n, n = len(gram), len(gram)
        self.proposer, self.count = proposers(n, blocks, threads)
        zeros = lambda dtype: torch.zeros(n, dtype=dtype)  # noqa: E731
        self.exact, self.rounded, self.flag = zeros(torch.float64), zeros(torch.float32), zeros(torch.int64)
        self.settled, self.offset, self.touched = (zeros(torch.float64) for _ in range(3))
        self.gains, self.bounds = zeros(torch.float64), zeros(torch.float64)
        self.counts = Counts()
        self.per_pick: list[tuple[int, int]] = []  # rounds, and columns settled
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.first_gain, self.magic, self.bound_magic = -1.0, 0.0, 0.0
        self.run_rows(torch.arange(n), self.rounded, self.rounded, start=True)
        self.largest, self.scale = float(self.gains.max().clamp(min=0)), 4 * float(self.bounds.max())
        self.magic, self.bound_magic = magic_of(self.largest), magic_of(self.scale)
        self.gains = (self.gains + self.magic) - self.magic
        self.bounds = (self.bounds + self.bound_magic) - self.bound_magic

    def run_rows(self, rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, start: bool = False) -> None:
        """Take from the gains and bounds what `rows` take when they rise, or add what they give at first."""
        known = ((self.flag == SETTLED) | (self.flag == KNOWN)).to(torch.uint8)
        reached = torch.zeros(self.n, dtype=torch.uint8)
        error = self.model
        numbers = torch.tensor([error.sq_dist_rel_err, error.relative, error.absolute, error.tolerance])
        magic = torch.tensor([self.magic, self.bound_magic], dtype=torch.float64)
        at = lambda tensor: ctypes.c_void_p(tensor.data_ptr())  # noqa: E731
        size = ctypes.c_int64
        library().run_rows(
            int(start), KERNEL_FUNCTIONS[self.kernel].code, at(numbers), at(self.gram), size(self.gram.stride(0)),
            size(self.n), at(rows), at(low), at(high), size(len(rows)), at(self.sq_norms), at(self.weights), at(magic),
            at(self.gains), at(self.bounds), at(self.touched), at(known), at(reached),
        )  # fmt: skip
        self.flag[(self.flag == SETTLED) & (reached > 0)] = KNOWN

    def margins(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What is added to the estimates for upper and for lower bounds."""
        known = self.flag == KNOWN
        above = torch.where(known, torch.minimum(self.bounds, self.offset + self.touched), self.bounds)
        below = torch.where(known, torch.minimum(self.bounds, self.touched - self.offset), self.bounds)
        return above, below

    def contenders(self) -> list[int]:
        """Columns to settle now; none if the winner is certain."""
        above, below = self.margins()
        open_ = (self.flag == OPEN) | (self.flag == KNOWN)
        none = torch.full_like(self.gains, -math.inf)
        upper = torch.where(open_, self.gains + above, none)
        lower = float(torch.where(open_, self.gains - below, none).max())
        best = float(torch.where(self.flag == SETTLED, self.settled, none).max())
        most = torch.full((self.count,), -math.inf, dtype=torch.float64)
        most.scatter_reduce_(0, self.proposer, upper, "amax")
        drift = UNIT * (self.counts.rows_updated + self.n + 2) * (self.largest + self.scale)
        slack = TIE * (2 * self.largest if self.first_gain < 0 else self.first_gain) + drift
        lower -= drift
        reach = max(best, lower) - slack
        chosen = ((most >= reach) & (most > -math.inf)).nonzero()[:, 0]
        if len(chosen) and best < lower:  # nobody is settled yet who could win: one first
            chosen = chosen[most[chosen].argmax()][None]
        out = []
        for r in chosen[:CONTENDERS].tolist():
            at = ((self.proposer == r) & (upper == most[r])).nonzero()
            out.append(int(at[0]))
        self.best = best
        return out

    def live(self, j: int) -> torch.Tensor:
        """Rows that may gain by column j."""
        k, sums = self.gram[j], self.sq_norms + self.sq_norms[j]
        sums[j] = 0
        stretch = 1 + 2 * self.model.tolerance + self.model.relative
        near = (k * stretch + self.model.absolute > self.rounded).nonzero()[:, 0]
        bound = float32_bound(self.model, self.kernel, k[near], sums[near])
        return near[k[near] + bound > self.rounded[near]]

    def settle(self, j: int, keep: bool) -> None:
        live = self.live(j)
        values = self.exact_values(j, live)
        gain = (self.weights[live] * (values - self.exact[live]).clamp(min=0)).sum()
        self.counts.float64_rows += len(live)
        self.settled[j], self.offset[j], self.touched[j] = gain, gain - self.gains[j], 0.0
        self.flag[j] = SETTLED
        if keep:
            self.kept[j] = live, values

    def tie(self) -> float:
        return TIE * (max(self.best, 0.0) if self.first_gain < 0 else self.first_gain)

    def pick(self) -> int:
        self.kept = {}
        rounds, settled = 0, 0
        while True:
            rounds += 1
            found = self.contenders()
            if not found:
                break
            for j in found:
                self.settle(j, settled < KEPT)
                settled += 1
        within = (self.flag == SETTLED) & (self.settled >= self.best - self.tie())
        j = int(within.nonzero()[0])
        holders = len(self.proposer[within].unique())
        if self.blocks > 1:
            self.counts.barriers += 2 * rounds + (holders > 1)
        self.counts.rounds += rounds
        self.counts.settled_candidates += settled
        if self.first_gain < 0:
            self.first_gain = max(float(self.settled[j]), 0.0)
        self.flag[j] = TAKEN
        self.take(j)
        self.per_pick.append((rounds, settled))
        return j

    def take(self, j: int) -> None:
        if j in self.kept:
            live, values = self.kept[j]
        else:
            live = self.live(j)
            values = self.exact_values(j, live)
            self.counts.float64_rows += len(live)
        risen = values > self.exact[live]
        rows, values = live[risen], values[risen]
        low, high = self.rounded[rows], values.float()
        self.exact[rows], self.rounded[rows] = values, high
        seen = self.weights[rows] != 0
        self.counts.rows_updated += int(seen.sum())
        self.run_rows(rows[seen], low[seen], high[seen])

    def select(self, budget: int) -> list[int]:
        return [self.pick() for _ in range(budget)]


def magic_of(largest: float) -> float:
    """The number that rounds to multiples of 2^-51 of a power of two of at least `largest`."""
    return math.ldexp(1.5, math.frexp(largest)[1] + 1) if largest > 0 else 0.0
