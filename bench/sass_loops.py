"""Instructions of the innermost loops of a kernel, from its disassembly; no GPU is needed.

    python bench/sass_loops.py csrc/cuda/disagreement.cu 'disagreement_kernel.*IfLi1ELb0'     nvcc and cuobjdump do it
    python bench/sass_loops.py triton 'score.DIMS=1, INPUT=0.*COMBINED=True.*CLASSES_LAST=0'  triton does, by build

A loop is what a branch backwards encloses. `float64` counts arithmetic and comparisons, `convert` conversions from and
to float64, which take several times as long as float32 operations on every GPU, `from half` those from float16.
`loads` are of global memory, with the bits of each: of several types of a loop they tell which is which.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

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
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9.]*)\s*(.*?);")


def instructions(source: Path, kernel: str, arch: str) -> list[tuple[int, str, str]]:
    """(address, opcode, operands) of the one kernel whose mangled name matches."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "out.cubin"
        include = f"-I{ROOT}/csrc/include"
        subprocess.run(
            ["nvcc", "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", include, str(source), "-o", str(cubin)],
            check=True,
        )
        said = subprocess.run(["cuobjdump", "-sass", str(cubin)], check=True, capture_output=True, text=True).stdout
    functions = re.split(r"Function : ", said)[1:]
    matching = [text for text in functions if re.search(kernel, text.partition("\n")[0])]
    if len(matching) != 1:
        raise SystemExit(f"{len(matching)} kernels match {kernel!r}")
    return [(int(a, 16), opcode, operands) for a, opcode, operands in LINE.findall(matching[0])]


def of_triton(name: str, arch: str) -> list[tuple[int, str, str]]:
    """The same of a Triton kernel, the first of its builds whose name matches."""
    os.environ["TRITON_INTERPRET"] = "0"
    sys.path.insert(0, str(ROOT))
    from difal_kernels.ops import _triton

    build = next(build for build in _triton.builds() if re.search(name, build.name))
    said = _triton.disassembly(_triton.binary(build, arch)[0])
    code: list[tuple[int, str, str]] = []
    labels: dict[str, str] = {}
    waiting: list[str] = []
    for line in said.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            waiting.append(label[1])
        elif found := LINE.search(line):
            labels |= dict.fromkeys(waiting, found[1])
            waiting = []
            code.append((int(found[1], 16), found[2], found[3]))
    place = re.compile(r"`\((\.L_x_\d+)\)")
    return [(a, opcode, place.sub(lambda m: "0x" + labels.get(m[1], "0"), text)) for a, opcode, text in code]


def loops(code: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """Innermost ones, from the first address to the branch back."""
    found = []
    for address, opcode, operands in code:
        target = re.search(r"0x([0-9a-f]+)", operands)
        if opcode.startswith("BRA") and target and int(target[1], 16) < address:
            found.append((int(target[1], 16), address))
    return [(a, b) for a, b in found if not any((c, d) != (a, b) and a <= c and d <= b for c, d in found)]


def loads(opcodes: list[str]) -> str:
    """How many of each width."""
    widths = [re.search(r"\.[US]?(8|16|64|128)\b", opcode) for opcode in opcodes if opcode.startswith("LDG")]
    counts = Counter(int(width[1]) if width else 32 for width in widths)
    return ", ".join(f"{counts[width]} x {width}" for width in sorted(counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("kernel", help="a regular expression of the mangled name")
    parser.add_argument("--arch", default="90")
    options = parser.parse_args()
    triton = str(options.source) == "triton"
    code = (of_triton if triton else instructions)(*([] if triton else [options.source]), options.kernel, options.arch)
    print(f"| loop | loads | all | {' | '.join(CLASSES)} |\n| --- | --- | --- |{' --- |' * len(CLASSES)}")
    for begin, end in loops(code):
        inside = [opcode for address, opcode, _ in code if begin <= address <= end]
        counts = [sum(bool(pattern.search(opcode)) for opcode in inside) for pattern in CLASSES.values()]
        print(f"| {begin:#x} | {loads(inside)} | {len(inside)} | {' | '.join(map(str, counts))} |")
    print(f"\n{len(code)} instructions in all")


if __name__ == "__main__":
    main()
