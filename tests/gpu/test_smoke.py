"""What bench/gpu_smoke.py reports, in miniature."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_sweeps_of_a_pool_without_its_matrix_are_counted(device):
    pytest.importorskip("triton", reason="triton is not installed, so there is no product")
    if device.type == "cuda":
        pytest.skip("the miniature needs emulated kernels")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    command = [sys.executable, str(ROOT / "bench/gpu_smoke.py"), "million", "--no-gpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[0])
    assert row["sweeps"] >= 1
    assert {"products", "tiles with their products", "lists with their products", "select"} <= row["phases"].keys()
    assert 0 < row["counters"]["picks"] <= 15
