"""Shared by the tests of selection."""

import pytest

from difal_kernels.ops.maxherding import panels, products


@pytest.fixture(scope="module", params=["float32", "int16"])
def arithmetic(request):
    """The CPU's products in each arithmetic, whatever this processor is best at and however small the problem."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "integers_are_faster", lambda: request.param == "int16")
        patch.setattr(panels, "WIDE", 1)
        patch.setattr(panels, "MANY", 0)
        patch.setattr(panels, "DOUBTFUL", 1.0)
        yield request.param
