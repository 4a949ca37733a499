"""Farthest-first traversal beside other libraries: bench/results/cpu/kcenter.{json,md}.

python bench/kcenter.py                     all cases
python bench/kcenter.py "gaussian"          those whose name has this part, the others as they were

Each run is a process of its own. A library that does the same work at each pick is run for its first picks only, and
its time scaled; the table says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from features import clustered, photo_pixels
from kcenter_peers import PEERS
from peers.report import cpu_name

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "cpu"
LIMIT = 240  # seconds of a run
SLOW_PEER_PICKS = 100  # picks that a library is run for that does the same work at each
SAME_WORK = {"naive torch loop", "anomalib, not projected", "fpsample", "scikit-matter"}
STEPS = (1, 30, 300)  # at which the picks are checked against all distances in float64


def gaussian(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def uniform(n: int, d: int) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(0))


ALL, QUICK = tuple(PEERS), ("difal", "naive torch loop")
CASES = {  # name: features, N, D, budget, who
    "gaussian 40,000 x 512": (gaussian, 40_000, 512, 4_000, ALL),
    "clusters 40,000 x 512": (clustered, 40_000, 512, 4_000, ALL),
    "pixels 40,000 x 512": (photo_pixels, 40_000, 512, 4_000, QUICK),
    "clusters 163,840 x 1,536": (clustered, 163_840, 1_536, 16_384, QUICK),
    "gaussian 163,840 x 1,536": (gaussian, 163_840, 1_536, 16_384, QUICK),
    "points 200,000 x 3": (uniform, 200_000, 3, 4_000, (*QUICK, "fpsample", "fpsample, buckets")),
}


def one(case: str, peer: str, out: str) -> dict:
    make, n, d, budget, _ = CASES[case]
    x, (function, _) = make(n, d), PEERS[peer]
    some = min(budget, SLOW_PEER_PICKS) if peer in SAME_WORK else budget
    function(x[:300].contiguous(), 5)  # compile, load, start threads
    began, worked = time.perf_counter(), time.process_time()
    picks = torch.as_tensor(function(x, some), dtype=torch.int64)
    row = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked, "picks": some}
    torch.save(picks, out)
    if peer == "difal":
        row["right"] = all(is_farthest(x, picks, t) for t in STEPS if t < budget)
    return row


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


def measure(case: str, peer: str) -> dict:
    distribution = PEERS[peer][1]
    row = {"case": case, "library": peer}
    try:
        row["version"] = version(distribution)
    except PackageNotFoundError:
        return {**row, "failed": f"{distribution} is not installed"}
    out = HERE.parent / "build" / "kcenter" / f"{case} {peer}.pt".replace(" ", "_").replace(",", "")
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "one", case, peer, str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {**row, "failed": f"over {LIMIT} s"}
    if done.returncode:
        return {**row, "failed": done.stderr.strip().splitlines()[-1][:100]}
    row |= json.loads(done.stdout.splitlines()[-1])
    ours = Path(str(out).replace(peer.replace(" ", "_").replace(",", ""), "difal"))
    picks, want = torch.load(out), torch.load(ours)
    equal = picks == want[: len(picks)]
    row["same_picks"] = int(equal.cummin(0).values.sum())
    return row


def table(rows: list[dict]) -> str:
    head = ["case", "budget", "library", "seconds", "times ours", "processor seconds", "times ours", "picks as ours"]
    lines = [head, ["---"] * len(head)]
    for case, (_, _, _, budget, _) in CASES.items():
        own = next((r for r in rows if r["case"] == case and r["library"] == "difal"), None)
        for row in (r for r in rows if r["case"] == case):
            cells = [case, f"{budget:,}", f"{row['library']} {row.get('version', '')}"]
            if "failed" in row:
                lines.append([*cells, row["failed"], "", "", "", ""])
                continue
            scale = budget / row["picks"]
            for field in ("seconds", "cpu_seconds"):
                value = row[field] * scale
                cells += [
                    f"{value:.3g}" + (f" (from {row['picks']} picks)" if scale > 1 else ""),
                    f"{value / own[field]:.3g}",
                ]
            same = "all" if row["same_picks"] == row["picks"] else f"first {row['same_picks']:,}"
            lines.append([*cells, same + (f" of {row['picks']}" if scale > 1 else "")])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(*sys.argv[2:])))
        return
    at = RESULTS / "kcenter.json"
    known = {}
    if sys.argv[1:] and at.exists():
        known = {(r["case"], r["library"]): r for r in json.loads(at.read_text())["rows"]}
    for case, (*_, peers) in CASES.items():
        if sys.argv[1:] and not any(part in case for part in sys.argv[1:]):
            continue
        for peer in peers:
            known[case, peer] = measure(case, peer)
            print(known[case, peer], file=sys.stderr)
    rows = [known[case, peer] for case in CASES for peer in CASES[case][-1] if (case, peer) in known]
    machine = {"processor": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    part = at.with_suffix(".part")
    part.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    os.replace(part, at)
    wrong = [r["case"] for r in rows if not r.get("right", True)]
    at.with_suffix(".md").write_text(
        f"On {machine['processor']}, {machine['threads']} threads, torch {machine['torch']}; float32 features.\n\n"
        + table(rows)
        + "\n*Picks as ours*: how many came before the first that differs. "
        + (f"WRONG picks of ours: {wrong}" if wrong else "Ours were checked against all float64 distances at steps ")
        + ("" if wrong else ", ".join(map(str, STEPS)) + ".")
        + "\n"
    )


if __name__ == "__main__":
    main()
