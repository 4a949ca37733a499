"""The dense path in Triton: kernel matrices of several problems, made tile by tile, then the greedy loop on all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from difal_kernels._progress import Progress
from difal_kernels.ops._triton import interpreted

from ...kernel_functions import KERNELS
from ...problem import Problem
from ...reference import initial_coverage
from ...result import Result
from ..cuda import dense as cuda_dense
from ..cuda.dense import columns, plan, symmetric
from ..cuda.greedy import pad
from ..cuda.operands import full_precision, matrix_bytes
from .greedy import GROUP, OPTIONS, Engine, Task
from .greedy import workspace_bytes as engine_bytes
from .operands import Panels, aligned, precomputed_model, widened

__all__ = ["columns", "kept_bytes", "passing_bytes", "plan", "select", "symmetric", "workspace_bytes"]

SIDE = 64  # rows and columns of a tile: with 128 the compiler runs out of registers
TILES = 16  # rows of tiles in a launch, at most
BLOCK = 4096  # rows of products with labeled points
LABELS = 8192  # labeled points at a time
MOST_PAIRS = 1 << 27  # uncertain entries that a launch has room for: every entry of as many rows as that allows
PROGRAMS = 4 if interpreted() else 1024  # that settle them


def launch_options() -> dict:
    """Warps and stages of the kernels that multiply."""
    return {"num_warps": 8, "num_stages": 3, **OPTIONS}


def strips(rows: int, columns: int) -> list[tuple[int, int]]:
    """Rows [begin, end) of one launch: whole tiles, TILES of them where the list of uncertain entries allows."""
    step = SIDE * max(1, min(TILES, MOST_PAIRS // (SIDE * columns)))
    return [(b, min(b + step, rows)) for b in range(0, rows, step)]


def pair_bytes(rows: int, columns: int) -> int:
    b, e = strips(rows, columns)[0]
    return 8 * -(-(e - b) // SIDE) * SIDE * (columns + SIDE)


def make_pairs(rows: int, columns: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.empty(pair_bytes(rows, columns) // 8, dtype=torch.int64, device=device)
    return pairs, torch.zeros(1, dtype=torch.int64, device=device)


def kept_bytes(p: Problem) -> int:
    """Bytes held until the last pick."""
    n, d = p.features.shape
    held = n * n * 8 if p.kernel == "precomputed" else n * (d + 64) * p.features.element_size()
    return 4 * n * pad(columns(p)) + held + engine_bytes(n, columns(p))


def passing_bytes(p: Problem) -> int:
    """Bytes held while the matrix is made."""
    if p.kernel == "precomputed":
        return 12 * p.features.numel()
    n, d = p.features.shape
    labels = 0 if p.labeled is None else cuda_dense.label_bytes(p)
    chosen = 0 if symmetric(p) else 4 * columns(p) * (d + 64)
    return matrix_bytes(p) + 4 * n * (d + 64) + labels + chosen + pair_bytes(n, columns(p))


def workspace_bytes(p: Problem) -> int:
    return kept_bytes(p) + passing_bytes(p)


def select(problems: Sequence[Problem], bar: Progress) -> list[Result]:
    """Problems of one batch: of one kernel, dtype and kind of matrix, as `alike` tells."""
    rows = max(len(p.features) for p in problems)
    width = max(columns(p) for p in problems)
    device = problems[0].features.device
    gram = torch.empty(len(problems), rows, pad(width), dtype=torch.float32, device=device)
    make = _precomputed if problems[0].kernel == "precomputed" else _from_features
    tasks = [make(p, gram[b]) for b, p in enumerate(problems)]
    return Engine(tasks, gram, symmetric(problems[0])).run(-1.0, bar)


def _points(p: Problem) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The point of each column, and which may be picked."""
    n, device = len(p.features), p.features.device
    if p.candidates is None or not symmetric(p):
        points = torch.arange(n) if p.candidates is None else p.candidates
        return points.to(device), None
    allowed = torch.zeros(n, dtype=torch.bool, device=device)
    allowed[p.candidates.to(device)] = True
    return torch.arange(n, device=device), allowed


def _from_features(p: Problem, gram: torch.Tensor) -> Task:
    from . import tile_kernels as kernels

    n, width, square = len(p.features), columns(p), symmetric(p)
    panels = Panels(p)
    points, allowed = _points(p)
    chosen, scale = panels.matrix, panels.scale
    if not square:
        chosen, scale = aligned(panels.matrix[points], 64), panels.scale[points].contiguous()
    pairs, length = make_pairs(n, width, gram.device)
    where = panels.where()
    reals = torch.tensor([panels.bandwidth], dtype=torch.float64, device=gram.device)
    options = launch_options()
    constants = {"KIND": KERNELS.index(p.kernel), "WIDEN": widened(), "SYMMETRIC": square, "SIDE": SIDE}
    for b, e in strips(n, width):
        last = e if square else width
        length.zero_()
        kernels.fill[(-(-(e - b) // SIDE), -(-last // SIDE))](
            panels.matrix, chosen, gram, gram.stride(0), panels.units, b, n, width, points, panels.scale, scale,
            where["norms_at"], panels.model, pairs, length, **constants, **options,
        )  # fmt: skip
        kernels.fill_pairs[(PROGRAMS,)](
            pairs, length, gram, gram.stride(0), points, *where.values(), reals, SYMMETRIC=square, num_warps=4,
            **panels.constants(), **OPTIONS,
        )  # fmt: skip
    exact = torch.zeros(n, dtype=torch.float64, device=gram.device)
    cover_labeled(exact, p, panels)
    return Task(
        p, width, points, allowed, panels.features, panels.norms, panels.scale, panels.model, p.budget, exact
    )  # fmt: skip


def cover_labeled(exact: torch.Tensor, p: Problem, panels: Panels) -> None:
    """Raises the coverage to what the labeled points give."""
    if p.labeled is None:
        return
    from . import column_kernels as kernels

    n, rounded = len(p.features), exact.float()
    reals = torch.tensor([panels.bandwidth], dtype=torch.float64, device=exact.device)
    for labeled in p.labeled.split(LABELS):
        plain = labeled.to(panels.features.dtype).contiguous()
        matrix, scale, norms = panels.others(plain)
        rows = torch.zeros(len(plain), panels.features.stride(0), dtype=plain.dtype, device=plain.device)
        rows[:, : plain.shape[1]] = plain  # as far apart as the pool's
        norms_at = 0 if norms is None else norms.data_ptr()
        products = torch.empty(min(BLOCK, n), len(plain), dtype=torch.float32, device=exact.device)
        for b in range(0, n, BLOCK):
            e = min(b + BLOCK, n)
            with full_precision():
                panels.multiply(panels.matrix[b:e], matrix, products[: e - b])
            kernels.cover[(-(-(e - b) // GROUP),)](
                products, products.stride(0), *panels.where().values(), reals, panels.model, panels.scale,
                rows.data_ptr(), scale, norms_at, exact, rounded, b, e, len(plain), num_warps=4,
                **panels.constants(), **OPTIONS,
            )  # fmt: skip


def _precomputed(p: Problem, gram: torch.Tensor) -> Task:
    """The kernel itself is the matrix, copied once."""
    n, width, device = len(p.features), columns(p), p.features.device
    exact = (p.features if p.features.dtype == torch.float64 else p.features.float()).contiguous()
    if exact.data_ptr() % 16:
        exact = exact.clone()
    points, allowed = _points(p)
    gram[:n, :width] = exact if p.candidates is None else exact[:, points]
    scale = torch.zeros(n, dtype=torch.float32, device=device)
    model = precomputed_model(exact.dtype, device)
    return Task(p, width, points, allowed, exact, None, scale, model, p.budget, initial_coverage(p))
