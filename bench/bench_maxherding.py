"""MaxHerding beside the naive loop and the GEMM floor, each case in one run: `make bench`.

A row: seconds of the selection, then how many times faster than the naive loop it is, and its time in units of the half
Gram
matrix alone and of one full Gram matrix plus one exp pass. Peak memory is that of a process that does the case alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cases import COVERAGE, Case
from difal_kernels import maxherding
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth
from naive import exp_pass, full_gram, half_gram, naive_maxherding


@pytest.mark.parametrize("case", COVERAGE, ids=lambda case: case.name)
def test_maxherding(case: Case, benchmark, record_row):
    features = case.features()
    bandwidth = median_bandwidth(features)
    began = time.perf_counter()
    naive = naive_maxherding(features, case.budget, bandwidth)
    naive_seconds = time.perf_counter() - began

    gram = torch.zeros(case.n, case.n)
    half = min(half_gram(features, gram) for _ in range(3))
    full = min(full_gram(features, gram) for _ in range(3))
    exp = min(exp_pass(gram) for _ in range(3))
    del gram

    picks = benchmark.pedantic(
        lambda: maxherding(features, case.budget, bandwidth=bandwidth), rounds=3, warmup_rounds=1
    )
    seconds = benchmark.stats.stats.median
    same = next((t for t, (a, b) in enumerate(zip(naive, picks.tolist(), strict=True)) if a != b), case.budget)
    record_row(
        {
            "case": case.name,
            "seconds": seconds,
            "naive_seconds": naive_seconds,
            "times_faster": naive_seconds / seconds,
            "per_half_gram": seconds / half,
            "per_full_gram_and_exp": seconds / (full + exp),
            "memory_per_matrix": peak_bytes(features, case.budget) / (4 * case.n**2),
            "naive_picks_right": same,
        }
    )


def peak_bytes(features: torch.Tensor, budget: int) -> int:
    """Growth of the peak resident size over the features', in a process of its own."""
    script = (
        "import sys, torch, numpy\n"
        "from difal_kernels import maxherding\n"
        "x = torch.from_numpy(numpy.load(sys.argv[1]))\n"
        "maxherding(x[:500], 5)\n"
        "status = lambda key: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith(key))\n"
        "before = status('VmRSS')\n"
        "maxherding(x, int(sys.argv[2]))\n"
        "print((status('VmHWM') - before) * 1024)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        np.save(path, features.numpy())
        command = [sys.executable, "-c", script, str(path), str(budget)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
