"""Read an .npy file of numbers, and say what is wrong with one that cannot be read."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy


def load_npy(path: str | Path, mapped: bool = False) -> np.ndarray:
    """Load the array of an .npy file; nothing pickled is loaded.

    Args:
        path: the file.
        mapped: as a read-only map of the file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: "PATH is no .npy file", or what else is wrong with it; NumPy's own words advise loading it unsafely.
    """
    with open(path, "rb") as file:
        fault = _fault(file)
    if fault is None:
        try:
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except (ValueError, TypeError, OverflowError):
            fault = "has a damaged header"
    raise ValueError(f"{path} {fault}")


def _fault(file: BinaryIO) -> str | None:
    if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        return "is no .npy file"
    file.seek(0)
    try:
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception:  # damaged headers raise many kinds, those of tokenize and ast among them
        return "has a damaged header"
    if dtype.hasobject:
        return "holds Python objects, not numbers"
    size, there = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
    return f"is cut short: {there:,} of {size:,} bytes of its array are there" if there < size else None
