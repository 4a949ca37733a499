"""The selection loop of csrc/cuda/block_group.h on the host, rule by rule, to count what it would do on a GPU.

Who proposes, who contends, who is settled and how bounds fall are the kernel's; so are the numbers, up to the order of
the sums in which the first estimates are made. A test holds the counters against the kernel's own at a few hundred
points (tests/gpu/test_loop_model.py); gpu_rounds.py runs it at the benchmark's sizes, which no emulator could.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from difal_kernels.ops.maxherding.bounds import ErrorModel

TIE = 1e-12
UNIT = 2.0**-50
TILE, WARP, SEGMENT = 64, 32, 8
CONTENDERS, KEPT = 32, 8
CHUNK = 64  # rows that are lowered at a time here
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


def float32_bound(model: ErrorModel, kernel: str, k: torch.Tensor, sq_norms: torch.Tensor) -> torch.Tensor:
    """entry_bound of csrc/include/difal/estimate.h, operation by operation in float32."""
    if kernel in ("tophat", "precomputed"):
        return k * model.relative
    if kernel == "cosine":
        return torch.full_like(k, model.absolute)
    estimated = sq_norms * model.sq_dist_rel_err
    if kernel == "laplace":
        estimated = estimated * (1 / (1 - k).clamp(min=1e-7))
    elif kernel != "rbf":
        estimated = estimated * (k * {"cauchy": 1.0, "student_t": 1.5, "rational_quadratic": 0.5}[kernel])
    return k * (estimated.clamp(max=model.tolerance) * 1.01 + model.relative)


class LoopModel:
    """One selection by a group of blocks.

    Args:
        gram: (N, M) float32 estimates of the kernel.
        exact_column: the float64 kernel column of a column, (N,).
        model: the error model of the estimates.
        kernel: the kernel function's name.
        sq_norms: (N,) float32, as the model's.
        weights: (N,) float64.
        blocks: blocks of the group.
        threads: threads of a block.
        diagonal: whether column j is point j, whose own entry is exact.
        covered: (N,) float64 coverage at the start.
    """

    def __init__(
        self,
        gram: torch.Tensor,
        exact_column: Callable[[int], torch.Tensor],
        model: ErrorModel,
        kernel: str,
        sq_norms: torch.Tensor,
        weights: torch.Tensor,
        blocks: int,
        threads: int,
        diagonal: bool = True,
        covered: torch.Tensor | None = None,
    ):
        self.gram, self.exact_column, self.model, self.kernel = gram, exact_column, model, kernel
        self.sq_norms, self.weights, self.blocks, self.diagonal = sq_norms, weights, blocks, diagonal
        self.n, self.m = gram.shape
        self.warps = blocks * (threads // WARP)
        self.proposer, self.count = proposers(self.m, blocks, threads)
        self.exact = torch.zeros(self.n, dtype=torch.float64) if covered is None else covered.clone()
        self.rounded = self.exact.float()
        self.flag = torch.zeros(self.m, dtype=torch.int64)
        self.settled = torch.zeros(self.m, dtype=torch.float64)
        self.offset = torch.zeros(self.m, dtype=torch.float64)
        self.touched = torch.zeros(self.m, dtype=torch.float64)
        self.counts, self.per_pick = Counts(), []
        self.first_gain = -1.0
        self.start()

    def rows(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the matrix and their entries' bounds."""
        k = self.gram[index]
        sums = self.sq_norms[index][:, None] + self.sq_norms[: self.m][None]
        if self.diagonal:
            sums[torch.arange(len(index)), index] = 0
        return k, float32_bound(self.model, self.kernel, k, sums)

    def start(self) -> None:
        self.gains = torch.zeros(self.m, dtype=torch.float64)
        self.bounds = torch.zeros(self.m, dtype=torch.float64)
        for index in torch.arange(self.n).split(CHUNK):
            k, b = self.rows(index)
            m, w = self.rounded[index][:, None], self.weights[index]
            self.gains += w @ (k.double() - m.double()).clamp(min=0)
            self.bounds += w @ (b * (k + b > m)).double()
        self.largest = float(self.gains.max().clamp(min=0))
        self.largest_bound = 4 * float(self.bounds.max())
        self.magic, self.bound_magic = magic_of(self.largest), magic_of(self.largest_bound)
        self.gains = self.rounded_to(self.gains, self.magic)
        self.bounds = self.rounded_to(self.bounds, self.bound_magic)

    @staticmethod
    def rounded_to(v: torch.Tensor, magic: float) -> torch.Tensor:
        return (v + magic) - magic

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
        drift = UNIT * (self.counts.rows_updated + self.n) * (self.largest + self.largest_bound)
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
        k = self.gram[:, j]
        sums = self.sq_norms + self.sq_norms[j]
        if self.diagonal:
            sums[j] = 0
        return k + float32_bound(self.model, self.kernel, k, sums) > self.rounded

    def settle(self, j: int) -> None:
        live = self.live(j)
        gain = (self.weights * (self.exact_column(j) - self.exact).clamp(min=0))[live].sum()
        self.counts.float64_rows += int(live.sum())
        self.settled[j], self.offset[j], self.touched[j] = gain, gain - self.gains[j], 0.0
        self.flag[j] = SETTLED

    def tie(self) -> float:
        return TIE * (max(self.best, 0.0) if self.first_gain < 0 else self.first_gain)

    def pick(self) -> int:
        kept: list[int] = []
        rounds = 0
        while True:
            rounds += 1
            found = self.contenders()
            if not found:
                break
            for j in found:
                self.settle(j)
            kept += found
        within = (self.flag == SETTLED) & (self.settled >= self.best - self.tie())
        j = int(within.nonzero()[0])
        holders = len(self.proposer[within].unique())
        if self.blocks > 1:
            self.counts.barriers += 2 * rounds + (holders > 1)
        self.counts.rounds += rounds
        self.counts.settled_candidates += len(kept)
        if self.first_gain < 0:
            self.first_gain = max(float(self.settled[j]), 0.0)
        self.flag[j] = TAKEN
        self.take(j, j in kept[:KEPT])
        self.per_pick.append((rounds, len(kept)))
        return j

    def take(self, j: int, kept: bool) -> None:
        live = self.live(j)
        if not kept:
            self.counts.float64_rows += int(live.sum())
        value = self.exact_column(j)
        risen = live & (value > self.exact)
        low, high = self.rounded, torch.where(risen, value.float(), self.rounded)
        self.exact = torch.where(risen, value, self.exact)
        self.rounded = high
        rises = (risen & (self.weights != 0)).nonzero()[:, 0]
        self.counts.rows_updated += len(rises)
        for index in rises.split(CHUNK):
            self.lower(index, low[index][:, None], high[index][:, None])

    def lower(self, index: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        k, b = self.rows(index)
        w = self.weights[index][:, None]
        taken = w * (torch.minimum(torch.maximum(k, low), high).double() - low.double())
        self.gains -= self.rounded_to(taken, self.magic).sum(0)
        reaches = k + b > low
        dies = reaches & ~(k + b > high)
        self.bounds -= self.rounded_to(w * (b * dies).double(), self.bound_magic).sum(0)
        self.flag[(self.flag == SETTLED) & reaches.any(0)] = KNOWN
        across = torch.where(k - b < high, torch.minimum(b, high - low), torch.zeros_like(b))
        charge = (across + high * self.model.relative) * reaches
        self.touched += self.rounded_to(w * charge.double(), self.bound_magic).sum(0)

    def select(self, budget: int) -> list[int]:
        return [self.pick() for _ in range(budget)]


def magic_of(largest: float) -> float:
    """The number that rounds to multiples of 2^-51 of a power of two of at least `largest`."""
    return math.ldexp(1.5, math.frexp(largest)[1] + 1) if largest > 0 else 0.0
