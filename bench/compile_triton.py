"""Compiles every Triton kernel for every architecture and tabulates registers and spills: `make triton-compile`.

Needs triton and no GPU. For sm_90, how many warps a multiprocessor holds. Ends with an error if a kernel spills more
than ALLOWED bytes to local memory, or, where it multiplies on tensor cores, if the loop that does so reads or writes
what was spilled more than HOT times a turn.
"""

from __future__ import annotations

import argparse

from command import Parser, check_names

if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--archs", help="compute capabilities, such as '90;120'; all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kernels", default="", help="a regular expression of the names wanted, such as 'fill'")
    OPTIONS = parser.parse_args()

import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"
sys.path.insert(0, str(Path(__file__).parents[1]))

import occupancy
from difal_kernels.ops import _triton

ALLOWED = 40  # bytes, as in compile_cuda.py
HOT = 2


def compile_one(job: tuple[int, str]) -> _triton.Compiled:
    which, arch = job
    return _triton.compile_ahead(_triton.builds()[which], arch)


def turn_of(build: _triton.Build) -> str:
    """What a turn of the loop on tensor cores multiplies."""
    chunk, split = build.constants["CHUNK"], build.constants["SPLIT"]
    return f"{chunk} numbers of {'split rows' if split else build.types['a'].lstrip('*')}"


def registers_of(c: _triton.Compiled) -> str:
    return f"{c.registers}{f' +{c.spilled}' if c.spilled else ''}"


def loop_of(c: _triton.Compiled) -> str:
    products = sum("MMA" in name for name in c.loop)
    return f"{len(c.loop)} / {products} / {c.additions_in_loop} / {c.spills_in_loop}"


def main(options: argparse.Namespace) -> None:
    archs = options.archs.split(";") if options.archs else _triton.ARCHS
    check_names(parser, archs, _triton.ARCHS, "architecture")
    builds = _triton.builds()
    wanted = [which for which, build in enumerate(builds) if re.search(options.kernels, build.name)]
    names = list(dict.fromkeys(builds[which].name for which in wanted))
    jobs = [(which, arch) for which in wanted for arch in archs if arch in builds[which].archs]
    with ProcessPoolExecutor(options.jobs) as pool:
        done = list(pool.map(compile_one, jobs))
    cells = {(c.name, c.arch): c for c in done}
    print("registers per thread, after + the bytes spilled, after / the bytes of shared memory per block\n")
    print(f"| kernel | {' | '.join('sm_' + a for a in archs)} |\n| --- |{' --- |' * len(archs)}")
    for name in names:
        row = [cells.get((name, arch)) for arch in archs]
        said = [f"{registers_of(c)} / {c.shared}" if c else "" for c in row]
        print(f"| `{name}` | {' | '.join(said)} |")
    by_name = {builds[which].name: builds[which] for which in wanted}
    if occupancy.ARCH in archs:
        print(f"\nsm_{occupancy.ARCH}: warps of a program, and of {occupancy.WARPS} that a multiprocessor holds\n")
        print("| kernel | warps each | registers | shared memory | warps |\n| --- | --- | --- | --- | --- |")
        for name in names:
            c, each = cells[name, occupancy.ARCH], by_name[name].options["num_warps"]
            warps = occupancy.resident_warps(32 * each, c.registers, c.shared)
            size = f"{c.shared >> 10} KB" if c.shared >= 1024 else f"{c.shared} B" if c.shared else ""
            print(f"| `{name}` | {each} | {registers_of(c)} | {size} | {warps} |")
    print(
        "\nthe loop on tensor cores: instructions / products / float32 additions / reads and writes of what was "
        "spilled\n"
    )
    print(f"| a turn is | {' | '.join('sm_' + a for a in archs)} |\n| --- |{' --- |' * len(archs)}")
    for name in names:
        row = [cells.get((name, arch)) for arch in archs]
        if any(c and c.loop for c in row):
            print(f"| {turn_of(by_name[name])} | {' | '.join(loop_of(c) if c else '' for c in row)} |")
    hot = max((c.spills_in_loop for c in done), default=0)
    if hot > HOT:
        sys.exit(f"a loop on tensor cores reads or writes what was spilled {hot} times, {HOT} are allowed")
    worst = max((c.spilled for c in done if not c.loop), default=0)
    if worst > ALLOWED:
        sys.exit(f"a kernel spills {worst} bytes, {ALLOWED} are allowed")


if __name__ == "__main__":
    main(OPTIONS)
