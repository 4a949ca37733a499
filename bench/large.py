"""Selection without the kernel matrix: `python bench/large.py [ROW...]`. Writes results/cpu/large.json and .md.

Each row is a process of its own: seconds, also in units of one full tiled Gram GEMM of the same size in the same
process, and peak memory beyond the features. The adverse rows are data on which entries do not die, or gains tie; their
picks are compared with the float64 reference.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from features import SOURCES

GIB = 1 << 30
LARGE = {  # source, N, D, budget, memory limit
    "clusters": ("clusters", 100_000, 256, 10_000, 2 * GIB),
    "pixels": ("pixels", 100_000, 256, 10_000, 2 * GIB),
}
ADVERSE = {  # data, N, budget, options
    "all equal": (lambda n: torch.ones(n, 64), 4_000, 200, {}),
    "all far apart": (lambda n: torch.randn(n, 64), 4_000, 200, {"bandwidth": 1e-3}),
    "two tight clumps": (lambda n: torch.randn(n, 64) * 1e-3 + (torch.arange(n) % 2)[:, None], 1_000, 100, {}),
    "flat: cauchy, h = 330": (lambda n: torch.randn(n, 64), 1_000, 10, {"kernel": "cauchy", "bandwidth": 330.0}),
    "flat: cauchy, h = 1e4": (lambda n: torch.randn(n, 64), 1_000, 10, {"kernel": "cauchy", "bandwidth": 1e4}),
}


def gram_seconds(x: torch.Tensor, tile: int = 2048) -> float:
    began = time.perf_counter()
    for i in range(0, len(x), tile):
        for j in range(0, len(x), tile):
            torch.mm(x[i : i + tile], x[j : j + tile].T)
    return time.perf_counter() - began


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def one(name: str) -> dict:
    """The row `name`, in this process."""
    from difal_kernels import maxherding
    from difal_kernels.ops.maxherding.backends import BACKENDS
    from difal_kernels.ops.maxherding.backends.cpu import free_memory
    from difal_kernels.ops.maxherding.bandwidth import median_bandwidth

    torch.manual_seed(0)
    if name in LARGE:
        source, n, d, budget, limit = LARGE[name]
        x, options = SOURCES[source](n, d), {}
        options = {"memory_limit": limit, "bandwidth": median_bandwidth(x)}
    else:
        make, n, budget, options = ADVERSE[name]
        x = make(n)
        d = x.shape[1]
        BACKENDS["cpu"] = replace(BACKENDS["cpu"], path="matrix-free")
        options = {**options, "memory_limit": free_memory() // 2 if name.startswith("flat") else 64 << 20}
    gram = gram_seconds(x)
    maxherding(x[:500], 5)
    before, began = resident("VmRSS"), time.perf_counter()
    got = maxherding(x, budget, return_info=True, **options)
    row = {"case": name, "N": n, "D": d, "budget": budget, "seconds": time.perf_counter() - began}
    row["memory_gib"] = (resident("VmHWM") - before) / GIB
    if name in LARGE:
        row["limit_gib"] = options["memory_limit"] / GIB
        row["per_full_gram"] = row["seconds"] / gram
    else:
        del options["memory_limit"]
        row["right"] = bool(torch.equal(got.indices, maxherding(x, budget, backend="reference", **options)))
    return {**row, "contested_picks": int(got.contested_picks)}


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(sys.argv[2])))
        return
    results = Path(__file__).parent / "results" / "cpu"
    known = {}
    if sys.argv[1:]:  # these rows anew, the others as they were
        known = {row["case"]: row for row in json.loads((results / "large.json").read_text())["rows"]}
    for name in sys.argv[1:] or (*LARGE, *ADVERSE):
        answer = subprocess.run([sys.executable, __file__, "one", name], capture_output=True, text=True, check=True)
        known[name] = json.loads(answer.stdout.splitlines()[-1])
        print(known[name], file=sys.stderr)
    rows = [known[name] for name in (*LARGE, *ADVERSE) if name in known]
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
    (results / "large.json").write_text(json.dumps(result, indent=1) + "\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [columns, ["---"] * len(columns)]
    table += [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in (r.get(c, "") for c in columns)] for r in rows]
    (results / "large.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in table))


if __name__ == "__main__":
    main()
