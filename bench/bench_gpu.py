"""GPU benchmarks, case by case (gpu_cases.py).

    python bench/bench_gpu.py --out bench/results/gpu --seconds 300

writes OUT/results.json anew whenever a case is done; cases that were not run keep their rows. Cases run in a process of
their own and are stopped when their time is up: one that hangs, or breaks the GPU, costs itself and no other.
`--dry-run` runs every case in miniature, in this process, on whatever takes the "cuda" backend's tensors, the emulated
extension included, and writes nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command import Parser, check_names

if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/gpu")
    parser.add_argument("--seconds", type=float, default=300, help="no case is begun that may end later")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="cases by name: A,B,C")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    OPTIONS = parser.parse_args()

import contextlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator

import torch

from difal_kernels._native import load
from difal_kernels.ops import _triton
from gpu_cases import Machine, camvid, gather, global_free, local, measure_floors, scores, small_exact
from supervise import supervise

# N, D and budget.
CITYSCAPES = lambda m: m.pick((148_750, 6144, 74_375), (120, 8, 30))  # noqa: E731
MILLION = lambda m: m.pick((1_000_000, 512, 10_000), (130, 8, 15))  # noqa: E731

# Seconds after which a case is stopped, its data and its naive loop included, and what it runs.
CASES: dict[str, tuple[float, Callable[[Machine], dict]]] = {
    "exact": (20, small_exact),
    "edald": (15, scores),
    "hypercolumns": (30, gather),
    "local": (40, local),
    "camvid-dense": (30, lambda m: camvid(m, False)),
    "camvid-matrix-free": (30, lambda m: camvid(m, True)),
    "cityscapes": (60, lambda m: global_free(m, *CITYSCAPES(m), goal=20, goal_bytes=40 * 10**9)),
    "million": (90, lambda m: global_free(m, *MILLION(m), goal=60, goal_bytes=None)),
    "triton-edald": (20, lambda m: scores(m, "triton")),
    "triton-hypercolumns": (30, lambda m: gather(m, "triton")),
    "triton-local": (50, lambda m: local(m, "triton")),
    "triton-camvid-dense": (40, lambda m: camvid(m, False, "triton")),
    "triton-cityscapes": (
        80,
        lambda m: global_free(m, *CITYSCAPES(m), goal=20, goal_bytes=40 * 10**9, backend="triton"),
    ),
    "triton-million": (100, lambda m: global_free(m, *MILLION(m), goal=60, goal_bytes=None, backend="triton")),
}


def describe(m: Machine) -> dict:
    facts = {"torch": torch.__version__, "device": str(m.device), "emulated": load("_cuda").DEVICE == "cpu"}
    if m.device.type == "cuda":
        properties = torch.cuda.get_device_properties(m.device)
        facts |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count}
        facts |= {"memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run(query, capture_output=True, text=True, timeout=20)
            facts["driver_and_clocks"] = said.stdout.strip()
    return facts


def write(path: Path, content: dict) -> None:
    """Puts a case's row in its place; all of the file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    rows = json.loads(path.read_text()) if path.exists() else {}
    rows[content["case"]] = content
    partial.write_text(json.dumps(rows, indent=1) + "\n")
    os.replace(partial, path)


def work(names: list[str], m: Machine) -> Iterator[dict]:
    """Tells the machine's facts, then of each case that it begins and its row; after an error no further case."""
    facts = {**describe(m), **measure_floors(m)}
    yield {"facts": facts}
    for name in names:
        yield {"begin": name}
        began, row = time.monotonic(), {"case": name}
        if name.startswith("triton-") and _triton.unavailable() is not None:
            row["left_out"] = _triton.unavailable()
        else:
            try:
                row |= CASES[name][1](m)
            except Exception as error:  # the other cases still count
                traceback.print_exc()
                row["error"] = f"{type(error).__name__}: {error}"
        row["took_seconds"] = time.monotonic() - began
        yield row
        if "error" in row and m.device.type == "cuda":
            return  # the GPU may be left in any state: the rest in a new process
        if m.device.type == "cuda":
            torch.cuda.empty_cache()


def main(options: argparse.Namespace) -> int:
    check_names(parser, options.only, CASES, "case")
    module = load("_cuda")
    if isinstance(module, str):
        sys.exit(module)
    if module.DEVICE == "cpu" and not options.dry_run:
        sys.exit("this is the emulated extension: it times nothing; use --dry-run")
    names = options.only or list(CASES)
    if options.worker or options.dry_run:
        messages = work(names, Machine(torch.device(module.DEVICE), options.dry_run))
        if options.worker:
            for message in messages:
                print(json.dumps(message), flush=True)
            return 0
    else:
        command = [sys.executable, __file__, "--worker", "--only"]
        limits = {name: CASES[name][0] for name in names}
        messages = supervise(lambda left: [*command, ",".join(left)], limits, time.monotonic() + options.seconds)
    facts, failed = {}, 0
    for message in messages:
        if "facts" in message:
            facts = message["facts"]
        if "case" in message:
            failed += "error" in message
            if not options.dry_run:
                write(options.out / "results.json", {**facts, **message})
        if "begin" not in message:
            print(json.dumps(message), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(OPTIONS))
