"""The Triton backend: on a GPU where there is one, else its kernels run by Triton's interpreter on the host (the
conftest above sees to that). With DIFAL_REQUIRE_BACKENDS=triton nothing but a GPU will do."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from difal_kernels.ops import _triton

REQUIRED = "triton" in os.environ.get("DIFAL_REQUIRE_BACKENDS", "").split(",")


def _old_interpreter() -> bool:
    import triton

    versions = [tuple(int(part) for part in said.split(".")[:2]) for said in (triton.__version__, np.__version__)]
    return versions[0] < (3, 7) and versions[1] >= (2, 4)


def _round_once():
    """Triton's interpreter before 3.9 rounds a multiply-add twice, which no GPU does."""
    from triton.runtime import interpreter

    def create_fma(self, x, y, z):
        total = x.data.astype(np.float64) * y.data + z.data
        return interpreter.TensorHandle(total.astype(z.data.dtype), z.dtype.scalar)

    if not hasattr(interpreter._interpreter, "fma_fp32"):
        interpreter.InterpreterBuilder.create_fma = create_fma


def pytest_collection_modifyitems(items):
    """Numpy before 2.4 only warns of what Triton's interpreter before 3.7 does."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"))


@pytest.fixture(scope="session")
def device():
    """The device whose tensors the backend takes: "cuda", or "cpu" where kernels are interpreted."""
    if REQUIRED:
        assert torch.cuda.is_available(), "DIFAL_REQUIRE_BACKENDS names triton, and torch finds no GPU"
        assert not _triton.interpreted(), "DIFAL_REQUIRE_BACKENDS names triton, and TRITON_INTERPRET is set"
    reason = _triton.unavailable()
    if reason is not None:
        pytest.skip(reason)
    if _triton.interpreted() and _old_interpreter():
        pytest.skip("Triton's interpreter before 3.7 cannot count to a tensor with numpy 2.4 or later")
    if _triton.interpreted():
        _round_once()
    return torch.device("cpu" if _triton.interpreted() else "cuda")


@pytest.fixture(scope="session")
def gpu(device):
    """True where a real device runs, so that a test can be larger."""
    return device.type == "cuda"
