"""One row of large.py, in a process of its own: `python bench/large_row.py ROW` prints it as JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from command import Parser, name_of
from difal_kernels import explain, maxherding
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu import free_memory
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth
from features import SOURCES
from large import ADVERSE, GIB, HOURS, LARGE, ROWS
from replay import replay_steps

GRAM_TILES = 2_000  # timed, of a pool that has more of them
ADVERSE_SOURCES = {
    "equal": torch.ones,
    "normal": torch.randn,
    "clumps": lambda n, d: torch.randn(n, d) * 1e-3 + (torch.arange(n) % 2)[:, None],
}


def gram_seconds(x: torch.Tensor, tile: int = 2048) -> float:
    """Seconds of all tiles of x x^T in float32; of more than GRAM_TILES only some are timed, for all."""
    begins = range(0, len(x), tile)
    every = [(i, j) for i in begins for j in begins]
    some = every
    if len(every) > GRAM_TILES:
        whole = [(i, j) for i, j in every if max(i, j) + tile <= len(x)]
        some = whole[:: len(whole) // GRAM_TILES]
    began = time.perf_counter()
    entries = sum(torch.mm(x[i : i + tile], x[j : j + tile].T).numel() for i, j in some)
    return (time.perf_counter() - began) * len(x) ** 2 / entries


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def one(name: str) -> dict:
    """The row `name`, in this process."""
    torch.manual_seed(0)
    if name in LARGE | HOURS:
        source, n, d, budget, limit = (LARGE | HOURS)[name]
        x, options = SOURCES[source](n, d), {}
        options = {"memory_limit": limit, "bandwidth": median_bandwidth(x)}
    else:
        source, n, d, budget, options = ADVERSE[name]
        x = ADVERSE_SOURCES[source](n, d)
        BACKENDS["cpu"] = replace(BACKENDS["cpu"], path="matrix-free")
        options = {**options, "memory_limit": free_memory() // 2 if name.startswith("flat") else 64 << 20}
    gram = gram_seconds(x)
    maxherding(x[:500], 5)
    foreseen, told = None, []
    if name in HOURS:
        foreseen = re.search(r"about ([0-9.,]+) seconds", explain(maxherding, x, budget, **options))
    before, began = resident("VmRSS"), time.perf_counter()

    def hear(line: str) -> None:
        print(f"{time.perf_counter() - began:.1f} {line}", file=sys.stderr, flush=True)
        told.append((time.perf_counter() - began, float(re.search(r"about (\d+) s left", line)[1])))

    got = maxherding(x, budget, return_info=True, progress=hear if name in HOURS else False, **options)
    row = {"case": name, "N": n, "D": d, "budget": budget, "seconds": time.perf_counter() - began}
    row["memory_gib"] = (resident("VmHWM") - before) / GIB
    if name in LARGE | HOURS:
        row["limit_gib"] = options["memory_limit"] / GIB
        row["per_full_gram"] = row["seconds"] / gram
        if told:
            tenth = next((at, left) for at, left in told if at >= row["seconds"] / 10)
            row["foreseen"] = float(foreseen[1].replace(",", ""))
            row["left_told_at_a_tenth"], row["left_then"] = tenth[1], row["seconds"] - tenth[0]
        row["worst_pick"] = max(replay_steps(x, got.indices, options["bandwidth"])[0].values())
    else:
        del options["memory_limit"]
        row["right"] = bool(torch.equal(got.indices, maxherding(x, budget, backend="reference", **options)))
    return {**row, "contested_picks": int(got.contested_picks)}


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("row", type=name_of(ROWS))
    found = one(parser.parse_args().row)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "row": found}))
