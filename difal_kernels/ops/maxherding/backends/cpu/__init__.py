"""MaxHerding on the CPU: inner products by torch's GEMM, everything around them in csrc/cpu.

float32 arithmetic finds the contenders with a proven error bound, float64 settles them; docs/exactness.md derives the
bound. `dense` stores the kernel matrix, `matrix_free` does not; the picks are the same.
"""

from __future__ import annotations

import torch

from difal_kernels._native import missing, num_threads
from difal_kernels._progress import Progress
from difal_kernels._workers import Workers

from ...problem import Batch, Problem
from ...result import Result
from . import dense
from . import tiled as matrix_free

SMALL = 1 << 24  # multiply-adds of a kernel matrix that are not worth starting threads for
LARGE = 8192  # points of a problem that is better solved by all threads together than beside others


def unavailable() -> str | None:
    return missing("_cpu")


def supports(batch: Batch) -> str | None:
    if batch.device.type != "cpu":
        return f"it runs on CPU tensors and the input is on {batch.device}; move it with .cpu()"
    return unavailable()


def plan(batch: Batch) -> str:
    limit, threads, lines = memory_limit(batch), num_threads(), []
    check_limit(batch, limit)
    for b, p in enumerate(batch.problems):
        path = path_for(p, limit, threads)
        name = f"problem {b}: " if batch.batched else ""
        lines.append(
            f"   {name}{path.plan(p)}, workspace {path.workspace_bytes(p, threads) / 2**20:.1f} MiB "
            f"of {limit / 2**20:.0f} MiB"
        )
    count = _side_by_side(batch, limit, threads)
    if count > 1:
        lines.append(f"   {count} problems side by side, a thread each")
    return "\n".join(lines)


def run(batch: Batch) -> list[Result]:
    limit, threads = memory_limit(batch), num_threads()
    check_limit(batch, limit)
    total = sum(p.budget for p in batch.problems)
    count = _side_by_side(batch, limit, threads)
    with Progress(total, "maxherding", batch.progress) as bar:
        if count > 1:
            return _run_side_by_side(batch, count, bar)
        return [_run_one(p, limit, threads, bar) for p in batch.problems]


def check_limit(batch: Batch, limit: int) -> None:
    """ValueError where no path can work within `limit` bytes."""
    for b, p in enumerate(batch.problems):
        needed = min(path.workspace_bytes(p, 1) for path in _paths(p))
        if needed > limit:
            where = f"problem {b} of the batch" if batch.batched else "this selection"
            source = "`memory_limit`" if batch.memory_limit is not None else "the memory that is free"
            raise ValueError(
                f"{source} is {limit} bytes and {where} of {len(p.features)} points needs at least {needed}; raise it"
            )


def _run_one(p: Problem, limit: int, threads: int, bar: Progress) -> Result:
    if len(p.features) ** 2 * p.features.shape[1] < SMALL:
        threads = 1
    if path_for(p, limit, threads) is dense:
        with Workers(threads) as workers:
            return dense.select(p, bar, workers)
    with Workers(matrix_free.threads_for(p, limit, threads)) as workers:
        return matrix_free.select(p, limit, bar, workers)


def _side_by_side(batch: Batch, limit: int, threads: int) -> int:
    """How many problems to solve at the same time, a thread each; 1 where they are large or memory is short."""
    problems = batch.problems
    if max(len(p.features) for p in problems) > LARGE:
        return 1
    largest = sorted((dense.workspace_bytes(p, 1) for p in problems), reverse=True)
    count = min(threads, len(problems))
    while count > 1 and sum(largest[:count]) > limit:
        count -= 1
    return count


def _run_side_by_side(batch: Batch, count: int, bar: Progress) -> list[Result]:
    results: list[Result | None] = [None] * len(batch.problems)
    size = max(dense.matrix_bytes(p) for p in batch.problems)
    # Fresh pages for every problem would cost as much as its arithmetic.
    storage = torch.empty(count, size, dtype=torch.uint8)
    alone = Workers(1)

    def work(b: int, slot: int) -> None:
        results[b] = dense.select(batch.problems[b], bar, alone, storage[slot])

    with Workers(count) as workers:
        largest_first = sorted(range(len(results)), key=lambda b: -len(batch.problems[b].features))
        workers.run(work, largest_first)
    return results


def memory_limit(batch: Batch) -> int:
    """`memory_limit`, or half of what is free."""
    return batch.memory_limit if batch.memory_limit is not None else free_memory() // 2


def free_memory() -> int:
    """Bytes of memory that can be had without swapping; 8 GiB where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 8 << 30


def _paths(p: Problem) -> tuple:
    """Those that can solve this, the fastest first: a precomputed kernel has no use for the matrix-free one."""
    return (dense,) if p.kernel == "precomputed" else (dense, matrix_free)


def path_for(p: Problem, limit: int, threads: int):
    """`dense` or `matrix_free`: the fastest that fits."""
    return next((path for path in _paths(p) if path.workspace_bytes(p, threads) <= limit), _paths(p)[-1])
