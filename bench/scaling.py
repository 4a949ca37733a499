"""Time against N and against budget for the naive loop, lazy greedy and ours: `python bench/scaling.py`.

Writes results/cpu/scaling.json and docs/img/scaling.png, with the exponents of a straight line through the logarithms.
Takes about five minutes on two cores; each row is one run after a warm-up. `python bench/scaling.py large` measures the
third panel alone, budgets of thousands without the matrix, to which the rows of results/cpu/large.json of the same
dimension and budget are added.
"""

from __future__ import annotations

from command import Parser

if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("panel", nargs="?", choices=("all", "large"), default="all")
    PANEL = parser.parse_args().panel

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
LARGE = {"sizes": (10_000, 25_000, 50_000, 100_000), "dimension": 128, "budget": 10_000, "limit": 1 << 30}
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


def measure_large() -> list[dict]:
    """Seconds of a budget of 10,000, or a quarter of the pool where that is less, without the matrix from 25,000 on."""
    d, rows = LARGE["dimension"], []
    maxherding(clustered(1_000, d), 10)
    for n in LARGE["sizes"]:
        x, budget = clustered(n, d), min(LARGE["budget"], n // 4)
        bandwidth, began = median_bandwidth(x), time.perf_counter()
        maxherding(x, budget, bandwidth=bandwidth, memory_limit=LARGE["limit"])
        rows.append({"N": n, "budget": budget, "seconds": time.perf_counter() - began, "from": "scaling.py"})
        print(f"N = {n}, budget {budget}: {rows[-1]['seconds']:.2f} s", file=sys.stderr)
    return rows


def of_large(rows: list[dict]) -> list[dict]:
    """These rows, and those that bench/large.py has of the same kind."""
    known = json.loads((HERE / "results" / "cpu" / "large.json").read_text())["rows"]
    alike = [r for r in known if r.get("D") == LARGE["dimension"] and r.get("budget") == LARGE["budget"]]
    return rows + [{key: r[key] for key in ("N", "budget", "seconds")} | {"from": "large.py"} for r in alike]


def draw(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    titles = (f"budget {BUDGET}, {DIMENSION} features", f"N = {POOL:,}, {DIMENSION} features")
    for axis, (what, title) in zip(axes[:2], zip(("N", "budget"), titles, strict=True), strict=True):
        for method, color in zip(METHODS, ("#999999", "#d08020", "#2060c0"), strict=True):
            x, y = zip(*result["seconds"][what][method], strict=True)
            label = f"{method}, exponent {result['exponents'][what][method]:.2f}"
            axis.loglog(x, y, "o-", color=color, label=label)
        axis.set(xlabel=what, title=title)
        axis.grid(True, which="major", alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("seconds")
    axis, rows = axes[2], result["large"]
    for source, mark in (("scaling.py", "o"), ("large.py", "^")):
        points = [(row["N"], row["seconds"]) for row in rows if row["from"] == source]
        if points:
            axis.loglog(*zip(*points, strict=True), mark, color="#2060c0", label=f"ours, bench/{source}")
    sizes = np.array([row["N"] for row in rows], dtype=float)
    times = np.array([row["seconds"] for row in rows])
    power = result["exponents"]["large"]
    axis.loglog(sizes, np.exp(np.log(times / sizes**power).mean()) * sizes**power, ":", color="#2060c0",
                label=f"exponent {power:.2f}")  # fmt: skip
    axis.set(xlabel="N", title=f"budget {LARGE['budget']:,} (N / 4 if less), {LARGE['dimension']} features")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)


def main(only_large: bool) -> None:
    known = json.loads((HERE / "results" / "cpu" / "scaling.json").read_text()) if only_large else {}
    against = known["seconds"] if only_large else measure()
    large = of_large(measure_large())
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "seconds": against,
        "large": large,
        "exponents": {w: {m: exponent(points) for m, points in rows.items()} for w, rows in against.items()}
        | {"large": exponent([(row["N"], row["seconds"]) for row in large])},
    }
    draw(result, HERE.parent / "docs" / "img" / "scaling.png")
    (HERE / "results" / "cpu" / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["exponents"], indent=1))


if __name__ == "__main__":
    main(PANEL == "large")
