"""The old name of `kernel_functions`, for one release."""

from __future__ import annotations

import warnings
from typing import Any

from . import kernel_functions


def __getattr__(name: str) -> Any:
    value = getattr(kernel_functions, name)
    warnings.warn(
        f"difal_kernels.ops.maxherding.kernels is now kernel_functions; import {name} from there",
        DeprecationWarning,
        stacklevel=2,
    )
    return value
