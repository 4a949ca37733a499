"""The picks are the same with every instruction set that this processor has."""

from pathlib import Path

import pytest

from instruction_sets import run_under

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
    used = run_under(isa, SCRIPT, FIXTURE).strip()
    if used != isa:
        pytest.skip(f"this processor runs {used}, not {isa}")
