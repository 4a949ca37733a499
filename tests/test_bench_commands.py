"""Benchmarks tell how they are called without importing what is slow, and name what there is where a name is wrong."""

import os
import re
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


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(BENCH / script), *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


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


def test_disassembly_says_which_tool_is_missing(tmp_path):
    done = run("sass_loops.py", "csrc/cuda/cover.cu", "cover", PATH=str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(r"(nvcc|cuobjdump) is not on the PATH", line)


def test_disassembly_lists_the_kernels_where_none_or_many_match(tmp_path):
    for name, said in (("nvcc", ""), ("cuobjdump", "Function : scale_float\nFunction : scale_half\n")):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\n")
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    for wrong, count in (("scale_double", 0), ("scale", 2)):
        done = run("sass_loops.py", "csrc/cuda/cover.cu", wrong, PATH=path)
        assert done.returncode == 1
        first, *names = done.stderr.splitlines()
        assert first.startswith(f"{count} names match '{wrong}'")
        assert names == ["  scale_float", "  scale_half"]
