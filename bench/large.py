"""Selection without the kernel matrix: `python bench/large.py [ROW...]`. Writes results/cpu/large.json and .md.

Each row is a process of its own: seconds, also in units of one full tiled Gram GEMM of the same size in the same
process (of large pools, from `GRAM_TILES` of its tiles), and peak memory beyond the features. At `REPLAYED` steps the
gain of the pick is compared in float64 with those of its nearest rivals and of candidates drawn at random. The adverse
rows are data on which entries do not die, or gains tie; their picks are compared with the float64 reference. The rows
of `HOURS` are run when they are named: a million samples take three quarters of an hour on two cores.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from features import SOURCES
from tables import RESULTS, markdown, write

GIB = 1 << 30
LARGE = {  # source, N, D, budget, memory limit
    "clusters": ("clusters", 100_000, 256, 10_000, 2 * GIB),
    "pixels": ("pixels", 100_000, 256, 10_000, 2 * GIB),
}
HOURS = {
    "quarter of a million": ("clusters", 250_000, 128, 10_000, 4 * GIB),
    "half a million": ("clusters", 500_000, 128, 10_000, 8 * GIB),
    "a million": ("clusters", 1_000_000, 128, 10_000, 8 * GIB),
    "200,000 x 768": ("clusters", 200_000, 768, 20_000, 8 * GIB),
}
GRAM_TILES = 2_000  # timed, of a pool that has more of them
REPLAYED = (0, 1, 10, 100, 1_000, 5_000)  # steps
RIVALS = 100  # picks that follow, and as many candidates drawn at random
ADVERSE = {  # data, N, budget, options
    "all equal": (lambda n: torch.ones(n, 64), 4_000, 200, {}),
    "all far apart": (lambda n: torch.randn(n, 64), 4_000, 200, {"bandwidth": 1e-3}),
    "two tight clumps": (lambda n: torch.randn(n, 64) * 1e-3 + (torch.arange(n) % 2)[:, None], 1_000, 100, {}),
    "flat: cauchy, h = 330": (lambda n: torch.randn(n, 64), 1_000, 10, {"kernel": "cauchy", "bandwidth": 330.0}),
    "flat: cauchy, h = 1e4": (lambda n: torch.randn(n, 64), 1_000, 10, {"kernel": "cauchy", "bandwidth": 1e4}),
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


def worst_pick(x: torch.Tensor, picks: torch.Tensor, bandwidth: float) -> float:
    """The largest (gain of a rival - gain of the pick) / first gain over the replayed steps; at most 1e-12 if right."""
    steps = [step for step in REPLAYED if step < len(picks)]
    generator = torch.Generator().manual_seed(0)
    exact = x.double() / bandwidth
    norms = exact.square().sum(1)

    def kernel(points: torch.Tensor) -> torch.Tensor:
        square = norms[:, None] + norms[points] - 2 * (exact @ exact[points].T)
        return square.clamp_(min=0).neg_().exp_()

    covered, done, first, worst = torch.zeros(len(x), dtype=torch.float64), 0, None, -float("inf")
    for step in steps:
        for points in picks[done:step].split(64) if step > done else ():
            covered = torch.maximum(covered, kernel(points).amax(1))
        done = step
        drawn = torch.randint(len(x), (RIVALS,), generator=generator)
        rivals = torch.cat([picks[step : step + 1 + RIVALS], drawn[~torch.isin(drawn, picks[:step])]])
        gains = torch.cat([(kernel(some) - covered[:, None]).clamp_(min=0).sum(0) for some in rivals.split(64)])
        first = float(gains[0]) if first is None else first
        worst = max(worst, float(gains[1:].max() - gains[0]) / first)
    return worst


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def one(name: str) -> dict:
    """The row `name`, in this process."""
    from difal_kernels import explain, maxherding
    from difal_kernels.ops.maxherding.backends import BACKENDS
    from difal_kernels.ops.maxherding.backends.cpu import free_memory
    from difal_kernels.ops.maxherding.bandwidth import median_bandwidth

    torch.manual_seed(0)
    if name in LARGE | HOURS:
        source, n, d, budget, limit = (LARGE | HOURS)[name]
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
        row["worst_pick"] = worst_pick(x, got.indices, options["bandwidth"])
    else:
        del options["memory_limit"]
        row["right"] = bool(torch.equal(got.indices, maxherding(x, budget, backend="reference", **options)))
    return {**row, "contested_picks": int(got.contested_picks)}


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(sys.argv[2])))
        return
    known = {}
    if sys.argv[1:]:  # these rows anew, the others as they were
        known = {row["case"]: row for row in json.loads((RESULTS / "large.json").read_text())["rows"]}
    for name in sys.argv[1:] or (*LARGE, *ADVERSE):
        answer = subprocess.run([sys.executable, __file__, "one", name], stdout=subprocess.PIPE, text=True, check=True)
        known[name] = json.loads(answer.stdout.splitlines()[-1])
        print(known[name], file=sys.stderr)
    rows = [known[name] for name in (*LARGE, *HOURS, *ADVERSE) if name in known]
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
    write("large", result, markdown(rows))


if __name__ == "__main__":
    main()
