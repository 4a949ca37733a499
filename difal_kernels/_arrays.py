"""Arrays of other libraries as NumPy arrays or tensors: tables, Arrow, scipy.sparse, `__dlpack__` and `__array__`."""

from __future__ import annotations

import numbers
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import torch

EXACT_IN_FLOAT32, EXACT_IN_FLOAT64 = 2**24, 2**53  # whole numbers up to these
SHOWN = 60  # letters of a value in a message
ROW_NUMBERS = ("id", "index", "idx", "row", "unnamed: 0", "level_0")  # what tables call them when they become columns
MISSING = ("NAType", "NaTType")


def to_array(value: Any, name: str) -> Any:
    """The numbers that `value` holds as a numpy.ndarray or torch.Tensor; `value` itself where nothing is known of it.

    Sparse matrices become dense. Tables must hold numbers alone.

    Raises:
        TypeError: a table with a column of something else.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        return _unwrapped(value, name)
    library = type(value).__module__.partition(".")[0]
    if hasattr(value, "toarray"):  # scipy.sparse, and what is like it
        return value.toarray()
    if library == "pyarrow":
        return _from_arrow(value, name)
    if hasattr(value, "to_numpy"):  # pandas, polars
        _check_columns(value, name)
        array = value.to_numpy()
        if array.dtype == object and library == "pandas":  # nullable columns: what is missing is NaN
            with suppress(TypeError, ValueError):
                array = value.to_numpy(dtype=np.float64, na_value=np.nan)
        return _numbers(array, value, name)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return torch.from_dlpack(value)
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return _numbers(np.asarray(value), value, name)
    return value


def exact_floats(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Whole numbers as float32 where it holds each of them exactly, else as float64; floats as they are.

    Raises:
        ValueError: a number above 2**53, which no float type holds.
    """
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor
    if tensor.dtype in (torch.bool, torch.int8, torch.uint8, torch.int16) or tensor.numel() == 0:
        return tensor.float()
    low, high = (int(end) for end in torch.aminmax(tensor))
    largest = max(-low, high)
    if largest > EXACT_IN_FLOAT64:
        raise ValueError(f"`{name}` must be whole numbers up to 2**53, got {largest}; subtract a common offset")
    return tensor.float() if largest <= EXACT_IN_FLOAT32 else tensor.double()


def show(value: Any) -> str:
    """A value in few letters: an array by its kind and shape."""
    shape = getattr(value, "shape", None)
    if (
        shape is not None
        and not isinstance(value, np.generic)
        and not (isinstance(value, torch.Tensor) and value.numel() < 4)
    ):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def _unwrapped(value: Any, name: str) -> Any:
    """What numpy.asarray makes of a sparse matrix is an array of one object."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0 and hasattr(value.item(), "toarray"):
        return value.item().toarray()
    return value


def _from_arrow(value: Any, name: str) -> Any:
    """Tables by columns; lists of one length, as embeddings are stored, as rows."""
    import pyarrow as arrow

    if isinstance(value, arrow.Table | arrow.RecordBatch):
        columns = [_from_arrow(column, name) for column in value.columns]
        if len(columns) == 1 and columns[0].ndim == 2:
            return columns[0]
        return _numbers(np.column_stack(columns) if columns else np.empty((value.num_rows, 0)), value, name)
    if isinstance(value, arrow.ChunkedArray):
        value = value.combine_chunks()
        if isinstance(value, arrow.ChunkedArray):  # of no or several chunks that cannot be joined
            value = arrow.concat_arrays(value.chunks)
    kind = value.type
    if arrow.types.is_list(kind) or arrow.types.is_large_list(kind) or arrow.types.is_fixed_size_list(kind):
        if value.null_count:
            raise TypeError(f"`{name}` has {value.null_count} missing rows; drop or fill them")
        flat = _from_arrow(value.flatten(), name)
        if (
            len(value) == 0
            or len(flat) % len(value)
            or len(set(arrow.compute.list_value_length(value).to_pylist())) > 1
        ):
            raise TypeError(f"`{name}` must have rows of one length, got lists of several; pad or cut them")
        return flat.reshape(len(value), -1)
    return _numbers(value.to_numpy(zero_copy_only=False), value, name)


def _numbers(array: np.ndarray, value: Any, name: str) -> np.ndarray:
    """Numbers that a table holds as objects, such as those of nullable columns; missing ones are NaN."""
    if array.dtype != object:
        return array
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        pass
    if array.ndim == 1 and len(array):  # one array a row
        try:
            return np.stack([np.asarray(row, dtype=np.float64) for row in array])
        except (TypeError, ValueError):
            pass
    columns = getattr(value, "columns", None)
    wrong = _not_numbers(array, columns)
    raise TypeError(f"`{name}` must hold numbers alone, got {type(value).__name__} {wrong}; leave it out")


def _check_columns(value: Any, name: str) -> None:
    """Refuse columns of text, dates or categories, which NumPy would turn into numbers; warn of one of row numbers."""
    dtypes = getattr(value, "dtypes", None)
    if getattr(value, "ndim", 0) != 2 or dtypes is None or not hasattr(value, "iloc"):
        if getattr(getattr(value, "dtype", None), "kind", "f") in "Mm":
            raise TypeError(f"`{name}` must hold numbers alone, got {type(value).__name__} of {value.dtype}")
        return
    for at, (column, dtype) in enumerate(zip(value.columns, dtypes, strict=True)):
        kind = getattr(dtype, "kind", "O")
        if kind not in "iufbcO" or (kind == "O" and not _are_numbers(value.iloc[:, at])):
            raise TypeError(
                f"`{name}` must hold numbers alone, got {type(value).__name__} with the column {show(column)}; "
                f"leave it out"
            )
        if kind in "iu" and str(column).lower() in ROW_NUMBERS and len(value) > 1 and value.iloc[:, at].is_unique:
            warnings.warn(
                f"`{name}` has the column {show(column)}, a different whole number in each row, which counts as a "
                f"feature; leave it out if it is an id",
                stacklevel=2,
            )


def _are_numbers(column: Any) -> bool:
    """Whether a column of objects holds numbers or nothing; `"12"` and dates are none."""
    return all(
        isinstance(one, numbers.Number | np.number | np.bool_) or one is None or type(one).__name__ in MISSING
        for one in column
    )


def _not_numbers(array: np.ndarray, columns: Any) -> str:
    if columns is not None and array.ndim == 2:
        for at, column in enumerate(columns):
            try:
                array[:, at].astype(np.float64)
            except (TypeError, ValueError):
                return f"with the column {show(column)}"
    return "with other values"
