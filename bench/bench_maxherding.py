"""MaxHerding beside the naive loop and the GEMM floor, each case in one run: `make bench`.

A row: seconds of the selection, then how many times faster than the naive loop it is, and its time in units of the half
Gram
matrix alone and of one full Gram matrix plus one exp pass. Peak memory is that of a process that does the case alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases import COVERAGE, Case
from naive import exp_pass, full_gram, half_gram, naive_maxherding

from difal_kernels import maxherding
from difal_kernels.ops.maxherding.kernels import median_bandwidth


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
            "memory_per_matrix": peak_bytes(case) / (4 * case.n**2),
            "naive_picks_right": same,
        }
    )


def peak_bytes(case: Case) -> int:
    """Growth of the peak resident size over the features', in a process of its own."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import resource, torch\n"
        "from cases import Case\n"
        "from difal_kernels import maxherding\n"
        f"x = {case!r}.features()\n"
        "maxherding(x[:500], 5)\n"
        "torch.mm(x[:500], x[:500].T)\n"
        "status = lambda key: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith(key))\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "before = status('VmRSS')\n"
        f"maxherding(x, {case.budget})\n"
        "print((status('VmHWM') - before) * 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(run.stdout)
