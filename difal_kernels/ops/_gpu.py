"""What every CUDA backend shares: where work goes, and what its tensors' device must be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from .._native import load, missing

# In the order of difal::Float.
FLOAT_CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def unavailable() -> str | None:
    """Why no kernel can run on this machine, or None."""
    reason = missing("_cuda")
    if reason is not None:
        return reason
    if load("_cuda").DEVICE == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device; check the driver, and that torch is a CUDA build"
    return None


def wrong_device(device: torch.device) -> str | None:
    """Why tensors on `device` are not for the extension, or None; it must have been found available."""
    expected = load("_cuda").DEVICE
    if device.type != expected:
        return f"it runs on {expected} tensors and the input is on {device}; move it with .to({expected!r})"
    with on(device):
        return _why_not(queue(device)[0]) or None


@cache
def _why_not(index: int) -> str:
    """Why the extension's kernels cannot run on this device: what they were built for, or its driver; or nothing."""
    return load("_cuda").why_not(index)


def queue(device: torch.device) -> tuple[int, int]:
    """The device's number and the handle of its current stream."""
    if device.type != "cuda":
        return 0, 0
    index = torch.cuda.current_device() if device.index is None else device.index
    return index, torch.cuda.current_stream(device).cuda_stream


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Make `device` the current one."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on the device: what the driver has, and what torch holds without using it."""
    if device.type != "cuda":
        return 4 << 30
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
