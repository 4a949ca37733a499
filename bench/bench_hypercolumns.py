"""hypercolumns and project_then_resize against the plain torch that people write, in time and peak memory.

    python bench/bench_hypercolumns.py         prints a table and writes bench/results/cpu/hypercolumns.json
    pytest bench/bench_hypercolumns.py         the same cases under pytest-benchmark

The maps have the paper's proportions, scaled to D = 1536: 768 channels at 32 x 32 (1/8 of the image), 384 at
64 x 64, 192 at 128 x 128, 192 at 256 x 256. The image is 256 x 256, the head 1536-128-32-11 with batch
normalisation. All ways take turns in one process, and the best time of each counts; peak memory is what one
call adds in a process of its own.
"""

from __future__ import annotations

from command import Parser, check_names

THREADS = 2
if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "WAY"), help="print one way's peak bytes and end")
    parser.add_argument("--case", action="append", default=[], help="only this case")
    OPTIONS = parser.parse_args()

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from difal_kernels import __version__, _cpu, hypercolumns, project_then_resize

LEVELS = ((768, 32), (384, 64), (192, 128), (192, 256))
SIZE = (256, 256)
CLASSES = 11
RESULTS = Path(__file__).parent / "results/cpu/hypercolumns.json"


def maps(dtype=torch.float32, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(1, c, s, s, generator=generator).to(dtype) for c, s in LEVELS]
    return [m.contiguous(memory_format=layout) for m in drawn]


def points(count):
    return torch.randint(SIZE[0], (count, 2), generator=torch.Generator().manual_seed(1))


def head():
    torch.manual_seed(2)
    channels = sum(c for c, _ in LEVELS)
    tail = [nn.ReLU(), nn.BatchNorm1d(128), nn.Linear(128, 32), nn.ReLU(), nn.BatchNorm1d(32)]
    return nn.Sequential(nn.Linear(channels, 128), *tail, nn.Linear(32, CLASSES)).eval()


def interpolate_and_index(maps, at):
    dense = torch.cat([F.interpolate(m.float(), SIZE, mode="bilinear") for m in maps], 1)
    return F.normalize(dense[0, :, at[:, 0], at[:, 1]].T, dim=1)


def grid_sample(maps, at):
    """The best plain torch: samples the maps at the points alone."""
    grid = (2 * at.flip(1) + 1).float() / SIZE[0] - 1
    sampled = [F.grid_sample(m.float(), grid[None, None], padding_mode="border", align_corners=False) for m in maps]
    return F.normalize(torch.cat(sampled, 1)[0, :, 0].T, dim=1)


def ours_at_points(maps, at):
    return hypercolumns(maps, at, SIZE, out_dtype=torch.float32)


def dense_head(maps, layers):
    dense = F.normalize(torch.cat([F.interpolate(m.float(), SIZE, mode="bilinear") for m in maps], 1), dim=1)
    return layers(dense.flatten(2)[0].T).view(1, *SIZE, CLASSES)


def ours_dense(maps, layers):
    return project_then_resize(maps, layers[0].weight, layers[0].bias, SIZE, tail=layers[1:])


# case: (how to make the arguments, the plain way, other ways)
CASES = {
    "10,000 points": (
        lambda: (maps(), points(10_000)),
        interpolate_and_index,
        {"grid_sample": grid_sample, "difal": ours_at_points},
    ),
    "10,000 points, channels-last maps": (
        lambda: (maps(layout=torch.channels_last), points(10_000)),
        interpolate_and_index,
        {"grid_sample": grid_sample, "difal": ours_at_points},
    ),
    "10,000 points, float16 maps": (
        lambda: (maps(torch.float16), points(10_000)),
        interpolate_and_index,
        {"difal": ours_at_points},
    ),
    "50 points": (
        lambda: (maps(), points(50)),
        interpolate_and_index,
        {"grid_sample": grid_sample, "difal": ours_at_points},
    ),
    "head at all 65,536 pixels": (lambda: (maps(), head()), dense_head, {"difal": ours_dense}),
    "head at all 65,536 pixels, float16 maps": (
        lambda: (maps(torch.float16), head()),
        dense_head,
        {"difal": ours_dense},
    ),
}


def ways(case):
    make, plain, others = CASES[case]
    return make, {"plain": plain, **others}


def peak_memory() -> int:
    """Bytes; of this process alone, as getrusage's value is inherited across exec."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def resident() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


@torch.no_grad()
def measure_peak(case, way) -> int:
    """What one call adds to this process's peak; arguments are made and torch's threads started before."""
    make, functions = ways(case)
    arguments = make()
    torch.ones(512, 512) @ torch.ones(512, 512)
    before = resident()
    answer = functions[way](*arguments)
    del answer
    return max(0, peak_memory() - before)


def peak_in_own_process(case, way) -> int | None:
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, __file__, "--peak", case, way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def measure(case, repeats) -> dict:
    make, functions = ways(case)
    arguments = make()
    answers = {way: run(*arguments) for way, run in functions.items()}  # warm, and compared before timed
    for way, answer in answers.items():
        torch.testing.assert_close(answer, answers["plain"], rtol=0, atol=1e-4 if way == "grid_sample" else 1e-5)
    del answers
    seconds = {way: [] for way in functions}
    for _ in range(repeats):
        for way, run in functions.items():
            start = time.perf_counter()
            run(*arguments)
            seconds[way].append(time.perf_counter() - start)
    rows = {}
    for way, taken in seconds.items():
        p20, p50, p80 = (float(v) for v in torch.tensor(taken).quantile(torch.tensor([0.2, 0.5, 0.8])))
        peak = peak_in_own_process(case, way)
        rows[way] = {
            "seconds_best": min(taken),
            "seconds_p20": p20,
            "seconds_p50": p50,
            "seconds_p80": p80,
            "peak_bytes": peak,
        }
    for row in rows.values():
        row["times_faster"] = rows["plain"]["seconds_best"] / row["seconds_best"]
        row["times_smaller"] = rows["plain"]["peak_bytes"] / row["peak_bytes"] if row["peak_bytes"] else None
    return rows


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((l.split(":", 1)[1].strip() for l in lines if l.startswith("model name")), platform.processor())


def table(results) -> str:
    lines = [
        "| case | way | best (ms) | times faster | peak memory (MB) | times smaller |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for case, rows in results.items():
        for way, row in rows.items():
            memory = f"{row['peak_bytes'] / 1e6:.0f} | {row['times_smaller']:.1f}" if row["peak_bytes"] else "- | -"
            lines.append(f"| {case} | {way} | {row['seconds_best'] * 1e3:.1f} | {row['times_faster']:.1f} | {memory} |")
    return "\n".join(lines)


def main(options):
    check_names(parser, options.case, CASES, "case")
    torch.set_num_threads(options.threads)
    if options.peak:
        case, way = options.peak
        if case not in CASES or way not in ways(case)[1]:
            known = "; ".join(f"{case!r} {', '.join(ways(case)[1])}" for case in CASES)
            parser.error(f"--peak: no {case!r} {way!r}; there are {known}")
        print(measure_peak(*options.peak))
        return
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for case in options.case or CASES:
        stored[case] = {"machine": machine(), "ways": measure(case, options.repeats)}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")  # a later run of a case replaces it
    for fact, value in machine().items():
        print(f"{fact}: {value}")
    print(table({case: stored[case]["ways"] for case in options.case or CASES}))


def machine() -> dict:
    return {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "isa": _cpu.isa(),
        "torch": torch.__version__,
        "difal_kernels": __version__,
        "load_average": round(os.getloadavg()[0], 1),
    }


@pytest.mark.parametrize(("case", "way"), [(case, way) for case in CASES for way in ways(case)[1]])
def test_case(benchmark, case, way):
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    make, functions = ways(case)
    arguments = make()
    benchmark.group = case
    try:
        with torch.no_grad():
            benchmark.pedantic(functions[way], args=arguments, rounds=5, warmup_rounds=1)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main(OPTIONS)
