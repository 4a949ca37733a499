"""Measure, check and report: `make peers`, or in pieces, each taking up where the last one ended.

python bench/peers measure --minutes 4     the rows that are not there yet, for four minutes
python bench/peers measure --again difal   rows anew by a part of their name (N2000, b50, L0, a library)
python bench/peers check                   picks against float64 greedy, untimed
python bench/peers report                  JSON, table and plot in bench/results
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(ROOT), str(ROOT / "python_api")]

import numpy as np
from check import Replay, Trace
from libraries import LIBRARIES
from report import SECONDS, cpu_name, write_report

from features import clustered

WORK = ROOT / "build" / "peers"
RESULTS = ROOT / "bench" / "results" / "cpu" / "peers.json"
D, LABELED = 512, 100
CASES = [
    (n, budget, conditioned)
    for n, budgets in ((2_000, (50, 500)), (10_000, (50, 1_000, 2_500)), (50_000, (50, 1_000, 12_500)))
    for budget in budgets
    for conditioned in (False, True)
]
MEMORY = 12 * 2**30  # bytes a process may have


def key(n: int, budget: int, conditioned: bool, library: str) -> str:
    return f"N{n} b{budget} {'L' + str(LABELED) if conditioned else 'L0'} {library}"


def load() -> dict:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": {}, "rows": {}}


def save(data: dict) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(part, RESULTS)


def pool(n: int) -> tuple[Path, Path, Path, float]:
    """Features, no labeled rows, labeled rows, as files; and the bandwidth. The same everywhere."""
    from difal_kernels.ops.maxherding.bandwidth import median_bandwidth

    WORK.mkdir(parents=True, exist_ok=True)
    features = clustered(n, D)
    at = WORK / f"features-{n}.npy"
    if not at.exists():
        np.save(at, features.numpy())
    none, some = WORK / "none.npy", WORK / f"labeled-{n}.npy"
    np.save(none, np.empty(0, dtype=np.int64))
    np.save(some, np.arange(0, n, n // LABELED, dtype=np.int64)[:LABELED])
    return at, none, some, median_bandwidth(features)


def measure(minutes: float, again: list[str]) -> None:
    data, until = load(), time.monotonic() + 60 * minutes
    machine = {
        "cpu": cpu_name(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "memory_limit_bytes": MEMORY,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in sorted({d for _, d in LIBRARIES.values()} | {"torch", "numpy"})},
    }
    if again:
        data["rows"] = {k: row for k, row in data["rows"].items() if not any(part in k for part in again)}
    for field in ("cpu", "threads", "memory_limit_bytes"):
        if data["rows"] and data["machine"].get(field) != machine[field]:
            raise SystemExit(
                f"{RESULTS} has rows measured with {field} {data['machine'].get(field)!r}, here it is "
                f"{machine[field]!r}: one table, one machine; measure them all anew with --again N"
            )
    data["machine"] = machine
    save(data)
    for n, budget, conditioned in CASES:
        todo = [name for name in LIBRARIES if key(n, budget, conditioned, name) not in data["rows"]]
        if not todo:
            continue
        features, none, some, bandwidth = pool(n)
        for name in todo:
            if time.monotonic() > until:
                print("time is up; run it again for the rest")
                return
            hopeless = _hopeless(data["rows"], n, budget, conditioned, name)
            labels = some if conditioned else none
            result = hopeless or one(name, features, labels, budget, bandwidth, key(n, budget, conditioned, name), n)
            row = {
                "n": n,
                "d": D,
                "budget": budget,
                "labeled": LABELED if conditioned else 0,
                "library": name,
                **result,
            }
            data["rows"][key(n, budget, conditioned, name)] = row
            save(data)
            print(key(n, budget, conditioned, name), result, flush=True)


def _hopeless(rows: dict, n: int, budget: int, conditioned: bool, name: str) -> dict | None:
    """What the same library did on an easier case of the same size, where that was to give up."""
    for smaller in sorted({b for size, b, _ in CASES if size == n and b < budget}):
        row = rows.get(key(n, smaller, conditioned, name), {})
        if row.get("status") in ("timeout", "out of memory"):
            return {"status": row["status"], "why": f"as with budget {smaller:,}"}
    return None


def one(name, features, labels, budget, bandwidth, label, n) -> dict:
    """Run one library in a process of its own, killed where it takes too long or too much."""
    out = WORK / label.replace(" ", "_")
    for suffix in (".npy", ".json"):
        Path(str(out) + suffix).unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "one.py"), name, str(features), str(labels), str(budget), repr(bandwidth)]
    process = subprocess.Popen(
        [*command, str(out), str(MEMORY)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'python_api'}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=SECONDS[n])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"status": "timeout", "why": f"over {SECONDS[n]} s"}
    answer = Path(str(out) + ".json")
    if answer.exists():
        return json.loads(answer.read_text())
    last = errors.strip().splitlines()[-1][:200] if errors.strip() else f"ended with {process.returncode}"
    if process.returncode in (-signal.SIGKILL, -signal.SIGABRT) or "memory" in last.lower() or "bad_alloc" in errors:
        return {"status": "out of memory", "why": last}
    return {"status": "error", "why": last}


def check() -> None:
    data = load()
    for n in sorted({n for n, _, _ in CASES}):
        for conditioned in (False, True):
            rows = {
                k: row
                for k, row in data["rows"].items()
                if row["n"] == n and bool(row["labeled"]) == conditioned and row["status"] == "ok"
            }
            rows = {k: row for k, row in rows.items() if "coverage" not in row}
            if not rows:
                continue
            features, none, some, bandwidth = pool(n)
            replay = Replay(np.load(features), bandwidth, np.load(some if conditioned else none))
            traces: list[Trace] = []
            for label, row in sorted(rows.items(), key=lambda item: -item[1]["budget"]):  # the rest are beginnings
                picks = np.load(str(WORK / label.replace(" ", "_")) + ".npy")
                verdict = next((known for trace in traces if (known := trace.verdict(picks))), None)
                if verdict is None:
                    traces.append(replay(picks))
                    verdict = traces[-1].verdict(picks)
                row.update(greedy=verdict.greedy, coverage=verdict.coverage, repeated=verdict.repeated)
                save(data)
                print(label, verdict, flush=True)


def _version(distribution: str) -> str:
    if distribution == "difal-kernels":
        from difal_kernels import __version__

        return __version__
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench/peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("step", choices=("all", "measure", "check", "report"), nargs="?", default="all")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no row after this long")
    parser.add_argument("--again", action="append", default=[], help="measure anew the rows whose name has this")
    options = parser.parse_args()
    if options.step in ("all", "measure"):
        measure(options.minutes, options.again)
    if options.step in ("all", "check"):
        check()
    if options.step in ("all", "report"):
        write_report(load(), RESULTS)


if __name__ == "__main__":
    main()
