"""MaxHerding in Triton, for a GPU without nvcc: tiles of GEMM and kernel function in one, and the greedy loop.

As in CUDA and on the CPU, low precision finds the contenders with a proven error bound and float64 settles them.
"""

from __future__ import annotations

from difal_kernels._progress import Progress
from difal_kernels.ops import _gpu, _triton

from ...problem import Batch, Problem
from ...result import Result
from . import dense
from . import tiled as matrix_free

unavailable = _triton.unavailable
MOST_TOGETHER = 1 << 14  # problems of one launch: a grid has no more than 65,535 in its third dimension


MOST_POINTS = 65_535 * dense.SIDE  # and in its second: tiles side by side


def supports(batch: Batch) -> str | None:
    reason = unavailable() or _triton.wrong_device(batch.device)
    most = max(len(p.features) for p in batch.problems)
    if reason is None and most > MOST_POINTS:
        return f"it takes {MOST_POINTS} points at most, got {most}"
    return reason


def plan(batch: Batch) -> str:
    limit = memory_limit(batch)
    groups = _groups(batch.problems, limit)
    lines = [f"   {len(groups)} greedy loops of short launches for {len(batch.problems)} problems"]
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
    with (
        _triton.on(batch.device),
        Progress(sum(p.budget for p in batch.problems), "maxherding", batch.progress) as bar,
    ):
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


def _alike(p: Problem, q: Problem) -> bool:
    """Whether one launch can serve both."""
    return p.features.dtype == q.features.dtype and dense.symmetric(p) == dense.symmetric(q)


def _groups(problems: tuple[Problem, ...], limit: int) -> list[list[Problem]]:
    """Problems in order, cut so that those of a group fit in memory together; a matrix-free one is a group.

    Arrays of a group are stacked, so that each takes what the largest takes.
    """
    groups: list[list[Problem]] = []
    most, passing = 0, 0
    for p in problems:
        alone = _path(p, limit) is matrix_free
        kept = limit if alone else dense.kept_bytes(p)
        if groups and not alone and len(groups[-1]) < MOST_TOGETHER and _alike(groups[-1][0], p):
            together = (len(groups[-1]) + 1) * max(most, kept) + max(passing, dense.passing_bytes(p))
            if together <= limit:
                groups[-1].append(p)
                most, passing = max(most, kept), max(passing, dense.passing_bytes(p))
                continue
        groups.append([p])
        most, passing = kept, 0 if alone else dense.passing_bytes(p)
    return groups
