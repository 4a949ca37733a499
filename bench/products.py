"""Rates of the inner products that selection rests on, in GFlop/s of one core: bench/results/cpu/products.{json,md}.

torch's float32 GEMM, 16-bit integers with AVX-512 VNNI, and the same as tiles with AMX, each as far as this processor
has it. Calls are short and the fastest of many counts, the kinds by turns, so that other work on the machine matters
little.
"""

from __future__ import annotations

import argparse

from command import Parser

KINDS = {"float32": "vnni", "VNNI": "vnni", "AMX": "amx"}  # and the DIFAL_ISA that has them
if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)  # in this process, to standard output
    ONE = parser.parse_args().one

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from difal_kernels._native import load
from difal_kernels.ops.maxherding.backends.cpu.products import Float32Products, Frame, Int16Products
from peers.report import cpu_name

RESULTS = Path(__file__).parent / "results" / "cpu"
DIMENSIONS = (64, 128, 256, 512, 768, 1536)
ROWS = (128, 256)  # of both operands
ROUNDS, SECONDS = 5, 0.3  # of each number, per round


def one(kind: str) -> list[list[float]]:
    """GFlop/s per dimension and number of rows."""
    torch.set_num_threads(1)
    if kind != "float32" and not (load("_cpu").has_amx() if kind == "AMX" else load("_cpu").has_vnni()):
        return []
    return [[rate(kind, rows, d) for rows in ROWS] for d in DIMENSIONS]


def rate(kind: str, rows: int, d: int) -> float:
    a, b = torch.randn(2, rows, d, generator=torch.Generator().manual_seed(0))
    frame, out = Frame(torch.zeros(d), 1.0), torch.empty(rows, rows)
    products = Float32Products(frame, d) if kind == "float32" else Int16Products(frame, d, 0.0)
    left, right = (products.prepare(x, products.empty(rows)) for x in (a, b))
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        products.multiply(left, right, out)
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * rows * rows * d / fastest / 1e9


def measure(kind: str) -> list[list[float]]:
    answer = subprocess.run(
        [sys.executable, __file__, "--one", kind],
        env={**os.environ, "DIFAL_ISA": KINDS[kind]},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout)


def main() -> None:
    best: dict[str, list[list[float]]] = {}
    for _ in range(ROUNDS):
        for kind in KINDS:
            new = measure(kind)
            old = best.get(kind, new)
            best[kind] = [[max(pair) for pair in zip(*lines, strict=True)] for lines in zip(old, new, strict=True)]
    kinds = [kind for kind in KINDS if best[kind]]
    head = ["D", "rows", *kinds, *(["AMX / VNNI"] if "AMX" in kinds else [])]
    lines = [head, ["---"] * len(head)]
    for i, d in enumerate(DIMENSIONS):
        for j, rows in enumerate(ROWS):
            values = [best[kind][i][j] for kind in kinds]
            ratio = [f"{values[-1] / values[-2]:.2f}"] if "AMX" in kinds else []
            lines.append([str(d), str(rows), *(f"{v:.0f}" for v in values), *ratio])
    machine = {"processor": cpu_name(), "torch": torch.__version__}
    text = f"GFlop/s of one core of {machine['processor']}, torch {machine['torch']}.\n\n"
    text += "".join(f"| {' | '.join(line)} |\n" for line in lines)
    result = {"machine": machine, "dimensions": DIMENSIONS, "rows": ROWS, "gflops": best}
    (RESULTS / "products.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "products.md").write_text(text)
    print(text)


if __name__ == "__main__":
    print(json.dumps(one(ONE))) if ONE else main()
