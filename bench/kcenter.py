"""Farthest-first traversal beside other libraries: bench/results/cpu/kcenter.{json,md}.

    python bench/kcenter.py                     all cases
    python bench/kcenter.py gaussian            those whose name has this part, the others as they were
    python bench/kcenter.py "40,000"            without the cases of PatchCore's size

Each run is a process of its own (kcenter_run.py). A library that does the same work at each pick is run for its first
picks only, and its time scaled; the table says so. All picks are compared with ours, and ours at some steps with all
distances in float64.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from command import Parser, part_of
from kcenter_peers import PEERS
from peers.report import cpu_name
from tables import RESULTS, write

HERE = Path(__file__).resolve().parent
LIMIT = 240  # seconds of a run
STEPS = (1, 30, 300)  # at which our picks are checked against all distances in float64
SAME_WORK = {  # picks that a library is run for that does the same work at each
    "naive torch loop": 100,
    "anomalib": 400,
    "anomalib, not projected": 100,
    "fpsample": 100,
    "scikit-matter": 100,
}
ALL, QUICK = tuple(PEERS), ("difal", "naive torch loop")
CASES = {  # name: source, N, D, budget, who
    "gaussian 40,000 x 512": ("gaussian", 40_000, 512, 4_000, ALL),
    "clusters 40,000 x 512": ("clusters", 40_000, 512, 4_000, ALL),
    "pixels 40,000 x 512": ("pixels", 40_000, 512, 4_000, QUICK),
    "clusters 163,840 x 1,536": ("clusters", 163_840, 1_536, 16_384, QUICK),
    "gaussian 163,840 x 1,536": ("gaussian", 163_840, 1_536, 16_384, QUICK),
    "points 200,000 x 3": ("uniform", 200_000, 3, 4_000, (*QUICK, "fpsample", "fpsample, buckets")),
}


def measure(case: str, peer: str) -> dict:
    row = {"case": case, "library": peer}
    source, n, d, budget, _ = CASES[case]
    picks = min(budget, SAME_WORK.get(peer, budget))
    setting = {"source": source, "n": n, "d": d, "picks": picks, "peer": peer, "steps": STEPS}
    command = [sys.executable, str(HERE / "kcenter_run.py"), json.dumps(setting)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {**row, "failed": f"over {LIMIT} s"}
    if done.returncode:
        return {**row, "failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:100]}
    return row | json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict]) -> str:
    head = [
        "case",
        "budget",
        "library",
        "seconds",
        "times ours",
        "processor seconds",
        "times ours",
        "picks as ours",
        "radius",
    ]
    lines = [head, ["---"] * len(head)]
    for case, (_, _, _, budget, _) in CASES.items():
        own = next((r for r in rows if r["case"] == case and r["library"] == "difal"), None)
        for row in (r for r in rows if r["case"] == case):
            cells = [case, f"{budget:,}", f"{row['library']} {row.get('version', '')}"]
            if "failed" in row:
                lines.append([*cells, row["failed"], "", "", "", "", ""])
                continue
            scale = budget / row["picks"]
            for field in ("seconds", "cpu_seconds"):
                value = row[field] * scale
                cells += [
                    f"{value:.3g}" + (f" (from {row['picks']} picks)" if scale > 1 else ""),
                    f"{value / own[field]:.3g}" if own and "failed" not in own else "",
                ]
            same = "all" if row["same_picks"] == row["picks"] else f"first {row['same_picks']:,}"
            radius = f"{row['radius_per_ours']:.4f}" if "radius_per_ours" in row else ""
            lines.append([*cells, same + (f" of {row['picks']}" if scale > 1 else ""), radius])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("parts", nargs="*", type=part_of(CASES, "case"), metavar="PART", help="of a case's name")
    parts = parser.parse_args().parts
    stored = RESULTS / "kcenter.json"
    rows = json.loads(stored.read_text())["rows"] if stored.exists() else []
    known = {(r["case"], r["library"]): r for r in rows}
    for case, (*_, peers) in CASES.items():
        if parts and not any(part in case for part in parts):
            continue
        for peer in peers:
            began = time.perf_counter()
            known[case, peer] = measure(case, peer)
            print(f"{time.perf_counter() - began:.1f} s", known[case, peer], file=sys.stderr, flush=True)
            rows = [known[case, peer] for case in CASES for peer in CASES[case][-1] if (case, peer) in known]
            report(rows)


def report(rows: list[dict]) -> None:
    machines = {row["machine"] for row in rows if "machine" in row}
    wrong = [r["case"] for r in rows if not r.get("right", True)]
    steps = ", ".join(map(str, STEPS))
    text = (
        f"On {cpu_name()}, {'; '.join(sorted(machines))}; float32 features.\n\n{table(rows)}\n"
        "*Picks as ours*: how many came before the first that differs; where any does, *radius* is the largest "
        "distance of a point to its nearest pick, in units of ours after as many picks. "
        + (f"WRONG picks of ours: {wrong}" if wrong else f"Ours were checked against all float64 distances at {steps}.")
        + "\n"
    )
    write("kcenter", {"processor": cpu_name(), "rows": rows}, text)


if __name__ == "__main__":
    main()
