"""One library on one case of kcenter.py, in a process of its own: `python bench/kcenter_run.py SETTING`, JSON for JSON.

Picks stay in build/kcenter, where those of other libraries are compared with ours.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from difal_kernels import __version__
from features import SOURCES
from kcenter_peers import PEERS

PICKS = Path(__file__).resolve().parent.parent / "build" / "kcenter"


def gaussian(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def uniform(n: int, d: int) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(0))


def run(source: str, n: int, d: int, picks: int, peer: str, steps: list[int]) -> dict:
    """Seconds of `picks` picks, how many of them are ours, and for ours whether those at `steps` are right."""
    x = (SOURCES | {"gaussian": gaussian, "uniform": uniform})[source](n, d)
    function, distribution = PEERS[peer]
    function(x[:2000].contiguous(), 20)  # compile, load, start threads
    began, worked = time.perf_counter(), time.process_time()
    found = torch.as_tensor(function(x, picks), dtype=torch.int64)
    row = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked, "picks": picks}
    row["version"] = __version__ if peer == "difal" else version(distribution)
    row["machine"] = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    ours = PICKS / f"{source}-{n}-{d}.pt"
    if peer == "difal":
        ours.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, ours)
        row["right"] = all(is_farthest(x, found, t) for t in steps if t < picks)
    want = torch.load(ours)[:picks]
    row["same_picks"] = int((found == want).cummin(0).values.sum())
    if row["same_picks"] < picks:
        row["radius_per_ours"] = radius(x, found) / radius(x, want)
    return row


def radius(x: torch.Tensor, picks: torch.Tensor) -> float:
    """The largest distance of a point to its nearest pick."""
    return max(float(torch.cdist(rows, x[picks]).amin(1).max()) for rows in x.split(4096))


def is_farthest(x: torch.Tensor, picks: torch.Tensor, t: int) -> bool:
    """Whether pick t is the farthest from those before it, by all distances in float64."""
    nearest, centers = [], x[picks[:t]].double()
    for rows in x.split(4096):  # by products first: what those may get wrong is far below the millionth left for it
        nearest.append(torch.cdist(rows.double(), centers, compute_mode="use_mm_for_euclid_dist").amin(1))
    away = torch.cat(nearest)
    away[picks[:t]] = 0
    likely = (away >= away.max() * (1 - 1e-6)).nonzero()[:, 0]
    exact = torch.stack([(x[i].double() - centers).norm(dim=1).min() for i in likely])
    return int(likely[exact >= exact.max() * (1 - 1e-12)][0]) == int(picks[t])


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))
