"""Large buffers."""

from __future__ import annotations

import contextlib
import mmap

import torch

HUGE = 1 << 24  # bytes from which huge pages pay


def large_empty(numbers: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`numbers` of a type, not set to anything; in huge pages where the system has them.

    Touching 400 MB for the first time in pages of 4 KiB costs as much as a matrix product of that size.
    """
    if dtype.itemsize * numbers < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(numbers, dtype=dtype)
    pages = mmap.mmap(-1, dtype.itemsize * numbers, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype)
