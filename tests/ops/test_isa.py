"""The picks are the same with every instruction set that this processor has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, torch
from safetensors.torch import load_file
from difal_kernels import maxherding
from difal_kernels._native import load
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES
data = load_file(sys.argv[1])
for kernel in OF_FEATURES:
    want = maxherding(data["features"][:300], 120, kernel=kernel, backend="reference")
    assert torch.equal(maxherding(data["features"][:300], 120, kernel=kernel, backend="cpu"), want), kernel
got = maxherding(data["features"], 60, bandwidth=float(data["bandwidth"]), backend="cpu")
assert torch.equal(got, data["greedy_order"])
print(load("_cpu").isa())
"""
FIXTURE = Path(__file__).parents[1] / "fixtures" / "herding_clusters.safetensors"


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_every_instruction_set_picks_the_same(isa):
    environment = {**os.environ, "DIFAL_ISA": isa}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(FIXTURE)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    used = run.stdout.strip()
    if used != isa:
        pytest.skip(f"this processor runs {used}, not {isa}")
