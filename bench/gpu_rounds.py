"""What the GPU's selection loop would do on the benchmark's data, counted on the host: `python bench/gpu_rounds.py`.

No kernel of a GPU runs here and nothing is timed. The dense cases run loop_model.py, which a test holds against the
emulated kernels; the matrix-free ones run the algorithm itself on the processor with the rules that a GPU guesses by,
room for as large a share of alive entries as a GPU has, and count its sweeps.

    python bench/gpu_rounds.py local camvid        the full sizes: minutes, and some GiB
    python bench/gpu_rounds.py cityscapes million  theirs: an hour, and two and a half, of two cores
    python bench/gpu_rounds.py --scale 0.1         all cases, with a tenth of the points and of the budget
    python bench/gpu_rounds.py --chunk 2048        the bound of longer sums on the tensor cores
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from command import Parser, name_of
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu import free_memory
from difal_kernels.ops.maxherding.backends.cpu.tiled import BYTES_PER_ENTRY
from difal_kernels.ops.maxherding.backends.gpu import GUESSING, GpuTuning
from difal_kernels.ops.maxherding.backends.gpu.operands import CHUNKS
from difal_kernels.ops.maxherding.bounds import error_model, tensor_core_rel_err
from difal_kernels.ops.maxherding.matrix_free import MatrixFreeSelection
from difal_kernels.ops.maxherding.plan import needed
from difal_kernels.ops.maxherding.problem import prepare
from gpu_cases import Machine, clusters
from loop_model import LoopModel

BANDWIDTH = 1.5
THREADS = 384
MULTIPROCESSORS = 132
# Points, numbers, budget, and selections that share the GPU.
DENSE = {"local": (10_000, 6144, 50, 64), "camvid": (18_350, 6144, 9175, 1)}
TILED = {"cityscapes": (148_750, 6144, 74_375), "million": (1_000_000, 512, 10_000)}


def estimates(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 kernel values, equal to their transpose, and squared norms."""
    n, step = len(x), 2048
    sq_norms = (x.double().norm(dim=1) / BANDWIDTH).square().float()
    k = torch.empty(n, n)
    for b in range(0, n, step):
        e = min(b + step, n)
        torch.mm(x[b:e], x[:e].T, out=k[b:e, :e])
        k[b:e, :e].mul_(-2 / BANDWIDTH**2).add_(sq_norms[b:e, None]).add_(sq_norms[:e]).clamp_(min=0).neg_().exp_()
        square = k[b:e, b:e]
        square.copy_(square.tril() + square.tril(-1).T)
        k[:b, b:e] = k[b:e, :b].T
    k.fill_diagonal_(1.0)
    return k, sq_norms


def dense(name: str, scale: float, chunk: int, budget: int | None) -> dict:
    points, d, most, together = DENSE[name]
    n = max(64, round(points * scale))
    budget = min(n, budget or max(1, round(most * (scale if most > 50 else 1))))
    x = clusters(Machine(torch.device("cpu"), False), n, d).float()
    k, sq_norms = estimates(x)

    def exact(j: int, rows: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(rows), dtype=torch.float64)
        for part, to in zip(rows.split(1024), out.split(1024), strict=True):
            to.copy_((x[part].double() - x[j].double()).square_().sum(1).div_(-(BANDWIDTH**2)).exp_())
        return out

    model = error_model("rbf", tensor_core_rel_err(d, chunk))
    blocks = max(1, min(MULTIPROCESSORS // together, -(-n // 64)))
    loop = LoopModel(k, exact, model, "rbf", sq_norms, torch.ones(n, dtype=torch.float64), blocks, THREADS)
    loop.select(budget)
    counts = loop.counts
    return {
        "points": n,
        "dimension": d,
        "budget": budget,
        "blocks": blocks,
        "chunk": chunk,
        "bound": model.sq_dist_rel_err,
        "rounds_a_pick": counts.rounds / budget,
        "settled_a_pick": counts.settled_candidates / budget,
        "barriers_a_pick": counts.barriers / budget,
        "float64_rows_over_n": counts.float64_rows / n,
        "rows_updated_over_n": counts.rows_updated / n,
        "rounds_at_worst": max(rounds for rounds, _ in loop.per_pick),
    }


class RowsMultiplied:
    """Counts the rows that are multiplied with all points outside of sweeps, by what they are for."""

    def __init__(self, selection: MatrixFreeSelection):
        self.rows = {"guessing": 0, "proving": 0, "correcting": 0}
        self.corrections, self.stage = 0, "proving"
        tiles, guesser = selection.tiles, selection.guesser
        tiles.products = partial(self.counted, tiles.products)
        tiles.each_tile = partial(self.counted, tiles.each_tile)
        guesser.guess = partial(self.staged, "guessing", guesser.guess)
        selection.correct = partial(self.staged, "correcting", selection.correct)

    def counted(self, multiply, index, *arguments):
        self.rows[self.stage] += len(index)
        return multiply(index, *arguments)

    def staged(self, stage, run, *arguments):
        self.stage = stage
        self.corrections += stage == "correcting"
        try:
            return run(*arguments)
        finally:
            self.stage = "proving"

    def in_sweeps(self, n: int) -> dict[str, float]:
        """The kernel values of these rows over those of a sweep, which makes half of the square."""
        return {stage: round(2 * rows / n, 3) for stage, rows in self.rows.items()}


class CountedSelection(MatrixFreeSelection):
    """The same up to the pass that gathers, for lists that fit a GPU's memory and not this machine's."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        sweep = self.tiles.sweep
        self.tiles.sweep = lambda first, gather, wanted: sweep(first, False, wanted)

    def gather(self, wanted: torch.Tensor | None) -> None:
        self.started = True


def tiled(name: str, scale: float, dimension: int | None, kept: bool | None = None) -> dict:
    """`kept`: whether the last pass is made, too; by itself, where its lists take half of the free memory at most."""
    points, d, most = TILED[name]
    d = dimension or d
    n, budget = round(points * scale), round(most * scale)
    x = clusters(Machine(torch.device("cpu"), False), n, d).float()
    backend = replace(BACKENDS["cpu"], path="matrix-free", guessing=GUESSING)
    sweeps = []

    with torch.no_grad():
        batch = prepare(x, budget, bandwidth=BANDWIDTH)
        (p,) = batch.problems
        limit = needed(backend, p, "matrix-free") + 12 * GpuTuning().max_entries
        tiles = backend.tiled_greedy(p, limit, budget)
        # A GPU has room for so large a share of the pairs, and gathers for all candidates.
        tiles.capacity = int(GpuTuning().max_entries / points**2 * n**2)
        tiles.gathers_some = False
        if kept is None:
            kept = BYTES_PER_ENTRY * tiles.capacity < free_memory() / 2
        with tiles.working():
            selection = (MatrixFreeSelection if kept else CountedSelection)(backend, p, tiles, budget)
            multiplied = RowsMultiplied(selection)
            while not selection.started and len(selection.picks) < budget:
                before = len(selection.picks)
                selection.prepare()
                sweeps.append(len(selection.picks) - before)
                print(
                    f"{name}: sweep {len(sweeps)} proved {sweeps[-1]} picks; wrong guesses so far: "
                    f"{multiplied.corrections}; products besides, in sweeps: {multiplied.in_sweeps(n)}",
                    file=sys.stderr,
                    flush=True,
                )
            alive = None
            if selection.started:
                alive = tiles.entries() if kept else selection.guesser.alive_estimate(tiles.coverage(tiles.guesses()))
    return {
        "points": n,
        "dimension": d,
        "budget": budget,
        "sweeps": len(sweeps),
        "picks_proven_by_each": sweeps,
        "passes": len(sweeps) + selection.started,
        "passes_are": "sweeps, and the one that gathers",
        "wrong_guesses": multiplied.corrections,
        "products_besides_in_sweeps": multiplied.in_sweeps(n),
        "gathered": selection.started and kept,
        "alive_over_room": None if alive is None else alive / tiles.capacity,
    }


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "cases",
        nargs="*",
        type=name_of((*DENSE, *TILED), "case"),
        default=[*DENSE, *TILED],
        help="; ".join([*DENSE, *TILED]),
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the points, and of a long budget")
    parser.add_argument("--chunk", type=int, default=CHUNKS[False], help="products that a tensor core adds up")
    parser.add_argument("--budget", type=int, help="fewer picks than the case has")
    parser.add_argument("--dimension", type=int, help="numbers of a row, of the matrix-free cases")
    parser.add_argument("--out", type=Path, help="a JSON file that the rows are added to")
    options = parser.parse_args()
    for name in options.cases:
        began = time.monotonic()
        if name in DENSE:
            row = dense(name, options.scale, options.chunk, options.budget)
        else:
            row = tiled(name, options.scale, options.dimension)
        row = {"case": name, **row, "seconds_on_the_host": round(time.monotonic() - began, 1)}
        print(json.dumps(row), flush=True)
        if options.out:
            rows = json.loads(options.out.read_text()) if options.out.exists() else []
            options.out.write_text(json.dumps([*rows, row], indent=1) + "\n")


if __name__ == "__main__":
    main()
