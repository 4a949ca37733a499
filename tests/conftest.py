"""Shared by all tests: where data is, and which backends must be there."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file

# The same examples everywhere, and no complaint about a machine that is busy.
settings.register_profile("difal", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("difal")

# Triton's kernels run on the host where there is no GPU. Here, since other packages import triton before its tests do.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

FIXTURES = Path(__file__).parent / "fixtures"
REQUIRED = set(filter(None, os.environ.get("DIFAL_REQUIRE_BACKENDS", "").split(",")))


@pytest.fixture
def load_fixture():
    return lambda name: load_file(FIXTURES / f"{name}.safetensors")


@pytest.fixture
def two_threads():
    """Two torch threads however many cores there are, so that the threaded paths run."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """On a machine with a GPU, a test of a required backend that skips has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and any(name in item.nodeid for name in REQUIRED):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped, and DIFAL_REQUIRE_BACKENDS={','.join(sorted(REQUIRED))}"
    return report
