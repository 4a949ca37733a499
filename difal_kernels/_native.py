"""Loading the compiled modules: each is there or is not, and if not the reason is kept for the error message."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

CURES = {
    "_cpu": "reinstall with a C++17 compiler present (`pip install --force-reinstall --no-deps difal-kernels`)",
    "_cuda": "it serves GPUs of NVIDIA alone; for one, reinstall with nvcc on the PATH and DIFAL_CUDA=1",
}


@cache
def load(name: str) -> Any:
    """The extension module `difal_kernels.<name>`, or a sentence that says why it is missing and how to get it."""
    try:
        return importlib.import_module(f"difal_kernels.{name}")
    except ImportError as error:
        return f"the extension difal_kernels.{name} could not be loaded ({error}): {CURES[name]}"


def missing(name: str) -> str | None:
    """None if the extension is there, else why not."""
    module = load(name)
    return module if isinstance(module, str) else None


def num_threads() -> int:
    """Threads that native CPU kernels use: torch's own setting, so `torch.set_num_threads` rules both."""
    import torch

    return torch.get_num_threads()
