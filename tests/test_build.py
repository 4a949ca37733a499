"""The build: it needs a compiler and says so, and never torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the source tree is not here")


def build(tmp_path, **environment):
    pytest.importorskip("pybind11", reason="pybind11 is not installed, so the extension cannot be built here")
    command = [sys.executable, "setup.py", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


def test_without_a_compiler_the_error_says_what_to_install(tmp_path):
    run = build(tmp_path, CC="no-such-compiler", CXX="no-such-compiler")
    assert run.returncode != 0
    assert "no working C++17 compiler was found" in run.stderr
    assert "apt-get install g++" in run.stderr


def test_setup_imports_neither_torch_nor_numpy(tmp_path):
    for name in ("torch", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('the build imported {name}')\n")
    run = subprocess.run(
        [sys.executable, "setup.py", "--name"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("difal-kernels")
