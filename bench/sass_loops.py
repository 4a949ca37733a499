"""Instructions of the innermost loops of a kernel, from its disassembly; no GPU is needed.

    python bench/sass_loops.py csrc/cuda/disagreement.cu 'InRegistersIfLi16.*Lb0.*Strided'
    python bench/sass_loops.py triton 'score.DIMS=1, INPUT=0.*MANY=False.*COMBINED=True.*CLASSES_LAST=0'

The first is compiled by nvcc and read by cuobjdump, of the PATH or of triton; the second both by triton.

A loop is what a branch backwards encloses. `float64` counts arithmetic and comparisons, `convert` conversions from and
to float64, which take several times as long as float32 operations on every GPU, `from half` those from float16.
`loads` are of global memory, with the bits of each: of several types of a loop they tell which is which. With
`--turns K` the longest way through the whole kernel is counted, too, its longest loop K times, every other one once.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CLASSES = {
    "float64": re.compile(r"^D(ADD|MUL|FMA|SETP|MNMX)"),
    "convert": re.compile(r"^(F2F|I2F|F2I).*64|^F2F"),
    "from half": re.compile(r"^HADD2\.F32"),
    "float32": re.compile(r"^F(ADD|MUL|FMA|SETP|MNMX|SEL)|^MUFU"),
    "integer": re.compile(r"^(I|U?IADD|IMAD|LEA|LOP|SHF|SEL|ISETP|UI|VI)"),
    "global": re.compile(r"^(LDG|STG|RED|ATOMG)"),
    "shared": re.compile(r"^(LDS|STS)"),
}
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9.]*)\s*(.*?);")


class Instruction(NamedTuple):
    address: int
    conditional: bool
    opcode: str
    target: int | None  # of a branch


def instruction(line: re.Match, labels: Mapping[str, int] = MappingProxyType({})) -> Instruction:
    named, target = re.search(r"`\((\.L_x_\d+)\)", line[4]), re.search(r"0x([0-9a-f]+)", line[4])
    to = labels.get(named[1], 0) if named else int(target[1], 16) if target else None
    return Instruction(int(line[1], 16), line[2] is not None, line[3], to if line[3].startswith("BRA") else None)


def tool(name: str) -> str:
    """Where it is: on the PATH, or among the tools that come with triton."""
    if found := shutil.which(name):
        return found
    triton = importlib.util.find_spec("triton")
    for folder in triton.submodule_search_locations or [] if triton else []:
        if found := shutil.which(name, path=str(Path(folder) / "backends/nvidia/bin")):
            return found
    raise SystemExit(f"{name} is not on the PATH; it comes with the CUDA toolkit")


def list_names(count: int, pattern: str, names: list[str]) -> str:
    return "\n  ".join([f"{count} names match {pattern!r}; it has to match one of these:", *sorted(names)])


def instructions(source: Path, kernel: str, arch: str) -> list[Instruction]:
    """Of the one kernel whose mangled name matches."""
    cuobjdump = tool("cuobjdump")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "out.cubin"
        include = f"-I{ROOT}/csrc/include"
        subprocess.run(
            [tool("nvcc"), "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", include, str(source), "-o", str(cubin)],
            check=True,
        )
        said = subprocess.run([cuobjdump, "-sass", str(cubin)], check=True, capture_output=True, text=True).stdout
    functions = re.split(r"Function : ", said)[1:]
    names = [text.partition("\n")[0] for text in functions]
    matching = [text for name, text in zip(names, functions, strict=True) if re.search(kernel, name)]
    if len(matching) != 1:
        raise SystemExit(list_names(len(matching), kernel, names))
    return [instruction(line) for line in LINE.finditer(matching[0])]


def of_triton(name: str, arch: str) -> list[Instruction]:
    """The same of a Triton kernel, the first of its builds whose name matches."""
    if importlib.util.find_spec("triton") is None:
        raise SystemExit("triton is not installed; run: pip install triton (Linux only)")
    os.environ["TRITON_INTERPRET"] = "0"
    sys.path.insert(0, str(ROOT))
    from difal_kernels.ops import _triton

    builds = _triton.builds()
    build = next((build for build in builds if re.search(name, build.name)), None)
    if build is None:
        raise SystemExit(list_names(0, name, [build.name for build in builds]))
    said = _triton.disassembly(_triton.binary(build, arch)[0])
    lines: list[re.Match] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for text in said.splitlines():
        if label := re.match(r"(\.L_x_\d+):", text):
            waiting.append(label[1])
        elif found := LINE.search(text):
            labels |= dict.fromkeys(waiting, int(found[1], 16))
            waiting = []
            lines.append(found)
    return [instruction(line, labels) for line in lines]


def loops(code: list[Instruction]) -> list[tuple[int, int]]:
    """Innermost ones, from the first address to the branch back."""
    found = [(i.target, i.address) for i in code if i.target is not None and i.target < i.address]
    return [(a, b) for a, b in found if not any((c, d) != (a, b) and a <= c and d <= b for c, d in found)]


def loads(opcodes: list[str]) -> str:
    """How many of each width."""
    widths = [re.search(r"\.[US]?(8|16|64|128)\b", opcode) for opcode in opcodes if opcode.startswith("LDG")]
    counts = Counter(int(width[1]) if width else 32 for width in widths)
    return ", ".join(f"{counts[width]} x {width}" for width in sorted(counts))


def longest_way(code: list[Instruction], turns: int) -> int:
    """Instructions from the first one to an exit on the longest way, the longest loop `turns` times, others once."""
    begin, end = max(loops(code), key=lambda loop: loop[1] - loop[0])
    longest = {code[-1].address + 16: 0}
    for i in reversed(code):
        ends = i.opcode in ("EXIT", "RET") or i.opcode.startswith("RET.")
        forward = i.target is not None and i.target > i.address
        leaves = not i.conditional and (ends or forward)
        ways = [longest[i.target]] if forward else []
        if not leaves:
            ways.append(longest[i.address + 16])
        longest[i.address] = (turns if begin <= i.address <= end else 1) + max(ways, default=0)
    return longest[code[0].address]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("kernel", help="a regular expression of the mangled name")
    parser.add_argument("--arch", default="90")
    parser.add_argument("--turns", type=int, help="count the whole kernel, its longest loop so often")
    options = parser.parse_args()
    triton = str(options.source) == "triton"
    code = (of_triton if triton else instructions)(*([] if triton else [options.source]), options.kernel, options.arch)
    print(f"| loop | loads | all | {' | '.join(CLASSES)} |\n| --- | --- | --- |{' --- |' * len(CLASSES)}")
    for begin, end in loops(code):
        inside = [i.opcode for i in code if begin <= i.address <= end]
        counts = [sum(bool(pattern.search(opcode)) for opcode in inside) for pattern in CLASSES.values()]
        print(f"| {begin:#x} | {loads(inside)} | {len(inside)} | {' | '.join(map(str, counts))} |")
    print(f"\n{len(code)} instructions in all")
    if options.turns:
        print(f"{longest_way(code, options.turns)} on the longest way, with {options.turns} turns of the longest loop")


if __name__ == "__main__":
    main()
