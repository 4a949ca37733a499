"""Instructions of the innermost loops of a kernel, from its disassembly; needs nvcc and cuobjdump, no GPU.

    python bench/sass_loops.py csrc/cuda/disagreement.cu 'disagreement_kernel.*IfLi1ELb0'

A loop is what a branch backwards encloses. `float64` counts arithmetic and comparisons, `convert` conversions from and
to float64, which take several times as long as float32 operations on every GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLASSES = {
    "float64": re.compile(r"^D(ADD|MUL|FMA|SETP|MNMX)"),
    "convert": re.compile(r"^(F2F|I2F|F2I).*64|^F2F"),
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


def loops(code: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """Innermost ones, from the first address to the branch back."""
    found = []
    for address, opcode, operands in code:
        target = re.search(r"0x([0-9a-f]+)", operands)
        if opcode.startswith("BRA") and target and int(target[1], 16) < address:
            found.append((int(target[1], 16), address))
    return [(a, b) for a, b in found if not any((c, d) != (a, b) and a <= c and d <= b for c, d in found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("kernel", help="a regular expression of the mangled name")
    parser.add_argument("--arch", default="90")
    options = parser.parse_args()
    code = instructions(options.source, options.kernel, options.arch)
    print(f"| loop | all | {' | '.join(CLASSES)} |\n| --- | --- |{' --- |' * len(CLASSES)}")
    for begin, end in loops(code):
        inside = [opcode for address, opcode, _ in code if begin <= address <= end]
        counts = [sum(bool(pattern.search(opcode)) for opcode in inside) for pattern in CLASSES.values()]
        print(f"| {begin:#x} | {len(inside)} | {' | '.join(map(str, counts))} |")
    print(f"\n{len(code)} instructions in all")


if __name__ == "__main__":
    main()
