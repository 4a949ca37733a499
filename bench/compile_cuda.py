"""Compiles every CUDA kernel for every architecture and tabulates what ptxas says of it: `make cuda-compile`.

Needs nvcc and no GPU. Registers and spills per kernel and architecture, and for sm_90 how many warps a multiprocessor
holds; ends with an error if a kernel spills more than ALLOWED bytes to local memory.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import occupancy

ROOT = Path(__file__).parents[1]
ARCHS = ("80", "86", "89", "90", "100", "120")
FLAGS = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra", "-Xptxas", "-v"]
ALLOWED = 40  # bytes: ten registers set aside around slow paths of the arithmetic, see docs/kernels.md
KERNEL = re.compile(r"entry function '(\w+)'")
NUMBERS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def compile_one(source: Path, arch: str, folder: str) -> list[tuple[str, str, str, int, int, int]]:
    """(file, kernel, arch, registers, stack frame, spill stores) of each kernel of one file."""
    target = Path(folder) / f"{source.stem}-{arch}.cubin"
    command = ["nvcc", *FLAGS, f"-arch=sm_{arch}", "-cubin", f"-I{ROOT}/csrc/include", str(source), "-o", str(target)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{source.name} does not compile for sm_{arch}:\n{run.stderr}")
    rows, kernel, frame = [], None, (0, 0)
    for line in run.stderr.splitlines():
        if found := KERNEL.search(line):
            kernel, frame = demangle(found[1]), None
        elif found := NUMBERS.search(line):
            frame = frame or (int(found[1]), int(found[2]))
        elif kernel and (found := re.search(r"Used (\d+) registers", line)):
            rows.append((source.name, kernel, arch, int(found[1]), *frame))
            kernel = None
    return rows


def demangle(name: str) -> str:
    """The kernel's own name and template arguments, from the symbol."""
    said = subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip() or name
    said = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N_\w+::|difal::cuda::|difal::|void ", "", said)
    return said.partition("(")[0].replace("> >", ">>")


def constants(folder: str) -> tuple[int, int, int]:
    """Bytes of `Space`, threads of a block and columns of a tile of `select_kernel`."""
    source, program = Path(folder) / "constants.cu", Path(folder) / "constants"
    source.write_text(
        '#include "block_group.h"\n#include <cstdio>\nusing namespace difal::cuda;\n'
        'int main() { std::printf("%zu %d %d", sizeof(Space), kThreads, kTile); }\n'
    )
    command = ["nvcc", "-std=c++17", f"-I{ROOT}/csrc/include", f"-I{ROOT}/csrc/cuda", str(source), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    space, threads, tile = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    return int(space), int(threads), int(tile)


def launches(folder: str) -> list[tuple[str, str, int, int]]:
    """(kernel, of what, threads of a block, bytes of its shared memory), as the launchers in csrc/cuda have them."""
    space, threads, tile = constants(folder)
    sums = 8 * tile // 32  # bytes, for each thread: a float64 number for each column of a tile from each warp
    own = [(f"select_kernel<{matrix}>", "", threads, space + 3 * sums * threads) for matrix in ("Dense", "Sparse")]
    own += [("start_dense", "", 256, 2 * sums * 256)]
    own += [(name, "", 256, 0) for name in ("start_sparse", "prepare_control", "round_gains")]
    own += [(name, "", 256, 0) for name in ("cover_kernel", "norms_kernel")]
    for transposed, square in (("false", 0), ("true", 2 * 4 * 32 * 33)):
        for steps in (1, 48):
            own.append((f"take_kernel<{transposed}>", f"steps: {steps}", 64, 2 * 8 * 64 * steps + square))
    own += [("gather_rows", "", 512, 0), ("gather_columns", "", 512, 4 * 32 * 16), ("column_kernel", "", 256, 0)]
    for numbers, layout in (("float", "Strided"), ("BrainFloat", "PositionsAligned")):
        places = f"InRegisters<{numbers}, 16, 20, false, {layout}>"
        own.append((f"disagreement_kernel<{places}>", "17 to 20 classes", 128, 0))
    channels, maps = 6144, 12
    return [*own, ("hypercolumn_kernel<float>", f"{channels:,} channels", 256, 8 * 32 + 64 * maps + 4 * channels)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", default=";".join(ARCHS), help="compute capabilities, such as '90;120'")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    archs = options.archs.split(";")
    sources = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(compile_one, source, arch, folder) for source in sources for arch in archs]
        rows = [row for job in jobs for row in job.result()]
        known = launches(folder) if occupancy.ARCH in archs else []
    table: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for file, kernel, arch, registers, _, spilled in rows:
        table.setdefault((file, kernel), {})[arch] = (registers, spilled)
    print("registers per thread, and after + the bytes spilled\n")
    print(f"| file | kernel | {' | '.join('sm_' + a for a in archs)} |\n| --- | --- |{' --- |' * len(archs)}")
    for (file, kernel), per_arch in sorted(table.items()):
        cells = [f"{r}{f' +{s}' if s else ''}" for r, s in (per_arch[a] for a in archs)]
        print(f"| {file} | `{kernel}` | {' | '.join(cells)} |")
    if known:
        registers_of = {kernel: per_arch[occupancy.ARCH][0] for (_, kernel), per_arch in table.items()}
        print(f"\nsm_{occupancy.ARCH}: warps of {occupancy.WARPS} that a multiprocessor holds\n")
        print("| kernel | of | threads | shared memory | registers | warps |\n| --- | --- | --- | --- | --- | --- |")
        for kernel, what, threads, shared in known:
            warps = occupancy.resident_warps(threads, registers_of[kernel], shared)
            size = f"{shared / 1024:.4g} KB" if shared else ""
            print(f"| `{kernel}` | {what} | {threads} | {size} | {registers_of[kernel]} | {warps} |")
    worst = max(row[5] for row in rows)
    if worst > ALLOWED:
        sys.exit(f"a kernel spills {worst} bytes, {ALLOWED} are allowed")


if __name__ == "__main__":
    main()
