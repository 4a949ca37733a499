"""The matrix-free path: guess the first picks, prove them in one sweep over the tiles, go on with what is alive.

Coverage m only grows, so an entry k_ij <= m_i never matters again, and after t picks about 1 / (t + 1) of all entries
matter. The first picks are guessed from a sample of rows, which needs no proof; a sweep over the half matrix, tile
by tile, then gives every candidate's gain at every guessed step (csrc/include/difal/sweep.h), which proves the guesses
or corrects the first wrong one, and gathers the entries that are alive. The rest is greedy on those.
"""

from __future__ import annotations

import torch

from ..._progress import Progress
from .engine import cover_labeled, make_engine, run_picks
from .kernels import kernel_of_scaled_square, sample_rows
from .panels import Panels, full_precision, is_native, panel_rows
from .problem import Problem
from .result import TIE, Result

TILE = 1024  # rows and columns of a tile
BLOCK = 64  # candidates whose kernel columns are made together
TRIED = 128  # candidates whose gain is computed over the whole pool at each guess
FIRST_GUESSES = 8  # picks guessed before the first sweep, from the sample alone
MOST_GUESSES = 64  # and before any later one
BYTES_PER_ENTRY = 9  # 8, and the rest of its block
SLACK = 1.3  # how much more may be alive than the sample says


def workspace_bytes(p: Problem) -> int:
    """The least that the path can work with: linear in N."""
    return _fixed_bytes(p) + len(p.features) * (4 * 256 + 128 * BYTES_PER_ENTRY)


def _fixed_bytes(p: Problem) -> int:
    n, d = p.features.shape
    copies = 0 if is_native(p.features) else n * d * (8 if p.features.dtype == torch.float64 else 4)
    height = panel_rows(n, d)
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), height) * n
    tiles = 2 * 4 * min(TILE, height) ** 2 + 2 * 4 * height * d
    per_guess = (12 + 8 + 24) * n  # coverage, what it took, a few events
    return copies + labels + tiles + MOST_GUESSES * per_guess + 4 * (BLOCK + TRIED) * n + 200 * n


def plan(p: Problem) -> str:
    return "matrix-free, 0.5 GEMM passes per sweep, 1 to 3 sweeps on data that is not adverse"


def select(p: Problem, limit: int, bar: Progress) -> Result:
    return _Selection(p, limit, bar).run()


class _Selection:
    def __init__(self, p: Problem, limit: int, bar: Progress):
        self.p, self.bar = p, bar
        self.n = len(p.features)
        self.panels = Panels(p)
        self.sweep, self.keep = make_engine(
            "Sweep", p, self.panels.features, self.panels.scale, None, True, self.panels.error
        )
        spare = limit - _fixed_bytes(p)
        self.sample_size = int(min(4096, self.n, spare // 2 // (4 * self.n)))
        self.capacity = int((spare - 4 * self.sample_size * self.n) // BYTES_PER_ENTRY)
        self.allowed = torch.zeros(self.n, dtype=torch.bool)
        self.allowed[slice(None) if p.candidates is None else p.candidates] = True
        self.picks: list[int] = []
        self.gains: list[float] = []
        self.contested = 0
        self.known: tuple[int, torch.Tensor] | None = None  # a step, and all gains at it, from the last sweep
        shape = {"laplace": torch.inf, "student_t": 1.5, "rational_quadratic": 0.5}.get(p.kernel, 1.0)
        error, scale = self.panels.error, self.panels.scale.double()
        spread = (error["lambda_"] * shape * (scale + scale.max())).nan_to_num(torch.inf).clamp(max=error["tolerance"])
        spread *= p.kernel not in ("tophat", "cosine")
        self.entry_error = 1.02 * spread + error["relative"] + error["absolute"]  # the most of any entry of a column

    def run(self) -> Result:
        cover_labeled(self.sweep, self.p, self.panels)
        while len(self.picks) < self.p.budget:
            done = len(self.picks)
            alive_at = self.guess()
            self.run_sweep(done, alive_at)
            self.prove(done)
            self.bar.update(len(self.picks) - done)
            if alive_at is None:
                continue
            if not self.sweep.gathered():
                self.capacity = int(self.capacity / SLACK)  # the sample said too little: more picks first
            elif len(self.picks) >= alive_at:
                return self.finish(alive_at)
        covered = torch.empty(self.n, dtype=torch.float64)
        self.sweep.copy_coverage(len(self.picks), covered.data_ptr(), self.n)
        return self.result(float(self.p.weights @ covered))

    def finish(self, alive_at: int) -> Result:
        """Greedy on the alive entries."""
        del self.picks[alive_at:], self.gains[alive_at:]
        rest = self.p.budget - alive_at
        picked = torch.tensor(self.picks, dtype=torch.int64)
        picks, gains = torch.empty(rest, dtype=torch.int64), torch.empty(rest, dtype=torch.float64)
        self.sweep.start(self.gains[0] if self.gains else -1.0, picked.data_ptr())
        run_picks(self.sweep, picks, gains, self.bar)
        self.picks += picks.tolist()
        self.gains += gains.tolist()
        self.contested += self.sweep.stats()["contested"]
        return self.result(self.sweep.covered())

    def result(self, covered: float) -> Result:
        picks = torch.tensor(self.picks, dtype=torch.int64)
        gains = torch.tensor(self.gains, dtype=torch.float64)
        return Result(picks, gains / self.n, covered / self.n, self.contested)

    # Guessing: nothing here has to be right.

    def make_sample(self) -> None:
        """Kernel values of some rows with all points, (sample_size, N) float32."""
        rows = sample_rows(self.n, self.sample_size)
        self.rows = rows
        self.kernel = torch.empty(len(rows), self.n)
        for start in range(0, len(rows), self.panels.height):
            some = rows[start : start + self.panels.height]
            own = self.panels.rows(self.panels.features[some], 0)
            for b, e in self.panels.blocks:
                torch.mm(
                    own,
                    self.panels.rows(self.panels.features[b:e], 1).T,
                    out=self.kernel[start : start + len(some), b:e],
                )
        for at in range(len(rows)):
            row = self.kernel[at]
            if self.p.kernel == "cosine":
                row.clamp_(min=0)
            else:
                row.mul_(-2).add_(self.panels.scale).add_(self.panels.scale[rows[at]]).clamp_(min=0)
                kernel_of_scaled_square(row, self.p.kernel)
        self.sample_weights = self.p.weights[rows] * (self.n / len(rows))

    def sample_level(self, count: int) -> torch.Tensor:
        m = torch.empty(self.n, dtype=torch.float64)
        self.sweep.copy_coverage(count, m.data_ptr(), self.n)
        self.level = m
        return m[self.rows].float()

    def alive_estimate(self) -> float:
        """Entries that would be gathered now: pairs of which either may still use the other."""
        columns = torch.arange(0, self.n, max(1, self.n // 4096))
        m = self.level.float()
        alive = self.kernel[:, columns] >= torch.minimum(m[self.rows][:, None], m[columns][None])
        return float(alive.double().mean()) * self.n * self.n

    def guess(self) -> int | None:
        """Guess picks until few enough entries are alive; the number of picks after which they are, or None."""
        p, done = self.p, len(self.picks)
        most = FIRST_GUESSES if self.known is None else MOST_GUESSES
        self.guessed, self.guessed_gains = [], []
        self.make_sample()
        open_ = self.allowed.clone()
        open_[self.picks] = False
        if self.known is None:
            level = self.sample_level(done)
            estimate = torch.zeros(self.n)
            for at in range(len(self.rows)):  # row by row: the sample is the largest thing in memory
                estimate.add_((self.kernel[at] - level[at]).clamp_(min=0), alpha=float(self.sample_weights[at]))
        else:  # all gains some picks ago; only what those took is estimated
            step, gains = self.known
            level, estimate = self.sample_level(step), gains.float()
            level = self.lower(estimate, level, self.sample_level(done))
        while True:
            count = self.sweep.guesses()
            if self.alive_estimate() * SLACK <= self.capacity:
                return count
            if count - done == most or count == p.budget:
                return None
            j = self.best_of_sample(estimate, open_)
            open_[j] = False
            products = self.products(torch.tensor([j]))
            self.guessed_gains.append(self.sweep.guess(j, products.data_ptr()))
            self.guessed.append(j)
            level = self.lower(estimate, level, self.sample_level(count + 1))

    def lower(self, estimate: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Take from the estimates what the sample says that a rise of the coverage from low to high takes."""
        for at in (high > low).nonzero()[:, 0].tolist():
            taken = self.kernel[at].clamp(float(low[at]), float(high[at])).sub_(float(low[at]))
            estimate.sub_(taken, alpha=float(self.sample_weights[at]))
        return high

    def best_of_sample(self, estimate: torch.Tensor, open_: torch.Tensor) -> int:
        """Of the candidates that the sample likes best, the one with the largest gain over the whole pool."""
        hopeful = torch.where(open_, estimate, -torch.inf).topk(min(TRIED, int(open_.sum()))).indices
        m, w = self.level.float(), self.p.weights.float()
        gains = torch.empty(len(hopeful))
        for start in range(0, len(hopeful), BLOCK):
            index = hopeful[start : start + BLOCK]
            k = self.products(index)
            if self.p.kernel == "cosine":
                k.clamp_(min=0)
            else:
                k.mul_(-2).add_(self.panels.scale).add_(self.panels.scale[index][:, None]).clamp_(min=0)
                kernel_of_scaled_square(k, self.p.kernel)
            gains[start : start + len(index)] = k.sub_(m).clamp_(min=0) @ w
        return int(hopeful[gains.argmax()])

    # Proving.

    def products(self, index: torch.Tensor) -> torch.Tensor:
        """Inner products of some points with all, (len(index), N) float32."""
        out = torch.empty(len(index), self.n)
        own = self.panels.rows(self.panels.features[index], 0)
        with full_precision():
            for b, e in self.panels.blocks:
                torch.mm(own, self.panels.rows(self.panels.features[b:e], 1).T, out=out[:, b:e])
        return out

    def run_sweep(self, first: int, alive_at: int | None) -> None:
        features, panels = self.panels.features, self.panels
        del self.kernel  # its memory is for what is alive
        self.sweep.begin(first, alive_at or 0, self.capacity if alive_at is not None else 0)
        step = min(TILE, panels.height)
        tile, turned = torch.empty(step * step), torch.empty(step * step)
        with full_precision():
            for b in range(0, self.n, step):
                e = min(b + step, self.n)
                own = panels.rows(features[b:e], 0)
                for b2 in range(0, b + 1, step):
                    e2 = min(b2 + step, self.n)
                    other = own if b2 == b else panels.rows(features[b2:e2], 1)
                    torch.mm(own, other.T, out=tile[: (e - b) * (e2 - b2)].view(e - b, e2 - b2))
                    self.sweep.tile(b, e, b2, e2, tile.data_ptr(), turned.data_ptr())

    def prove(self, done: int) -> None:
        """Accept the guesses up to the first wrong one, and put the right one in its place."""
        gains = torch.empty(self.n, dtype=torch.float64)
        alive = torch.empty(self.n, dtype=torch.float64)
        open_ = self.allowed.clone()
        open_[self.picks] = False
        for step, (guess, guess_gain) in enumerate(zip(self.guessed, self.guessed_gains, strict=True)):
            t = done + step
            self.sweep.gains(t, gains.data_ptr(), alive.data_ptr())
            winner, gain = self.contest(t, guess, guess_gain, gains, alive, open_)
            self.picks.append(winner)
            self.gains.append(gain)
            open_[winner] = False
            if winner != guess:
                self.known = t, gains
                self.sweep.keep(t)
                products = self.products(torch.tensor([winner]))
                self.sweep.guess(winner, products.data_ptr())
                return
        self.sweep.gains(done + len(self.guessed), gains.data_ptr(), alive.data_ptr())
        self.known = done + len(self.guessed), gains

    def contest(self, t, guess, guess_gain, gains, alive, open_) -> tuple[int, float]:
        """The pick of step t: the guess, or who beats it in float64."""
        drift = 2.0**-52 * 2 * self.n * float(gains.max())  # rounding of the sums in `gains`
        upper = torch.where(open_, gains + self.entry_error * alive + drift, -torch.inf)
        upper[guess] = -torch.inf
        best, settled = guess_gain, {guess: guess_gain}

        def tie() -> float:
            return TIE * (self.gains[0] if self.gains else max(best, 0.0))

        rivals = (upper >= best - tie()).nonzero()[:, 0]
        rivals = rivals[upper[rivals].argsort(descending=True, stable=True)]
        for start in range(0, len(rivals), BLOCK):
            index = rivals[start : start + BLOCK]
            index = index[upper[index] >= best - tie()]
            if not len(index):
                break
            products = self.products(index)
            for j, row in zip(index.tolist(), products, strict=True):
                gain = self.sweep.settle(j, row.data_ptr(), True, t, best - tie())
                if gain >= 0:
                    settled[j] = gain
                    best = max(best, gain)
        self.contested += len(settled) > 1
        winner = min(j for j, gain in settled.items() if gain >= best - tie())
        return winner, settled[winner]
