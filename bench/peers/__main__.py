"""Other libraries on the same features. Measures, checks and reports, each taking up where the last one ended.

    python bench/peers --anew                  everything, about ten minutes on two quiet cores
    python bench/peers measure --minutes 4     the rows that are not there yet, for four minutes
    python bench/peers measure --again difal   rows anew by a part of their name (N2000, b50, L0, a library)
    python bench/peers check                   picks against float64 greedy, untimed
    python bench/peers report                  JSON, table and plot in bench/results

`make peers` runs it in build/peers/venv, an environment of its own with all the libraries. Up to 10,000 rows every pick
is replayed in float64; of more rows those at some steps are, each beside 200 rivals.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(ROOT), str(ROOT / "python_api")]

from libraries import LIBRARIES
from report import REPLAYED, SECONDS, cpu_name, write_report

from command import Parser

if TYPE_CHECKING:
    from check import Verdict

WORK = ROOT / "build" / "peers"
RESULTS = ROOT / "bench" / "results" / "cpu" / "peers.json"
D, LABELED = 512, 100
CASES = [  # N, budget, whether LABELED rows are selected before
    *((2_000, budget, False) for budget in (50, 500)),
    (2_000, 500, True),
    *((10_000, budget, False) for budget in (50, 1_000, 2_500)),
    *((50_000, budget, False) for budget in (50, 1_000, 12_500)),
]
MEMORY = 12 * 2**30  # bytes a process may have
ALIKE = {"naive torch", "scikit-activeml", "kmedoids BUILD", "apricot naive"}  # every pick costs them the same


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
    import numpy as np

    from difal_kernels.ops.maxherding.bandwidth import median_bandwidth
    from features import clustered

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
    """What the same library did on an easier case of the same size, where that was to give up or foretells it."""
    easier = [(b, False) for size, b, _ in CASES if size == n and b <= budget]
    easier += [(b, True) for size, b, _ in CASES if conditioned and size == n and b < budget]
    for smaller, labeled in sorted(set(easier) - {(budget, conditioned)}):
        row = rows.get(key(n, smaller, labeled, name), {})
        if row.get("status") in ("timeout", "out of memory"):
            beside = "" if labeled == conditioned else " without labeled rows"
            return {"status": row["status"], "why": f"as with budget {smaller:,}{beside}"}
        per_pick = row.get("seconds", 0) / smaller / 4  # the rest may be what comes before the first pick
        if name in ALIKE and per_pick * budget > SECONDS[n]:
            return {"status": "timeout", "why": f"{row['seconds']:.3g} s for {smaller:,} picks, each costs the same"}
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
    import numpy as np

    data = load()
    for n, conditioned in dict.fromkeys((n, conditioned) for n, _, conditioned in CASES):
        rows = {
            k: row
            for k, row in data["rows"].items()
            if (row["n"], bool(row["labeled"]), row["status"]) == (n, conditioned, "ok") and "coverage" not in row
        }
        if not rows:
            continue
        features, none, some, bandwidth = pool(n)
        features, labeled = np.load(features), np.load(some if conditioned else none)
        picks = {k: np.load(WORK / f"{k.replace(' ', '_')}.npy") for k in rows}
        for label, verdict in verdicts(features, bandwidth, labeled, picks):
            rows[label].update(greedy=verdict.greedy, coverage=verdict.coverage, repeated=verdict.repeated)
            save(data)
            print(label, verdict, flush=True)


def verdicts(features, bandwidth: float, labeled, picks: dict) -> Iterator[tuple[str, Verdict]]:
    """A verdict on each selection of one pool, by all its picks or, of a large pool, at some of them."""
    import torch
    from check import Replay, Verdict

    from replay import replay_steps

    if len(features) > REPLAYED:
        for label, found in picks.items():
            leads, coverage = replay_steps(torch.from_numpy(features), torch.from_numpy(found), bandwidth)
            greedy = next((step for step, lead in leads.items() if lead > 1e-12), len(found))
            yield label, Verdict(greedy, coverage, len(found) - len(set(found.tolist())))
        return
    replay, traces = Replay(features, bandwidth, labeled), []
    for label, found in sorted(picks.items(), key=lambda item: -len(item[1])):  # the rest are beginnings
        verdict = next((known for trace in traces if (known := trace.verdict(found))), None)
        if verdict is None:
            traces.append(replay(found))
            verdict = traces[-1].verdict(found)
        yield label, verdict


def _version(distribution: str) -> str:
    if distribution == "difal-kernels":
        from difal_kernels import __version__

        return __version__
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def main() -> None:
    parser = Parser(__doc__)
    parser.prog = "bench/peers"
    parser.add_argument("step", choices=("all", "measure", "check", "report"), nargs="?", default="all")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no row after this long")
    parser.add_argument("--again", action="append", default=[], help="measure anew the rows whose name has this")
    parser.add_argument("--anew", action="store_const", const=["N"], dest="again", help="measure all rows anew")
    options = parser.parse_args()
    if options.step in ("all", "measure"):
        measure(options.minutes, options.again)
    if options.step in ("all", "check"):
        check()
    if options.step in ("all", "report"):
        write_report(load(), RESULTS)


if __name__ == "__main__":
    main()
