"""Shared by the tests of selection."""

import pytest

from difal_kernels.ops.maxherding.backends.cpu import dense, products
from difal_kernels.ops.maxherding.backends.cpu import operands as panels


@pytest.fixture(scope="module", params=["float32", "int16", "short matrix"])
def arithmetic(request):
    """The CPU's products in each arithmetic, and a matrix of each kind, whatever the processor and the problem."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "integers_are_faster", lambda: request.param != "float32")
        patch.setattr(panels, "WIDE", 1)
        patch.setattr(panels, "MANY", 0)
        patch.setattr(panels, "DOUBTFUL", 1.0)
        patch.setattr(dense, "SHORT", 0 if request.param == "short matrix" else float("inf"))
        patch.setattr(dense, "SPARSE", 0.0)
        patch.setattr(dense, "FLAT", 1.0)
        yield request.param
