"""The matrix-free path on the GPU: guess the first picks, prove them in one sweep over the tiles, go on with what is
alive. The idea is that of `matrix_free`; here a sweep also counts what is alive, and a last one gathers it, so that
lists are as long as they need to be. csrc/cuda/sweep.cu does the work on tiles, csrc/cuda/greedy.cu the rest.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch

from difal_kernels._native import load
from difal_kernels._progress import Progress
from difal_kernels.ops._gpu import queue

from ...kernel_functions import kernel_of_scaled_square, sample_rows
from ...problem import Problem
from ...result import TIE, Result
from . import dense, greedy
from .operands import Panels, full_precision, matrix_bytes

TILE = 8192  # rows and columns of a tile
BLOCK = 64  # candidates whose kernel columns are made together
TRIED = 128  # candidates whose gain is computed over the whole pool at each guess
SAMPLE = 2048  # rows that guesses are made from
FIRST_GUESSES = 8  # picks guessed before the first sweep, from the sample alone
MOST_GUESSES = 256  # and before any later one
BYTES_PER_ENTRY = 8
MOST_ENTRIES = 3 << 30  # more than this gains nothing: a sweep is cheaper than lists that long
SLACK = 1.3  # how much more may be alive than the sample says


def fixed_bytes(p: Problem) -> int:
    """All but the lists."""
    n = len(p.features)
    labels = 0 if p.labeled is None else dense.label_bytes(p)
    tile = 4 * min(TILE, n) ** 2
    per_guess = (12 + 16 + 20) * n  # coverage, sums, events
    return matrix_bytes(p) + labels + tile + MOST_GUESSES * per_guess + 4 * (3 * TRIED + 2 * min(SAMPLE, n)) * n


def workspace_bytes(p: Problem) -> int:
    """The least that the path can work with: linear in N."""
    n = len(p.features)
    return fixed_bytes(p) + greedy.workspace_bytes(n, n) + 128 * BYTES_PER_ENTRY * n


def plan(p: Problem) -> str:
    return "matrix-free, 0.5 GEMM passes per sweep, 2 to 4 sweeps on data that is not adverse"


def select(p: Problem, limit: int, bar: Progress) -> Result:
    return _Selection(p, limit, bar).run()


def add_up(sums: torch.Tensor) -> torch.Tensor:
    """Each row becomes the sum of itself and all later ones, in place.

    No `cumsum`: where torch is told to be deterministic, it has none for floats on a GPU.
    """
    for step in range(len(sums) - 2, -1, -1):
        sums[step] += sums[step + 1]
    return sums


class _Selection:
    def __init__(self, p: Problem, limit: int, bar: Progress):
        self.p, self.bar, self.n = p, bar, len(p.features)
        self.device = p.features.device
        self.panels = Panels(p)
        self.native = self.panels.native()
        self.weights = p.weights.contiguous()
        first = SimpleNamespace(exact=self.make(torch.float64).zero_(), rounded=self.make(torch.float32).zero_())
        dense.cover_labeled(first, p, self.panels)
        self.levels = [(first.exact, first.rounded)]  # coverage after 0, 1, ... guesses
        spare = limit - fixed_bytes(p) - greedy.workspace_bytes(self.n, self.n)
        self.capacity = min(spare // BYTES_PER_ENTRY, MOST_ENTRIES)
        self.allowed = torch.zeros(self.n, dtype=torch.bool, device=self.device)
        self.allowed[slice(None) if p.candidates is None else p.candidates.to(self.device)] = True
        self.picks: list[int] = []
        self.gains: list[float] = []
        self.contested = 0
        self.known: tuple[int, torch.Tensor] | None = None  # a step, and all gains at it, from the last sweep
        shape = {"laplace": torch.inf, "student_t": 1.5, "rational_quadratic": 0.5}.get(p.kernel, 1.0)
        error, scale = self.panels.error, self.panels.scale.double()
        spread = (error["lambda_"] * shape * (scale + scale.max())).nan_to_num(torch.inf).clamp(max=error["tolerance"])
        spread *= p.kernel not in ("tophat", "cosine")
        self.entry_error = 1.02 * spread + error["relative"] + error["absolute"]  # the most of any entry of a column
        # Gains are added up as multiples of a power of two, of which the sum of the weights has at most 2^51.
        self.total = float(self.weights.sum())
        self.magic = math.ldexp(1.5, math.frexp(self.total)[1] + 1) if self.total > 0 else 0.0
        self.sample = sample_rows(self.n, min(SAMPLE, self.n)).to(self.device)

    def make(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.empty(shape or (self.n,), dtype=dtype, device=self.device)

    def run(self) -> Result:
        while len(self.picks) < self.p.budget:
            done = len(self.picks)
            few = self.guess()
            counts = self.sweep(done, few)
            right = self.prove(done)
            self.bar.update(len(self.picks) - done)
            if counts is None or not right:
                continue
            if int(counts.sum()) > self.capacity:
                self.capacity = int(self.capacity / SLACK)  # the sample said too little: more picks first
            else:
                return self.finish(counts)
        covered = float(self.weights @ self.levels[len(self.picks)][0])
        return self.result(covered)

    def result(self, covered: float) -> Result:
        picks = torch.tensor(self.picks, dtype=torch.int64, device=self.device)
        gains = torch.tensor(self.gains, dtype=torch.float64, device=self.device)
        return Result(picks, gains / self.n, covered / self.n, self.contested)

    def finish(self, counts: torch.Tensor) -> Result:
        """Gathers what is alive and hands it to the greedy loop."""
        p, n, done = self.p, self.n, len(self.picks)
        exact, rounded = self.levels[done]
        self.levels, self.known = [], None
        begin = counts.cumsum(0, dtype=torch.int64) - counts
        entries = max(1, int(counts.sum()))
        lists = {
            "list_begin": begin,
            "list_length": torch.zeros_like(counts),
            "list_point": self.make(torch.int32, entries),
            "list_value": self.make(torch.float32, entries),
        }
        self.gather(rounded, lists)
        open_ = self.allowed.clone()
        open_[self.picks] = False
        keep = (lists, open_.to(torch.uint8), self.panels)
        fields = {name: tensor.data_ptr() for name, tensor in lists.items()}
        fields = {**self.native, **fields, "allowed": keep[1].data_ptr(), "symmetric": True}
        task = greedy.Task(p, fields, n, n, p.budget - done, keep)
        task.exact.copy_(exact)
        task.rounded.copy_(rounded)
        greedy.run([task], True, self.gains[0] if self.gains else -1.0, self.bar)
        rest = task.result(p)
        picks, gains = self.picks + rest.indices.tolist(), self.gains + (rest.gains * n).tolist()
        self.picks, self.gains = picks, gains
        self.contested += rest.contested_picks
        return self.result(rest.coverage * n)

    # Guessing: nothing here has to be right.

    def kernel_rows(self, index: torch.Tensor) -> torch.Tensor:
        """Estimated kernel values of some points with all, (len(index), N) float32."""
        k = self.products(index)
        if self.p.kernel == "cosine":
            return k.clamp_(min=0)
        k.mul_(-2 * self.panels.product).add_(self.panels.scale).add_(self.panels.scale[index][:, None]).clamp_(min=0)
        return kernel_of_scaled_square(k, self.p.kernel)

    def guess(self) -> bool:
        """Guesses picks until few enough entries are alive; whether that is so."""
        p, done = self.p, len(self.picks)
        most = FIRST_GUESSES if self.known is None else MOST_GUESSES
        self.guessed, self.guessed_gains = [], []
        kernel = torch.cat([self.kernel_rows(rows) for rows in self.sample.split(256)])
        weights = (self.weights[self.sample] * (self.n / len(self.sample))).float()
        open_ = self.allowed.clone()
        open_[self.picks] = False
        if self.known is None:
            low = self.levels[done][1][self.sample]
            estimate = torch.zeros(self.n, device=self.device)
            for b in range(0, len(self.sample), 128):
                part = (kernel[b : b + 128] - low[b : b + 128, None]).clamp_(min=0)
                estimate += weights[b : b + 128] @ part
        else:  # all gains some picks ago; only what those took is estimated
            step, gains = self.known
            low, estimate = self.levels[step][1][self.sample], gains.float()
        columns = torch.arange(0, self.n, max(1, self.n // 4096), device=self.device)
        while True:
            level = self.levels[-1][1]
            high = level[self.sample]
            risen = (high > low).nonzero()[:, 0]
            for rows in risen.split(128):
                taken = torch.minimum(kernel[rows], high[rows, None]).sub_(low[rows, None]).clamp_(min=0)
                estimate -= weights[rows] @ taken
            low, count = high, len(self.levels) - 1
            alive = kernel[:, columns] >= torch.minimum(low[:, None], level[columns][None])
            if float(alive.double().mean()) * self.n * self.n * SLACK <= self.capacity:
                return True
            if count - done == most or count == p.budget:
                return False
            j = self.best_of_sample(estimate, open_, level)
            open_[j] = False
            self.guessed_gains.append(self.raise_level(j, self.products(torch.tensor([j], device=self.device))[0]))
            self.guessed.append(j)

    def best_of_sample(self, estimate: torch.Tensor, open_: torch.Tensor, level: torch.Tensor) -> int:
        """Of the candidates that the sample likes best, the one with the largest gain over the whole pool."""
        hopeful = torch.where(open_, estimate, -torch.inf).topk(min(TRIED, int(open_.sum()))).indices
        weights = self.weights.float()
        gains = [self.kernel_rows(index).sub_(level).clamp_(min=0) @ weights for index in hopeful.split(BLOCK)]
        return int(hopeful[torch.cat(gains).argmax()])

    def products(self, index: torch.Tensor) -> torch.Tensor:
        """Inner products of some points with all, (len(index), N) float32."""
        out = self.make(torch.float32, len(index), self.n)
        with full_precision():
            self.panels.multiply(self.panels.matrix[index], self.panels.matrix, out)
        return out

    def column(self, j: int, products: torch.Tensor, level: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
        exact, rounded = self.levels[level]
        segments = -(-self.n // load("_cuda").SEGMENT)
        tensors = {
            "products": products,
            "weights": self.weights,
            "exact": exact,
            "rounded": rounded,
            "gain": self.make(torch.float64, segments),
            "bound": self.make(torch.float64, segments),
            **more,
        }
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        load("_cuda").coverage_column(queue(self.device), self.n, j, **{**self.native, **addresses})
        return tensors

    def raise_level(self, j: int, products: torch.Tensor) -> float:
        """Adds the coverage with point j; its float64 gain."""
        new = {"new_exact": self.make(torch.float64), "new_rounded": self.make(torch.float32)}
        gain = self.column(j, products, len(self.levels) - 1, **new)["gain"]
        self.levels.append((new["new_exact"], new["new_rounded"]))
        return float(gain.sum())

    # Sweeping.

    def tiles(self):
        """Each tile of the half matrix in turn, as kernel values: where it lies for the native code."""
        n, module, where = self.n, load("_cuda"), queue(self.device)
        step = min(TILE, n)
        space = self.make(torch.float32, step * step)
        for b in range(0, n, step):
            e = min(b + step, n)
            for b2 in range(0, b + 1, step):
                e2 = min(b2 + step, n)
                tile = space[: (e - b) * (e2 - b2)].view(e - b, e2 - b2)
                with full_precision():
                    self.panels.multiply(self.panels.matrix[b:e], self.panels.matrix[b2:e2], tile)
                stride, at = e2 - b2, tile.data_ptr()
                shifted = (at - 4 * (b * stride + b2)) % (1 << 64)  # where entry (0, 0) would be
                module.coverage_fill(where, shifted, stride, (b, e, b2, e2), 0, symmetric=b == b2, **self.native)
                yield at, stride, (b, e, b2, e2)

    def events(self, first: int) -> dict[str, torch.Tensor]:
        """For each row the steps that raise it, and what is left to take after the last."""
        levels = torch.stack([rounded for _, rounded in self.levels[first:]], dim=1)  # (N, steps)
        high = torch.cat([levels[:, 1:], torch.full_like(levels[:, :1], torch.inf)], dim=1)
        rises = (high > levels) & (self.weights > 0)[:, None]
        where = rises.nonzero()
        begin = torch.zeros(self.n + 1, dtype=torch.int64, device=self.device)
        begin[1:] = rises.sum(1).cumsum(0)
        return {
            "event_begin": begin,
            "event_step": where[:, 1].to(torch.int32),
            "event_low": levels[rises],
            "event_high": high[rises],
        }

    def sweep(self, first: int, count_alive: bool) -> torch.Tensor | None:
        """Gains at all steps from `first` on, to `taken` and `alive`; the lengths of the lists if asked for."""
        steps = len(self.levels) - first
        self.first = first
        self.taken = torch.zeros(steps, self.n, dtype=torch.float64, device=self.device)
        self.alive = torch.zeros(steps, self.n, dtype=torch.float64, device=self.device)
        tensors = {**self.events(first), "weights": self.weights, "taken": self.taken, "alive": self.alive}
        fields = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        fields = {**self.native, **fields, "points": self.n, "steps": steps, "magic": self.magic}
        module, where = load("_cuda"), queue(self.device)
        counts = torch.zeros(self.n, dtype=torch.int32, device=self.device) if count_alive else None
        allowed = self.allowed.to(torch.uint8)
        rounded = self.levels[-1][1]
        for tile in self.tiles():
            module.coverage_take(where, tile, **fields)
            if counts is not None:
                lists = {"floor": rounded, "allowed": allowed, "list_length": counts}
                module.coverage_gather(where, tile, **self.native, **{k: v.data_ptr() for k, v in lists.items()})
        return counts

    def gather(self, rounded: torch.Tensor, lists: dict[str, torch.Tensor]) -> None:
        allowed = self.allowed.to(torch.uint8)
        fields = {name: tensor.data_ptr() for name, tensor in {**lists, "floor": rounded, "allowed": allowed}.items()}
        for tile in self.tiles():
            load("_cuda").coverage_gather(queue(self.device), tile, **self.native, **fields)

    # Proving.

    def prove(self, done: int) -> bool:
        """Accepts guesses up to the first wrong one, which it puts right; whether all were right."""
        open_ = self.allowed.clone()
        open_[self.picks] = False
        gains, alive = add_up(self.taken), add_up(self.alive)
        for step, (guess, guess_gain) in enumerate(zip(self.guessed, self.guessed_gains, strict=True)):
            t = done + step
            winner, gain = self.contest(t, guess, guess_gain, gains[step], alive[step], open_)
            self.picks.append(winner)
            self.gains.append(gain)
            open_[winner] = False
            if winner != guess:
                self.known = t, gains[step].clone()
                del self.levels[t + 1 :]
                self.raise_level(winner, self.products(torch.tensor([winner], device=self.device))[0])
                return False
        self.known = done + len(self.guessed), gains[-1].clone()
        return True

    def contest(self, t, guess, guess_gain, gains, alive, open_) -> tuple[int, float]:
        """The pick of step t: the guess, or who beats it in float64."""
        drift = 2.0**-49 * self.n * self.total  # rounding of the sums in `gains`
        upper = torch.where(open_, gains + self.entry_error * alive + drift, -torch.inf)
        upper[guess] = -torch.inf
        best, settled = guess_gain, {guess: guess_gain}

        def tie() -> float:
            return TIE * (self.gains[0] if self.gains else max(best, 0.0))

        rivals = (upper >= best - tie()).nonzero()[:, 0]
        rivals = rivals[upper[rivals].argsort(descending=True, stable=True)]
        for index in rivals.split(BLOCK):
            index = index[upper[index] >= best - tie()]
            if not len(index):
                break
            for j, row in zip(index.tolist(), self.products(index), strict=True):
                sums = self.column(j, row, t)
                if float(sums["gain"].sum() + sums["bound"].sum()) < best - tie():
                    continue
                new = {"new_exact": self.make(torch.float64), "new_rounded": self.make(torch.float32)}
                settled[j] = float(self.column(j, row, t, **new)["gain"].sum())
                best = max(best, settled[j])
        self.contested += len(settled) > 1
        winner = min(j for j, gain in settled.items() if gain >= best - tie())
        return winner, settled[winner]
