"""What runs, in how much memory, and which problems together: decided here for every backend, and told by `explain`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..._progress import Progress
from ..._words import counted
from . import dense, forecast, matrix_free
from .primitives import Device
from .problem import Batch, Problem
from .result import Result

DENSE, MATRIX_FREE = "dense", "matrix-free"


def memory_limit(device: Device, batch: Batch) -> int:
    """The user's limit, or the backend's share of what is free."""
    return device.default_memory_limit(batch.device) if batch.memory_limit is None else batch.memory_limit


def needed(device: Device, p: Problem, path: str) -> int:
    """Bytes beyond the features."""
    return device.dense_memory(p).total if path == DENSE else device.tiled_memory(p)


def paths(device: Device, p: Problem) -> tuple[str, ...]:
    """Those that can solve this, the fastest first: a kernel that is given is a matrix already."""
    if p.kernel == "precomputed" or p.rows is not None:
        return (DENSE,)
    return (DENSE, MATRIX_FREE) if device.path is None else (device.path,)


def choose(device: Device, p: Problem, limit: int) -> str:
    """The fastest path that fits."""
    possible = paths(device, p)
    return next((path for path in possible if needed(device, p, path) <= limit), possible[-1])


def least_limit(device: Device, p: Problem) -> int:
    """The smallest limit in bytes within which some path can work."""
    dense_least = device.dense_memory(p, alone=False).total
    return min(dense_least if path == DENSE else device.tiled_memory(p) for path in paths(device, p))


def check_limit(device: Device, batch: Batch, limit: int) -> None:
    """Raise ValueError where no path can work within `limit` bytes."""
    for b, p in enumerate(batch.problems):
        least = least_limit(device, p)
        if least > limit:
            where = f"problem {b} of the batch" if batch.batched else "this selection"
            source = device.memory_name if batch.memory_limit is None else "`memory_limit`"
            raise ValueError(
                f"{source} is {limit} bytes and {where} of {len(p.features)} points needs at least {least}; raise it"
            )


@dataclass
class Group:
    """Problems that are solved together, and what they take of memory."""

    device: Device
    path: str
    problems: list[Problem] = field(default_factory=list)
    kept: int = 0  # by all of them
    largest: int = 0  # by one of them
    passing: int = 0  # by one of them, while its matrix is made

    def add(self, p: Problem, limit: int) -> bool:
        """Take in a problem on the dense path, if it fits; the first one always does."""
        device, count = self.device, len(self.problems) + 1
        memory = device.dense_memory(p, alone=False)
        kept, largest = self.kept + memory.kept, max(self.largest, memory.kept)
        passing = max(self.passing, memory.passing)
        together = min(count, device.at_a_time()) * largest if device.stacked else kept
        if self.problems and (
            count > device.max_problems or not device.alike(self.problems[0], p) or together + passing > limit
        ):
            return False
        self.problems.append(p)
        self.kept, self.largest, self.passing = kept, largest, passing
        return True


def groups(device: Device, problems: Sequence[Problem], limit: int) -> list[Group]:
    """Problems in order, cut so that those of a group fit in memory together; a matrix-free one is a group."""
    made: list[Group] = []
    for p in problems:
        path = choose(device, p, limit)
        if path == MATRIX_FREE:
            made.append(Group(device, path, [p]))
        elif not (made and made[-1].path == DENSE and made[-1].add(p, limit)):
            made.append(Group(device, path))
            made[-1].add(p, limit)
    return made


def explain(device: Device, batch: Batch) -> str:
    limit, lines = memory_limit(device, batch), []
    check_limit(device, batch, limit)
    for b, p in enumerate(batch.problems):
        path = choose(device, p, limit)
        name = f"problem {b}: " if batch.batched else ""
        what = dense.describe(p, device.entry_bits(p)) if path == DENSE else matrix_free.describe()
        if path == MATRIX_FREE and batch.device.type == "cpu":
            what += f", about {seconds_text(forecast.estimated_seconds(device, p, limit))} seconds (an estimate)"
        entries = "" if path == DENSE else " and the entries that may still matter,"  # as the limit has room
        workspace = f"workspace {needed(device, p, path) / 2**20:.1f} MiB{entries} of {limit / 2**20:.0f} MiB"
        lines.append(f"   {name}{what}, {workspace}")
    if batch.batched:
        problems, count = counted(len(batch.problems), "problem"), len(groups(device, batch.problems, limit))
        lines.append(f"   {problems} in {counted(count, 'group')} solved together")
    return "\n".join(lines)


def seconds_text(seconds: float) -> str:
    """With two digits of note, for an estimate."""
    digits = 1 - math.floor(math.log10(max(seconds, 1e-3)))
    return f"{round(seconds, digits):,.{max(0, digits)}f}"


def run(device: Device, batch: Batch) -> list[Result]:
    limit = memory_limit(device, batch)
    check_limit(device, batch, limit)
    results: list[Result] = []
    total = sum(p.budget for p in batch.problems)
    with device.active(batch.device), Progress(total, "maxherding", batch.progress) as bar:
        for group in groups(device, batch.problems, limit):
            if group.path == DENSE:
                results += device.in_groups(group.problems, dense.select, bar)
            else:
                results.append(matrix_free.select(device, group.problems[0], limit, bar))
    return results


class PlannedBackend:
    """What `difal_kernels._dispatch` calls of a backend, given its primitives."""

    def plan(self: Device, batch: Batch) -> str:
        return explain(self, batch)

    def run(self: Device, batch: Batch) -> list[Result]:
        return run(self, batch)
