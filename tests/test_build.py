"""The build: it needs a compiler and says so, and never torch."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

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


def listed(**environment):
    """The extensions that setup.py would build."""
    script = "import setuptools; setuptools.setup = lambda ext_modules, **_: print([e.name for e in ext_modules]); "
    command = [sys.executable, "-c", script + "import runpy; runpy.run_path('setup.py')"]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_gpu_kernels_are_built_when_asked_for_and_not_otherwise(tmp_path):
    pytest.importorskip("pybind11", reason="pybind11 is not installed, so setup.py cannot be read here")
    assert listed(DIFAL_CUDA="0").stdout.strip() == "['difal_kernels._cpu']"
    run = listed(DIFAL_CUDA="1", CUDA_HOME=str(tmp_path))
    assert run.returncode != 0
    assert "DIFAL_CUDA=1, but no nvcc was found" in run.stderr
    run = listed(DIFAL_CUDA="yes")
    assert run.returncode != 0
    assert "DIFAL_CUDA must be auto, 0 or 1, got 'yes'" in run.stderr
    if not torch.cuda.is_available():
        assert listed(DIFAL_CUDA="auto").stdout.strip() == "['difal_kernels._cpu']"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")
def test_gpu_kernels_compile_without_a_warning(tmp_path):
    """To PTX, which finds all but what `make cuda-compile` asks ptxas."""

    def compile_one(source):
        flags = ["-std=c++17", "-arch=sm_90", "-ptx", "-G", "-Werror", "all-warnings", "-Icsrc/include"]
        command = ["nvcc", *flags, str(source), "-o", str(tmp_path / f"{source.stem}.ptx")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    sources = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    assert len(sources) >= 5
    with ThreadPoolExecutor(2) as pool:
        for source, run in zip(sources, pool.map(compile_one, sources), strict=True):
            assert run.returncode == 0, f"{source.name}:\n{run.stderr}"


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


def test_instructions_that_the_compiler_does_not_know_are_left_out(tmp_path):
    pytest.importorskip("pybind11", reason="pybind11 is not installed, so setup.py cannot be read here")
    script = (
        "import sys, setuptools; setuptools.setup = lambda **_: None; import runpy\n"
        "build = runpy.run_path('setup.py')['BuildNative'](setuptools.Distribution())\n"
        "from setuptools._distutils.ccompiler import new_compiler\n"
        "from setuptools._distutils.sysconfig import customize_compiler\n"
        "build.compiler, build.build_temp = new_compiler(), sys.argv[1]\n"
        "customize_compiler(build.compiler)\n"
        "print(build.knows([]), build.knows(['-mno-such-instructions']))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.stdout.split()[-2:] == ["True", "False"], run.stderr
    compiler = os.environ.get("CXX", "g++").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not on the PATH")
    source, built = ROOT / "csrc/cpu/int16_tiles_amx.cpp", tmp_path / "plain.o"
    command = [*compiler, "-std=c++17", "-Icsrc/include", "-c", str(source), "-o", str(built)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    assert built.exists()  # without those flags it is an empty table
