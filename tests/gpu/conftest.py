"""The CUDA backend, on a GPU where there is one and its extension is built, else on the host: the same kernels, every
thread a fibre (emulator/). With DIFAL_REQUIRE_BACKENDS=cuda nothing but a GPU will do."""

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from difal_kernels import _native

HERE = Path(__file__).parent
REQUIRED = "cuda" in os.environ.get("DIFAL_REQUIRE_BACKENDS", "").split(",")


def _builder():
    spec = importlib.util.spec_from_file_location("difal_emulator_build", HERE / "emulator/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _emulated():
    builder = _builder()
    folder = Path(os.environ.get("DIFAL_EMULATOR_CACHE", builder.ROOT / "build/emulator"))
    return builder.load(folder) if (builder.ROOT / "csrc").is_dir() else None


@pytest.fixture(scope="module")
def device():
    """The device whose tensors the backend takes: "cuda", or "cpu" where it is emulated, for one test file."""
    if REQUIRED or (torch.cuda.is_available() and _native.missing("_cuda") is None):
        assert torch.cuda.is_available(), "DIFAL_REQUIRE_BACKENDS names cuda, and torch finds no GPU"
        assert _native.missing("_cuda") is None, _native.missing("_cuda")
        yield torch.device("cuda")
        return
    pytest.importorskip("pybind11", reason="pybind11 is not installed, so the kernels cannot be built for the host")
    module = _emulated()
    if module is None:
        pytest.skip("the source tree is not here")
    before = sys.modules.get("difal_kernels._cuda")
    sys.modules["difal_kernels._cuda"] = module
    _native.load.cache_clear()
    yield torch.device("cpu")
    if before is None:
        del sys.modules["difal_kernels._cuda"]
    else:
        sys.modules["difal_kernels._cuda"] = before
    _native.load.cache_clear()


@pytest.fixture
def gpu(device):
    """True where a real device runs, so that a test can be larger."""
    return device.type == "cuda"
