"""Collects the rows that benchmarks record; prints them and writes bench/results/cpu/<file>.{json,md}."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from tables import markdown, write

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


def pytest_terminal_summary(terminalreporter):
    where = machine()
    for name, rows in ROWS.items():
        text = markdown(rows)
        head = f"{where['processor']}, {where['threads']} threads, torch {where['torch']}\n\n"
        write(name, {"machine": where, "rows": rows}, head + text)
        terminalreporter.write_line(f"\n{name}\n{text}")
