"""What every backend in C++ says of where it can run."""

from __future__ import annotations

from typing import Any

from .._native import missing


def unavailable() -> str | None:
    """Why the CPU extension cannot be loaded, or None."""
    return missing("_cpu")


def supports(problem: Any) -> str | None:
    """Why a problem cannot be run by it, or None."""
    if problem.device.type != "cpu":
        return f"it runs on CPU tensors and the input is on {problem.device}; move it with .cpu()"
    return unavailable()
