"""What adapters take and the selections do not: counts under the library's own names, arrays of many kinds."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch

from difal_kernels import maxherding, uherding
from difal_kernels._arrays import show


def count(value: Any, name: str, most: int, of: str) -> int:
    """An integer from 0 to `most`, the number of `of`.

    Example:
        >>> count(5, "n_instances", 3, "instances in `X_pool`")
        Traceback (most recent call last):
        ...
        ValueError: `n_instances` must be from 0 to 3, the number of instances in `X_pool`, got 5
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, got {value!r}") from None
    if not 0 <= number <= most:
        raise ValueError(f"`{name}` must be from 0 to {most}, the number of {of}, got {number}")
    return number


def positions(values: Any, name: str, rows: int, of: str) -> np.ndarray:
    """Row indices, (n,) int64, from indices or from a mask of `rows` entries.

    Example:
        >>> positions([True, False, True], "initial_subset", 3, "rows")
        array([0, 2])
    """
    found = np.asarray(values)
    if found.dtype == bool:
        if found.shape != (rows,):
            raise ValueError(f"`{name}` is a mask of shape {found.shape}; it must be ({rows},), for each of the {of}")
        return np.flatnonzero(found)
    found = whole(found, name)
    if found.ndim != 1 or (len(found) and (found.min() < 0 or found.max() >= rows)):
        raise ValueError(f"`{name}` must be 1-D indices from 0 to {rows - 1}, or a mask, got {found.tolist()}"[:240])
    return found


def whole(values: np.ndarray, name: str) -> np.ndarray:
    """Indices as int64, also of float or text, as some libraries hand them over; ValueError where one is not whole.

    Example:
        >>> whole(np.array(["1", "2"]), "lSet")
        array([1, 2])
    """
    try:
        with np.errstate(invalid="ignore"):  # NaN has no whole number, which the comparison finds
            found = values.astype(np.int64)
        same = values.dtype.kind not in "fO" or np.array_equal(found, values.astype(np.float64))
    except (TypeError, ValueError, OverflowError):
        same = False
    if not same:
        raise ValueError(f"`{name}` must be whole numbers, got {show(values)}")
    return found


def herd(features: Any, budget: int, *, weights: Any = None, **options: Any) -> Any:
    """`maxherding`, or `uherding` where there are weights: where they say nothing more, coverage takes over."""
    if weights is None:
        return maxherding(features, budget, **options)
    return uherding(features, weights, budget, **options)


def float_array(values: Any) -> np.ndarray:
    """An array of float16, float32 or float64 from an array, tensor, table, list or sparse matrix.

    Example:
        >>> float_array([[1, 2]]).dtype
        dtype('float64')
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    elif hasattr(values, "toarray"):
        values = values.toarray()
    array = np.asarray(values)
    return array if array.dtype in (np.float16, np.float32, np.float64) else array.astype(np.float64)
