"""MaxHerding on an NVIDIA GPU: inner products by torch's GEMM, everything around them in csrc/cuda.

As on the CPU, low precision finds the contenders with a proven error bound and float64 settles them, on the device.
"""

from __future__ import annotations

from ..._progress import Progress
from .. import _gpu
from . import cuda_dense as dense
from .problem import Batch, Problem
from .result import Result

unavailable = _gpu.unavailable


def supports(batch: Batch) -> str | None:
    reason = unavailable() or _gpu.wrong_device(batch.device)
    if reason is not None:
        return reason
    limit = memory_limit(batch)
    for b, p in enumerate(batch.problems):
        needed = dense.workspace_bytes(p)
        if needed > limit:
            which = f"problem {b} of the batch" if batch.batched else "it"
            return f"{which} needs {needed} bytes of device memory and {limit} may be used"
    return None


def plan(batch: Batch) -> str:
    limit = memory_limit(batch)
    lines = [f"   {len(_groups(batch.problems, limit))} launches of the greedy loop for {len(batch.problems)} problems"]
    for b, p in enumerate(batch.problems):
        name = f"problem {b}: " if batch.batched else ""
        lines.append(f"   {name}{dense.plan(p)}, workspace {dense.workspace_bytes(p) / 2**20:.1f} MiB")
    return "\n".join(lines)


def run(batch: Batch) -> list[Result]:
    limit = memory_limit(batch)
    results = []
    with _gpu.on(batch.device), Progress(sum(p.budget for p in batch.problems), "maxherding", batch.progress) as bar:
        for group in _groups(batch.problems, limit):
            results += dense.select(group, bar)
    return results


def memory_limit(batch: Batch) -> int:
    """`memory_limit`, or nine tenths of what is free on the device."""
    if batch.memory_limit is not None:
        return batch.memory_limit
    return _gpu.free_memory(batch.device) * 9 // 10


def _groups(problems: tuple[Problem, ...], limit: int) -> list[list[Problem]]:
    """Problems in order, cut so that those of a group fit in memory together."""
    groups: list[list[Problem]] = []
    held = 0
    for p in problems:
        kept = dense.kept_bytes(p)
        if groups and held + kept + dense.passing_bytes(p) <= limit:
            groups[-1].append(p)
            held += kept
        else:
            groups.append([p])
            held = kept
    return groups
