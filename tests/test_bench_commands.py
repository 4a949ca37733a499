"""Benchmarks tell how they are called without importing what is slow, and name what there is where a name is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
SCRIPTS = [
    "batches.py", "bench_disagreement.py", "bench_gpu.py", "bench_hypercolumns.py", "compile_cuda.py",
    "compile_triton.py", "encoder_probe.py", "gpu_check.py", "kcenter.py", "label_latency.py", "label_waits.py",
    "large.py", "peers/__main__.py", "products.py", "sampled.py", "sass_loops.py", "scaling.py",
    "train_step.py", "why_order.py",
]  # fmt: skip
WITHOUT_TORCH = (
    "import runpy, sys\n"
    "sys.modules['torch'] = sys.modules['numpy'] = None\n"
    "sys.path.insert(0, sys.argv[1].rpartition('/')[0])\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(BENCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_libraries(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.parametrize(
    ("script", "wrong", "known"),
    [
        ("large.py", "a milion", "'a million'"),
        ("kcenter.py", "gausian", "'gaussian 40,000 x 512'"),
        ("scaling.py", "small", "'large'"),
        ("peers/__main__.py", "mesure", "'measure'"),
    ],
)
def test_a_wrong_name_lists_those_there_are(script, wrong, known):
    done = run(script, wrong)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert wrong in line
    assert known in line
