"""Compiles every Triton kernel for every architecture and tabulates registers and spills: `make triton-compile`.

Needs triton and no GPU. Ends with an error if a kernel spills more than ALLOWED bytes to local memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"
sys.path.insert(0, str(Path(__file__).parents[1]))

from difal_kernels.ops import _triton

ALLOWED = 40  # bytes, as in compile_cuda.py


def compile_one(job: tuple[int, str]) -> _triton.Compiled:
    which, arch = job
    return _triton.compile_ahead(_triton.builds()[which], arch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", default=";".join(_triton.ARCHS), help="compute capabilities, such as '90;120'")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    archs = options.archs.split(";")
    names = [build.name for build in _triton.builds()]
    jobs = [(which, arch) for which in range(len(names)) for arch in archs]
    with ProcessPoolExecutor(options.jobs) as pool:
        done = list(pool.map(compile_one, jobs))
    cells = {(c.name, c.arch): c for c in done}
    print("registers per thread, after + the bytes spilled, after / the bytes of shared memory per block\n")
    print(f"| kernel | {' | '.join('sm_' + a for a in archs)} |\n| --- |{' --- |' * len(archs)}")
    for name in names:
        row = [cells[name, arch] for arch in archs]
        said = [f"{c.registers}{f' +{c.spilled}' if c.spilled else ''} / {c.shared}" for c in row]
        print(f"| `{name}` | {' | '.join(said)} |")
    worst = max((c.spilled for c in done), default=0)
    if worst > ALLOWED:
        sys.exit(f"a kernel spills {worst} bytes, {ALLOWED} are allowed")


if __name__ == "__main__":
    main()
