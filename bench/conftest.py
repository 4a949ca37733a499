"""Collects the rows that benchmarks record; prints them and writes bench/results/cpu/<file>.{json,md}."""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from pathlib import Path

import pytest
import torch

RESULTS = Path(__file__).parent / "results" / "cpu"
ROWS: dict[str, list[dict]] = defaultdict(list)


@pytest.fixture
def record_row(request):
    name = Path(request.node.fspath).stem.removeprefix("bench_")
    return ROWS[name].append


def machine() -> dict:
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    return {"processor": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}


def table(rows: list[dict]) -> str:
    def cell(value):
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(cell(row[name]) for name in names) + " |" for row in rows)])


def pytest_terminal_summary(terminalreporter):
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = machine()
    for name, rows in ROWS.items():
        text = table(rows)
        (RESULTS / f"{name}.json").write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text(
            f"{where['processor']}, {where['threads']} threads, torch {where['torch']}\n\n{text}\n"
        )
        terminalreporter.write_line(f"\n{name}\n{text}")
