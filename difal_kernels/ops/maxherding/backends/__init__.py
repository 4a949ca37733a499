"""One folder per backend, of primitives only: what `plan`, `dense` and `matrix_free` need of a device."""

from __future__ import annotations

from typing import Any

from . import reference
from .cpu import CpuBackend
from .cuda import CudaBackend
from .triton import TritonBackend

# What runs, by name; tests put others, with sizes of their own, in the places of these.
BACKENDS: dict[str, Any] = {
    "cuda": CudaBackend(),
    "triton": TritonBackend(),
    "cpu": CpuBackend(),
    "reference": reference,
}
