"""Loss of `sample_rows` against the exact selection: `python bench/sampled.py`. Writes results/cpu/sampled.{json,md}.

At sizes where both run: coverage of the picks over *all* rows, in float64, of the exact selection and of those that
were chosen by some of the rows; the estimate that the result gives, the error that it states, and the time.
"""

from __future__ import annotations

from command import no_options

if __name__ == "__main__":
    no_options(__doc__)

import sys
import time

import torch

from difal_kernels import maxherding
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth
from difal_kernels.ops.maxherding.kernel_functions import kernel_matrix
from features import SOURCES
from tables import markdown, write

CASES = (("clusters", 10_000, 64, 100), ("clusters", 10_000, 64, 1_000), ("pixels", 10_000, 64, 1_000))
ROWS = (100, 300, 1_000, 3_000)
SEEDS = 3
COLUMNS = ("case", "N", "D", "budget", "rows", "coverage", "loss", "estimate_off_by", "stated_error", "times_faster")


def true_coverage(x: torch.Tensor, picks: torch.Tensor, bandwidth: float) -> float:
    parts = [kernel_matrix(some, x[picks], "rbf", bandwidth).amax(1) for some in x.split(1_000)]
    return float(torch.cat(parts).mean())


def measure(source: str, n: int, d: int, budget: int) -> list[dict]:
    """Rows of the table for one case: the exact selection first; the worst of some seeds for each number of rows."""
    x = SOURCES[source](n, d)
    bandwidth = median_bandwidth(x) / 4  # so that coverage is far from 1
    maxherding(x[:500], 5)
    began = time.perf_counter()
    exact = maxherding(x, budget, bandwidth=bandwidth, return_info=True)
    exact_seconds = time.perf_counter() - began
    case = {"case": source, "N": n, "D": d, "budget": budget}
    table = [{**case, "rows": "all", "coverage": exact.coverage}]
    for rows in ROWS:
        found = []
        for seed in range(SEEDS):
            began = time.perf_counter()
            maxherding(x, budget, bandwidth=bandwidth, sample_rows=rows, seed=seed)
            seconds = time.perf_counter() - began
            got = maxherding(x, budget, bandwidth=bandwidth, sample_rows=rows, seed=seed, return_info=True)
            true = true_coverage(x, got.indices, bandwidth)
            found.append(
                {
                    **case,
                    "rows": rows,
                    "coverage": true,
                    "loss": exact.coverage - true,
                    "estimate_off_by": abs(got.coverage - true),
                    "stated_error": got.sampled.error,
                    "times_faster": exact_seconds / seconds,
                }
            )
        worst = max(found, key=lambda row: row["loss"])
        worst["estimate_off_by"] = max(row["estimate_off_by"] for row in found)
        table.append(worst)
        print(worst, file=sys.stderr)
    return table


def main() -> None:
    rows = [row for case in CASES for row in measure(*case)]
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), "seeds": SEEDS, "rows": rows}
    write("sampled", result, markdown([{name: row.get(name, "") for name in COLUMNS} for row in rows]))


if __name__ == "__main__":
    main()
