"""Shared by the tests of selection."""

import pytest

from difal_kernels.ops.maxherding.backends import BACKENDS
from selection import use

ALWAYS = {
    "integers_min_features": 1,
    "integers_min_multiplications": 0,
    "integers_max_uncertain": 1.0,
    "int16_mean_kernel": (0.0, 1.0),
}


@pytest.fixture(scope="module", params=["float32", "int16", "short matrix"])
def arithmetic(request):
    """The CPU's products in each arithmetic, and a matrix of each kind, whatever the processor and the problem."""
    if BACKENDS["cpu"].unavailable() is not None:
        pytest.skip(BACKENDS["cpu"].unavailable())
    with pytest.MonkeyPatch.context() as patch:
        smallest = 0 if request.param == "short matrix" else float("inf")
        use(patch, "cpu", integers=request.param != "float32", int16_min_entries=smallest, **ALWAYS)
        yield request.param


@pytest.fixture
def short(monkeypatch):
    """Every matrix is stored in 16 bits an entry."""
    use(monkeypatch, "cpu", int16_min_entries=0, int16_mean_kernel=(0.0, 1.0))
