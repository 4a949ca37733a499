"""One rank of the tests of sharded selection: solves all cases and writes what it got. Started by test_sharded.py."""

import os
import signal
import sys

import numpy as np
import torch

from difal_kernels import _group
from difal_kernels.distributed import connect, maxherding_sharded

BUDGET = 15


def cases():
    """Name, pool, arguments; with duplicates, so that gains tie exactly, also across ranks."""
    generator = torch.Generator().manual_seed(7)
    pool = torch.randn(131, 6, generator=generator)
    pool[70:100] = pool[:30]
    weights = torch.rand(131, generator=generator)
    grid = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))  # many gains equal by symmetry
    yield "plain", pool, {}
    yield "grid", grid, {"bandwidth": 1.5}
    yield "half", pool.half(), {"kernel": "laplace"}
    yield "bfloat", pool.bfloat16(), {"kernel": "cosine"}
    yield "double", pool.double(), {"kernel": "tophat", "bandwidth": 2.0}
    yield "weights", pool, {"weights": weights * 1e-20, "kernel": "cauchy"}
    yield "labeled", pool, {"labeled": pool[[4, 9]] + 0.5, "candidates": list(range(1, 131, 3))}
    yield "covered", pool, {"labeled": pool, "kernel": "student_t"}  # nothing is left to gain
    yield "far", 1e3 * pool, {"labeled": 1e3 * pool[:90], "bandwidth": 300.0, "kernel": "rational_quadratic"}


def split(total, world):
    """Uneven rows of each rank; the second of three has none."""
    return {1: [total], 2: [total // 3, total - total // 3], 3: [total // 4, 0, total - total // 4]}[world]


def part(pool, options, rank, world):
    sizes = split(len(pool), world)
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    if "weights" in options:
        options = {**options, "weights": options["weights"][rows]}
    return pool[rows], options


def lose_rank(how):
    """This process ends, or stops, in the middle of a selection."""
    passed, gather = 0, _group.Group.gather

    def counted(self, *args):
        nonlocal passed
        passed += 1
        if passed == 30:
            os.kill(os.getpid(), how)
        return gather(self, *args)

    _group.Group.gather = counted


def main(out, mode):
    torch.set_num_threads(1)
    rank = connect()
    world = int(os.environ["WORLD_SIZE"])
    if mode in ("kill", "stop") and rank == 1:
        lose_rank(signal.SIGKILL if mode == "kill" else signal.SIGSTOP)
    if mode == "wrong":
        x = torch.zeros(3, 2) if rank else torch.full((3, 2), torch.nan)
        maxherding_sharded(x, 1)
    if mode == "differ":
        maxherding_sharded(torch.zeros(3, 2), 1 + rank)
    found = {}
    for name, pool, options in cases():
        x, options = part(pool, options, rank, world)
        answer = maxherding_sharded(x, BUDGET, return_info=True, **options)
        found[f"{name}.indices"], found[f"{name}.gains"] = answer.indices.numpy(), answer.gains.numpy()
        found[f"{name}.coverage"] = answer.coverage
    np.savez(f"{out}/{world}-{rank}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
