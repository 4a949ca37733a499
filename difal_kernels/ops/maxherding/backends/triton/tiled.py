"""The matrix-free path in Triton: as `cuda_matrix_free`, but tiles never reach memory.

There a GEMM writes a tile that other kernels read; here the kernel that multiplies also adds up what rows take
from columns at each guessed step (`sweep`), and later keeps the entries that are alive (`gather`).
"""

from __future__ import annotations

import math

import torch

from difal_kernels._progress import Progress

from ...kernel_functions import KERNELS, sample_rows
from ...problem import Problem
from ...result import Result
from ..cpu.operands import UNIT
from ..cuda import dense as cuda_dense
from ..cuda import tiled as cuda_matrix_free
from ..cuda.operands import full_precision, matrix_bytes
from ..cuda.tiled import BYTES_PER_ENTRY, MOST_GUESSES, SAMPLE, TRIED
from .dense import PROGRAMS, SIDE, cover_labeled, launch_options, make_pairs, pair_bytes, strips
from .greedy import GROUP, OPTIONS, Engine, Task
from .greedy import workspace_bytes as engine_bytes
from .operands import Panels, model_of, widened

ROOM = 32  # entries of a list beyond those counted


def fixed_bytes(p: Problem) -> int:
    """All but the lists."""
    n, d = p.features.shape
    labels = 0 if p.labeled is None else cuda_dense.label_bytes(p)
    per_guess = (12 + 16 + 4) * n  # coverage, sums, levels
    padded = n * 64 * 8 + 4 * n * d
    return (
        matrix_bytes(p)
        + padded
        + labels
        + pair_bytes(n, n)
        + MOST_GUESSES * per_guess
        + 4 * (3 * TRIED + 2 * min(SAMPLE, n)) * n
    )


def workspace_bytes(p: Problem) -> int:
    """The least that the path can work with: linear in N."""
    n = len(p.features)
    return fixed_bytes(p) + engine_bytes(n, n) + 128 * BYTES_PER_ENTRY * n


def plan(p: Problem) -> str:
    return "matrix-free, 0.5 GEMM passes per sweep, 2 to 4 sweeps on data that is not adverse, and 1 pass to gather"


def select(p: Problem, limit: int, bar: Progress) -> Result:
    return _Selection(p, limit, bar).run()


class _Selection(cuda_matrix_free._Selection):
    """Guesses and proofs are inherited; what touches the kernel is here."""

    def __init__(self, p: Problem, limit: int, bar: Progress):
        self.p, self.bar, self.n = p, bar, len(p.features)
        self.device = p.features.device
        self.panels = panels = Panels(p)
        self.weights = p.weights.contiguous()
        self.reals = torch.tensor([panels.bandwidth], dtype=torch.float64, device=self.device)
        exact = torch.zeros(self.n, dtype=torch.float64, device=self.device)
        cover_labeled(exact, p, panels)
        self.levels = [(exact, exact.float())]  # coverage after 0, 1, ... guesses
        spare = limit - fixed_bytes(p) - engine_bytes(self.n, self.n)
        self.capacity = min(spare // BYTES_PER_ENTRY, cuda_matrix_free.MOST_ENTRIES)
        self.allowed = torch.zeros(self.n, dtype=torch.bool, device=self.device)
        self.allowed[slice(None) if p.candidates is None else p.candidates.to(self.device)] = True
        self.picks: list[int] = []
        self.gains: list[float] = []
        self.contested = 0
        self.known: tuple[int, torch.Tensor] | None = None
        shape = {"laplace": torch.inf, "student_t": 1.5, "rational_quadratic": 0.5}.get(p.kernel, 1.0)
        error, scale = panels.error, panels.scale.double()
        spread = (error["lambda_"] * shape * (scale + scale.max())).nan_to_num(torch.inf).clamp(max=error["tolerance"])
        spread *= p.kernel not in ("tophat", "cosine")
        # The most of any entry of a column, and float32 sums of a tile's terms, weights rounded too.
        summing = 1.01 * (SIDE + 4) * UNIT
        self.entry_error = 1.02 * spread + error["relative"] + error["absolute"] + summing
        self.total = float(self.weights.sum())
        # Weights in units of a power of two that is at least their sum: sums are multiples of 2^-51 of it.
        self.unit = math.ldexp(1.0, math.frexp(self.total)[1]) if self.total > 0 else 1.0
        self.shares = (self.weights / self.unit).float()
        self.magic = torch.tensor([3.0], dtype=torch.float64, device=self.device)
        self.sample = sample_rows(self.n, min(SAMPLE, self.n)).to(self.device)
        self.pairs, self.pair_count = make_pairs(self.n, self.n, self.device)
        self.tiled = {"KIND": KERNELS.index(p.kernel), "WIDEN": widened(), "SIDE": SIDE}

    def products(self, index: torch.Tensor) -> torch.Tensor:
        out = self.make(torch.float32, len(index), self.n)
        with full_precision():
            self.panels.multiply(self.panels.matrix[index], self.panels.matrix, out)
        return out

    def column(self, j: int, products: torch.Tensor, level: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
        from . import column_kernels as kernels

        exact, rounded = self.levels[level]
        groups = -(-self.n // GROUP)
        gain, bound = self.make(torch.float64, groups), self.make(torch.float64, groups)
        new = more.get("new_exact", exact), more.get("new_rounded", rounded)
        kernels.column[(groups,)](
            products, *self.panels.where().values(), self.reals, self.panels.model, self.panels.scale, self.weights,
            exact, rounded, *new, gain, bound, self.n, j, EXACT=bool(more), num_warps=4, **self.panels.constants(),
            **OPTIONS,
        )  # fmt: skip
        return {"gain": gain, "bound": bound}

    def sweep(self, first: int, count_alive: bool) -> torch.Tensor | None:
        """Gains at all steps from `first` on, to `taken` and `alive`; the lengths of the lists if asked for."""
        from . import tile_kernels as kernels

        n, panels, steps = self.n, self.panels, len(self.levels) - first
        levels = torch.stack([rounded for _, rounded in self.levels[first:]] + [self.make(torch.float32)])
        levels[-1] = torch.inf
        self.taken = torch.zeros(steps, n, dtype=torch.float64, device=self.device)
        self.alive = torch.zeros(steps, n, dtype=torch.float64, device=self.device)
        counts = torch.zeros(n, dtype=torch.int32, device=self.device)
        allowed = self.allowed.to(torch.uint8)
        sums = (levels, self.shares, self.taken, self.alive)
        where = panels.where()
        for b, e in strips(n, n):
            self.pair_count.zero_()
            kernels.sweep[(-(-(e - b) // SIDE), -(-e // SIDE))](
                panels.matrix, panels.units, b, n, panels.scale, where["norms_at"], panels.model, *sums, steps,
                self.magic, self.levels[-1][1], allowed, counts, self.pairs, self.pair_count, int(count_alive),
                **self.tiled, **launch_options(),
            )  # fmt: skip
            kernels.sweep_pairs[(PROGRAMS,)](
                self.pairs, self.pair_count, *where.values(), self.reals, panels.model, *sums, n, steps, self.magic,
                SIDE=SIDE, num_warps=4, **panels.constants(), **OPTIONS,
            )  # fmt: skip
        self.taken *= self.unit
        self.alive *= self.unit
        return counts if count_alive else None

    def finish(self, counts: torch.Tensor) -> Result:
        """Gathers what is alive and hands it to the greedy loop."""
        p, n, done = self.p, self.n, len(self.picks)
        exact, rounded = self.levels[done]
        self.levels, self.known = [], None
        lists = self.gather(rounded, counts.to(torch.int64))
        open_ = self.allowed.clone()
        open_[self.picks] = False
        # Entry (i, j) of list i need not be that of list j to the last bit, so the difference is charged as well.
        error = {name: 2 * value for name, value in self.panels.error.items()}
        model = model_of({**error, "product": self.panels.product}, self.device)
        points = torch.arange(n, device=self.device)
        panels = self.panels
        task = Task(
            p, n, points, open_, panels.features, panels.norms, panels.scale, model, p.budget - done, exact, lists=lists
        )
        (rest,) = Engine([task], None, True).run(self.gains[0] if self.gains else -1.0, self.bar)
        self.picks += rest.indices.tolist()
        self.gains += (rest.gains * n).tolist()
        self.contested += rest.contested_picks
        return self.result(rest.coverage * n)

    def gather(self, rounded: torch.Tensor, counts: torch.Tensor) -> dict[str, torch.Tensor]:
        """The live entries of each row, in the order of the points."""
        from . import tile_kernels as kernels

        n, panels = self.n, self.panels
        allowed = self.allowed.to(torch.uint8)
        where = panels.where()
        while True:
            room = counts + ROOM
            begin = torch.zeros(n + 1, dtype=torch.int64, device=self.device)
            begin[1:] = room.cumsum(0)
            entries = int(begin[-1])
            lists = {
                "list_begin": begin,
                "list_length": torch.empty(n, dtype=torch.int32, device=self.device),
                "list_point": self.make(torch.int32, entries),
                "list_value": self.make(torch.float32, entries),
            }
            kernels.gather[(-(-n // SIDE),)](
                panels.matrix, panels.units, n, panels.scale, where["norms_at"], panels.model, rounded, allowed,
                *lists.values(), **self.tiled, **launch_options(),
            )  # fmt: skip
            if bool((lists["list_length"] <= room).all()):
                break
            counts = lists["list_length"].to(torch.int64)  # more than the sweep counted: now it is known
        kernels.repair_lists[(n,)](
            *lists.values(), *where.values(), self.reals, num_warps=4, **panels.constants(), **OPTIONS
        )
        return lists
