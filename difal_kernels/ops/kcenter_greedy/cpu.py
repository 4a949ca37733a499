"""Farthest-first traversal on the CPU: csrc/include/difal/farthest.h."""

from __future__ import annotations

import torch

from ..._native import load, num_threads
from ..._progress import Progress
from .._cpu import supports, unavailable
from .._pool import Pool
from ..maxherding.backends.cpu.greedy import NUMBER_TYPES, run_picks
from ..maxherding.backends.cpu.operands import copy_bytes, is_native, native
from .result import Centers

__all__ = ["plan", "run", "supports", "unavailable"]

LABELED_AT_ONCE = 1024  # between two looks at Ctrl-C
BYTES_PER_POINT = 29
BYTES_PER_NUMBER = 4  # of a centre, at most


def plan(pool: Pool) -> str:
    n, d = pool.features.shape
    centers = pool.budget + (0 if pool.labeled is None else len(pool.labeled))
    per_number = BYTES_PER_NUMBER + (0 if is_native(pool.features) else 4)  # narrow centres are kept as float32, too
    workspace = (copy_bytes(pool.features) + BYTES_PER_POINT * n + per_number * centers * d) / 2**20
    return f"   at most {n} x {centers} distances of {d} numbers are bounded, workspace {workspace:.1f} MiB"


def run(pool: Pool) -> Centers:
    features, allowed = pool.features.contiguous(), pool.allowed().to(torch.uint8)
    labeled = None if pool.labeled is None else native(pool.labeled)
    engine = load("_cpu").Farthest(
        rows=len(features),
        dimension=features.shape[1],
        type=NUMBER_TYPES.index(features.dtype),
        features=features.data_ptr(),
        allowed=allowed.data_ptr(),
        threads=num_threads(),
    )
    for rows in () if labeled is None else labeled.split(LABELED_AT_ONCE):
        engine.cover(rows.data_ptr(), len(rows))
    picks = torch.empty(pool.budget, dtype=torch.int64)
    distances = torch.empty(pool.budget, dtype=torch.float64)
    with Progress(pool.budget, "kcenter_greedy", pool.progress) as bar:
        run_picks(engine, picks, distances, bar)
    return Centers(picks, distances, engine.radius())
