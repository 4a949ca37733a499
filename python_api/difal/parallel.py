"""One run on several processes (ranks), as torchrun starts them: each runs the same program on its share of the images.

Rank 0 decides and writes what the run needs once; the others wait for it at a barrier and read its files, so all ranks
must see one folder. Integers are added up over the ranks, which is exact in any order: nothing that a run computes
depends on how many ranks there are. A process that torchrun did not start is rank 0 of 1, and waits for nobody.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from difal.errors import UserError
from difal.files import exclusive
from difal_kernels._group import seconds_from
from difal_kernels.distributed import RankLostError, connect

T = TypeVar("T")
BARRIER_TIMEOUT = 7 * 86_400.0  # seconds; ranks wait for the slowest, and rank 0 may train and select for hours
_gloo: dist.ProcessGroup | None = None  # of all ranks, whatever backend the default group has


def started_world_size() -> int:
    """Return how many processes torchrun started; 1 without torchrun."""
    described = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    return int(os.environ["WORLD_SIZE"]) if described else 1


def join() -> None:
    """Join the other ranks that torchrun started; does nothing without torchrun."""
    global _gloo
    if started_world_size() == 1:
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    connect("cuda" if int(os.environ.get("LOCAL_RANK", 0)) < gpus else "cpu")
    _gloo = dist.new_group(backend="gloo", timeout=timedelta(seconds=_timeout()))


def rank() -> int:
    """Return this process's number, from 0."""
    return 0 if _gloo is None else dist.get_rank()


def world_size() -> int:
    """Return the number of processes that work on the run."""
    return 1 if _gloo is None else dist.get_world_size()


def shard(items: Sequence[T]) -> Sequence[T]:
    """Return this rank's items: every `world_size()`-th."""
    return items[rank() :: world_size()]


def own_rows(count: int) -> slice:
    """Return this rank's block of `count` rows; the blocks follow one another in the ranks' order."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def own_device(name: str) -> str:
    """Return the device of this rank where the run's is `name`: of several GPUs its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" and started_world_size() > 1 else name


def barrier() -> None:
    """Wait until every rank is here.

    Raises:
        RankLostError: a rank has ended, or did not come within `BARRIER_TIMEOUT`; rank 0 names it.
    """
    if _gloo is None:
        return
    try:
        dist.monitored_barrier(_gloo, timedelta(seconds=_timeout()))
    except RuntimeError as error:
        lost = f"rank {_lost_rank(error)} died or hangs" if rank() == 0 else "rank 0 has ended; see its message"
        raise RankLostError(f"{lost}; start all ranks again with the same command") from error


def _lost_rank(error: RuntimeError) -> int | str:
    """Rank 0: which rank `monitored_barrier` missed. Its error names none that was dead before the wait began."""
    if named := re.search(r"Rank (\d+) failed to pass", str(error)):
        return int(named[1])
    for other in range(1, world_size()):
        try:
            dist.irecv(torch.empty(1), other, group=_gloo)
        except RuntimeError:
            return other
    return "?"


def sum_over_ranks(counts: np.ndarray) -> np.ndarray:
    """Return the sum of the ranks' integer arrays, of one shape on all; int64."""
    total = torch.from_numpy(np.array(counts, np.int64))
    if _gloo is not None:
        barrier()  # waits for the slowest rank, and names one that is missing
        dist.all_reduce(total, group=_gloo)
    return total.numpy()


def on_first_rank(call: Callable[[], int | None]) -> int:
    """Call on rank 0 while the others wait; return its integer on all ranks."""
    found = int(call() or 0) if rank() == 0 else 0
    return int(sum_over_ranks(np.array(found)))


@contextmanager
def hold(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for the ranks of this run; see `difal.files.exclusive`."""
    with exclusive(folder, wait=wait) if rank() == 0 else nullcontext():
        barrier()
        yield


def _timeout() -> float:
    try:
        return seconds_from("DIFAL_BARRIER_TIMEOUT", BARRIER_TIMEOUT)
    except ValueError as error:
        raise UserError(str(error)) from None
