"""The Triton backend: on a GPU where there is one, else its kernels run by Triton's interpreter on the host (the
conftest above sees to that). With DIFAL_REQUIRE_BACKENDS=triton nothing but a GPU will do."""

import os

import pytest
import torch

from difal_kernels.ops import _triton

REQUIRED = "triton" in os.environ.get("DIFAL_REQUIRE_BACKENDS", "").split(",")


@pytest.fixture(scope="session")
def device():
    """The device whose tensors the backend takes: "cuda", or "cpu" where kernels are interpreted."""
    if REQUIRED:
        assert torch.cuda.is_available(), "DIFAL_REQUIRE_BACKENDS names triton, and torch finds no GPU"
        assert not _triton.interpreted(), "DIFAL_REQUIRE_BACKENDS names triton, and TRITON_INTERPRET is set"
    reason = _triton.unavailable()
    if reason is not None:
        pytest.skip(reason)
    return torch.device("cpu" if _triton.interpreted() else "cuda")


@pytest.fixture(scope="session")
def gpu(device):
    """True where a real device runs, so that a test can be larger."""
    return device.type == "cuda"
