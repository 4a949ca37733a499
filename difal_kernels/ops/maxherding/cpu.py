"""MaxHerding on the CPU: inner products by torch's GEMM, everything around them in csrc/cpu.

float32 arithmetic finds the contenders with a proven error bound, float64 settles them; docs/exactness.md derives the
bound. `dense` stores the kernel matrix, `matrix_free` does not; the picks are the same.
"""

from __future__ import annotations

from ..._native import missing
from ..._progress import Progress
from . import dense, matrix_free
from .problem import Batch, Problem
from .result import Result


def unavailable() -> str | None:
    return missing("_cpu")


def supports(batch: Batch) -> str | None:
    if batch.device.type != "cpu":
        return f"it runs on CPU tensors and the input is on {batch.device}; move it with .cpu()"
    return unavailable()


def plan(batch: Batch) -> str:
    limit, lines = memory_limit(batch), []
    for b, p in enumerate(batch.problems):
        path = _path(p, limit)
        name = f"problem {b}: " if batch.batched else ""
        lines.append(
            f"   {name}{path.plan(p)}, workspace {path.workspace_bytes(p) / 2**20:.1f} MiB of {limit / 2**20:.0f} MiB"
        )
    return "\n".join(lines)


def run(batch: Batch) -> list[Result]:
    limit = memory_limit(batch)
    for b, p in enumerate(batch.problems):
        needed = min(path.workspace_bytes(p) for path in _paths(p))
        if needed > limit:
            where = f"problem {b} of the batch" if batch.batched else "this selection"
            source = "`memory_limit`" if batch.memory_limit is not None else "the memory that is free"
            raise ValueError(
                f"{source} is {limit} bytes and {where} of {len(p.features)} points needs at least {needed}; raise it"
            )
    total = sum(p.budget for p in batch.problems)
    results = []
    with Progress(total, "maxherding", batch.progress) as bar:
        for p in batch.problems:
            if _path(p, limit) is dense:
                results.append(dense.select(p, bar))
            else:
                results.append(matrix_free.select(p, limit, bar))
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


def _path(p: Problem, limit: int):
    return next((path for path in _paths(p) if path.workspace_bytes(p) <= limit), _paths(p)[-1])
