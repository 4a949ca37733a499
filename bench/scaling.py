"""Time against N and against budget for the naive loop, lazy greedy and ours: `python bench/scaling.py`.

Writes results/cpu/scaling.json and docs/img/scaling.png, with the exponents of a straight line through the logarithms.
Takes about five minutes on two cores; each row is one run after a warm-up.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from difal_kernels import maxherding
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth
from features import clustered
from naive import lazy_maxherding, naive_maxherding

HERE = Path(__file__).parent
DIMENSION, BUDGET, POOL = 256, 50, 4_000
LIMIT = 2 << 30  # bytes for ours: from N = 32,000 on without the matrix
METHODS = {
    "naive": naive_maxherding,
    "lazy": lazy_maxherding,
    "ours": lambda x, budget, bandwidth: maxherding(x, budget, bandwidth=bandwidth, memory_limit=LIMIT),
}
SIZES = {
    "naive": (2_000, 4_000, 8_000),
    "lazy": (2_000, 4_000, 8_000, 16_000),
    "ours": (2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 100_000),
}
BUDGETS = {"naive": (50, 100, 200, 400), "lazy": (50, 200, 600, 2_000), "ours": (50, 200, 600, 2_000)}


def seconds(method: str, features: torch.Tensor, budget: int) -> float:
    bandwidth = median_bandwidth(features)
    began = time.perf_counter()
    METHODS[method](features, budget, bandwidth)
    return time.perf_counter() - began


def exponent(points: list[tuple[int, float]]) -> float:
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def measure() -> dict:
    for method in METHODS:
        seconds(method, clustered(1_000, DIMENSION), 10)
    against: dict[str, dict[str, list]] = {"N": {}, "budget": {}}
    for method in METHODS:
        rows = against["N"][method] = []
        for n in SIZES[method]:
            rows.append((n, seconds(method, clustered(n, DIMENSION), BUDGET)))
            print(f"{method}, N = {n}: {rows[-1][1]:.2f} s", file=sys.stderr)
        rows = against["budget"][method] = []
        for budget in BUDGETS[method]:
            rows.append((budget, seconds(method, clustered(POOL, DIMENSION), budget)))
            print(f"{method}, budget {budget}: {rows[-1][1]:.2f} s", file=sys.stderr)
    return against


def draw(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    titles = (f"budget {BUDGET}, {DIMENSION} features", f"N = {POOL:,}, {DIMENSION} features")
    for axis, (what, title) in zip(axes, zip(("N", "budget"), titles, strict=True), strict=True):
        for method, color in zip(METHODS, ("#999999", "#d08020", "#2060c0"), strict=True):
            x, y = zip(*result["seconds"][what][method], strict=True)
            label = f"{method}, exponent {result['exponents'][what][method]:.2f}"
            axis.loglog(x, y, "o-", color=color, label=label)
        axis.set(xlabel=what, title=title)
        axis.grid(True, which="major", alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=110)


def main() -> None:
    against = measure()
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "seconds": against,
        "exponents": {w: {m: exponent(points) for m, points in rows.items()} for w, rows in against.items()},
    }
    draw(result, HERE.parent / "docs" / "img" / "scaling.png")
    (HERE / "results" / "cpu" / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["exponents"], indent=1))


if __name__ == "__main__":
    main()
