"""The old name of `kernel_functions` and `bandwidth`, for one release."""

from __future__ import annotations

import warnings
from typing import Any

from . import bandwidth, kernel_functions


def __getattr__(name: str) -> Any:
    module = bandwidth if hasattr(bandwidth, name) else kernel_functions
    value = getattr(module, name)
    warnings.warn(
        f"difal_kernels.ops.maxherding.kernels is gone; import {name} from {module.__name__}",
        DeprecationWarning,
        stacklevel=2,
    )
    return value
