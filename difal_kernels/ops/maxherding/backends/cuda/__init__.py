"""MaxHerding on an NVIDIA GPU: inner products by torch's GEMM, everything around them in csrc/cuda.

As on the CPU, low precision finds the contenders with a proven error bound and float64 settles them, on the device.
"""

from __future__ import annotations

from difal_kernels._progress import Progress
from difal_kernels.ops import _gpu

from ...problem import Batch, Problem
from ...result import Result
from . import dense
from . import tiled as matrix_free

unavailable = _gpu.unavailable
MOST_TOGETHER = 1 << 14  # problems of one launch: a grid has no more than 65,535 rows of blocks


def supports(batch: Batch) -> str | None:
    return unavailable() or _gpu.wrong_device(batch.device)


def plan(batch: Batch) -> str:
    limit = memory_limit(batch)
    lines = [f"   {len(_groups(batch.problems, limit))} launches of the greedy loop for {len(batch.problems)} problems"]
    for b, p in enumerate(batch.problems):
        path, name = _path(p, limit), f"problem {b}: " if batch.batched else ""
        lines.append(f"   {name}{path.plan(p)}, workspace {path.workspace_bytes(p) / 2**20:.1f} MiB")
    return "\n".join(lines)


def run(batch: Batch) -> list[Result]:
    limit = memory_limit(batch)
    for b, p in enumerate(batch.problems):
        needed = min(path.workspace_bytes(p) for path in _paths(p))
        if needed > limit:
            where = f"problem {b} of the batch" if batch.batched else "this selection"
            source = "`memory_limit`" if batch.memory_limit is not None else "what is free on the device"
            raise ValueError(
                f"{source} is {limit} bytes and {where} of {len(p.features)} points needs at least {needed}; raise it"
            )
    results = []
    with _gpu.on(batch.device), Progress(sum(p.budget for p in batch.problems), "maxherding", batch.progress) as bar:
        for group in _groups(batch.problems, limit):
            if _path(group[0], limit) is dense:
                results += dense.select(group, bar)
            else:
                results.append(matrix_free.select(group[0], limit, bar))
    return results


def memory_limit(batch: Batch) -> int:
    """`memory_limit`, or nine tenths of what is free on the device."""
    if batch.memory_limit is not None:
        return batch.memory_limit
    return _gpu.free_memory(batch.device) * 9 // 10


def _paths(p: Problem) -> tuple:
    """Those that can solve this, the fastest first: a precomputed kernel has no use for the matrix-free one."""
    return (dense,) if p.kernel == "precomputed" else (dense, matrix_free)


def _path(p: Problem, limit: int):
    return next((path for path in _paths(p) if path.workspace_bytes(p) <= limit), _paths(p)[-1])


def _groups(problems: tuple[Problem, ...], limit: int) -> list[list[Problem]]:
    """Problems in order, cut so that those of a group fit in memory together; a matrix-free one is a group."""
    groups: list[list[Problem]] = []
    held = 0
    for p in problems:
        alone = _path(p, limit) is matrix_free
        kept = limit if alone else dense.kept_bytes(p)
        if groups and not alone and len(groups[-1]) < MOST_TOGETHER and held + kept + dense.passing_bytes(p) <= limit:
            groups[-1].append(p)
            held += kept
        else:
            groups.append([p])
            held = kept
    return groups
