"""What the matrix-free path needs in memory, before it runs."""

from __future__ import annotations

import math

import torch

from ...problem import Problem
from .operands import is_native

TILE = 512  # rows and columns of a tile
BLOCK = 64  # candidates whose kernel columns are made together
MOST_GUESSES = 64  # guesses before a sweep that there is always room for
BATCH = 256  # Sweep::kBatch: rows whose coverage a correction changes, taken anew together
CORRECTED = 8 * BATCH  # and those whose kernel rows are prepared together
WATCHED = 2048  # points whose kernel tells how much is alive
BYTES_PER_ENTRY = 9  # 8, and the rest of its block


def workspace_bytes(p: Problem, threads: int = 1) -> int:
    """The least that the path can work with, on however many threads: linear in N."""
    return fixed_bytes(p) + len(p.features) * 128 * BYTES_PER_ENTRY


def tile_shape(n: int) -> tuple[int, int]:
    """Points a tile's side has, and the distance of its rows: a multiple of 32, and no power of two for the cache."""
    size = min(TILE, n)
    return size, -(-size // 32) * 32 + 16


def worker_bytes(p: Problem) -> int:
    size, stride = tile_shape(len(p.features))
    return 2 * 4 * max(size, BATCH) * stride + 2 * 4 * size * p.features.shape[1]


def guess_bytes(n: int, guesses: int) -> int:
    """Coverage after each guess, what it took, and the events of all rows, thrice that of one guess after another."""
    return n * (guesses * (12 + 12 + 4) + int(3 * 20 * (2 + math.log(guesses + 1))))


def fixed_bytes(p: Problem) -> int:
    n, d = p.features.shape
    copies = 0 if is_native(p.features) else n * d * (8 if p.features.dtype == torch.float64 else 4)
    labels = 0 if p.labeled is None else p.labeled.numel() * 8 + 4 * min(len(p.labeled), tile_shape(n)[0]) * n
    corrections = 4 * min(n, CORRECTED) * d
    return (
        copies
        + labels
        + worker_bytes(p)
        + guess_bytes(n, MOST_GUESSES)
        + corrections
        + 4 * BLOCK * n
        + 200 * n
        + 8 * WATCHED**2
    )


def plan(p: Problem) -> str:
    return "matrix-free, about 1 GEMM pass in two sweeps, more where guesses go wrong or memory is near the least"


def threads_for(p: Problem, limit: int, threads: int) -> int:
    """As many as there is room for; each needs buffers of its own."""
    return max(1, min(threads, 1 + max(0, limit - workspace_bytes(p)) // 8 // worker_bytes(p)))
