"""Many pools in one call, and a budget a hundred times larger: `python bench/batches.py`.

Writes results/cpu/batches.json and .md. Every ratio is between medians of three runs that take turns in this process.
`per_half_grams` is the time of the batch in units of half the Gram matrices alone, in panels of 512 rows;
`loop_per_batch` that of a Python loop over `maxherding` in units of the batch.
"""

from __future__ import annotations

from command import no_options

if __name__ == "__main__":
    no_options(__doc__)

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from difal_kernels import maxherding
from features import photo_pixels
from naive import half_gram
from peers.report import cpu_name

RESULTS = Path(__file__).parent / "results" / "cpu"
POOLS, POINTS, DIMENSION, BUDGET = 367, 2_000, 512, 50  # CamVid's images
IMAGES = 32  # different pools; the batch repeats them
LARGE, DIMENSIONS, BUDGETS = 10_000, (512, 1536), (50, 5_000)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def medians(calls: dict[str, Callable[[], object]], runs: int = 3) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            taken[name].append(seconds(call))
    return {name: statistics.median(times) for name, times in taken.items()}


def batch_row() -> dict:
    some = photo_pixels(IMAGES * POINTS, DIMENSION).view(IMAGES, POINTS, DIMENSION)
    pools = some[torch.arange(POOLS) % IMAGES]
    gram = torch.empty(POINTS, POINTS)
    picks = maxherding(pools[:IMAGES], BUDGET)
    same = all(torch.equal(picks[b], maxherding(pools[b], BUDGET)) for b in range(IMAGES))
    times = medians(
        {
            "batch": lambda: maxherding(pools, BUDGET),
            "loop": lambda: [maxherding(pool, BUDGET) for pool in pools],
            "half_grams": lambda: [half_gram(pool, gram, panel=512) for pool in pools],
        }
    )
    return {
        "case": f"{POOLS} x N{POINTS}-D{DIMENSION}-b{BUDGET}",
        "seconds": times["batch"],
        "per_half_grams": times["batch"] / times["half_grams"],
        "loop_per_batch": times["loop"] / times["batch"],
        "same_picks": same,
    }


def budget_row(d: int) -> dict:
    x = photo_pixels(LARGE, d)
    times = medians({str(budget): lambda b=budget: maxherding(x, b) for budget in BUDGETS})
    small, large = (times[str(budget)] for budget in BUDGETS)
    return {"case": f"N{LARGE}-D{d}", "seconds": small, "seconds_b5000": large, "b5000_per_b50": large / small}


def main() -> None:
    maxherding(torch.randn(500, 8), 5)
    rows = [batch_row(), *(budget_row(d) for d in DIMENSIONS)]
    machine = {"processor": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    (RESULTS / "batches.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    first, *others = rows
    lines = [
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}",
        "",
        f"A batch of {first['case']} takes {first['seconds']:.2f} s,",
        f"{first['per_half_grams']:.2f} of the time of half the Gram matrices alone; a Python loop over `maxherding`",
        f"takes {first['loop_per_batch']:.1f} times as long, with the same picks.",
        "",
        "| case | budget 50 | budget 5,000 | ratio |",
        "| --- | --- | --- | --- |",
        *(
            f"| {r['case']} | {r['seconds']:.2f} s | {r['seconds_b5000']:.2f} s | {r['b5000_per_b50']:.2f} |"
            for r in others
        ),
    ]
    (RESULTS / "batches.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
