"""Argument checks shared by all ops. Each names the argument and the value, before any work is done."""

from __future__ import annotations

import math
import numbers
import operator
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ._arrays import exact_floats, show, to_array

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NARROW_INTEGERS = (torch.int8, torch.uint8)  # kept as they are: the CPU widens a few rows at a time
SLICE = 1 << 18  # numbers that are looked at together: 1 MiB where torch widens them
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def as_tensor(value: Any, name: str, dtypes: Sequence[torch.dtype] = FLOATS) -> torch.Tensor:
    """View a torch tensor, NumPy array, or what holds such numbers, as a detached tensor of one of `dtypes`.

    Tables, Arrow, scipy.sparse and holders of `__dlpack__` or `__array__` are taken, see `_arrays.to_array`. Copied
    only where the memory does not hold the numbers: a torch tensor negated by its flag alone, such as `z.conj().imag`,
    NumPy's other byte order, and strides that torch has not.
    """
    value = to_array(value, name)
    if isinstance(value, np.ndarray):
        value = _from_numpy(value, name)
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"`{name}` must be a torch.Tensor or numpy.ndarray, got {type(value).__name__}; "
            f"convert it first, for example with numpy.asarray"
        )
    with torch._C.DisableTorchFunctionSubclass():
        value = _plain(value, name)
    if value.dtype not in dtypes:
        allowed = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"`{name}` must have dtype {allowed}, got {str(value.dtype).removeprefix('torch.')}")
    return value


def _plain(value: torch.Tensor, name: str) -> torch.Tensor:
    """The numbers of any tensor as a plain detached one whose memory holds them, for those who read by address."""
    kind = type(value)
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:  # masked, distributed, fake: others within
        raise TypeError(f"`{name}` must be a plain tensor, got {kind.__name__}; take the tensor that it wraps")
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        raise TypeError(f"`{name}` must hold data, got a tensor inside of torch.func or vmap; make the call outside")
    if value.layout != torch.strided or value.is_nested:
        layout = "nested" if value.is_nested else value.layout
        raise TypeError(f"`{name}` must be a dense tensor, got layout {layout}; call .to_dense() or pad it first")
    value = value.detach().as_subclass(torch.Tensor)
    if value._is_zerotensor():  # zeros without memory
        return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
    return value.resolve_neg()


def as_features(value: Any, name: str, narrow: bool = False) -> torch.Tensor:
    """`as_data` of rows of numbers; whole numbers become floats that hold them exactly; `narrow`: 8-bit ones stay."""
    rows = as_data(value, name, (*FLOATS, *INTEGERS, torch.bool))
    return rows if narrow and rows.dtype in NARROW_INTEGERS else exact_floats(rows, name)


def as_data(value: Any, name: str, dtypes: Sequence[torch.dtype] = FLOATS) -> torch.Tensor:
    """`as_tensor` for an argument that may be on any device: it must be one that holds data."""
    value = as_tensor(value, name, dtypes)
    if value.is_meta:
        raise TypeError(f"`{name}` must hold data, got a tensor on the meta device")
    return value


def _from_numpy(value: np.ndarray, name: str) -> torch.Tensor:
    if value.dtype.name == "bfloat16":  # the ml_dtypes extension type; torch reads the same bits
        return _from_numpy(value.view(np.uint16), name).view(torch.bfloat16)
    if value.dtype in (np.uint16, np.uint32, np.uint64):  # torch has no arithmetic for them
        if value.size and int(value.max()) >= 2**63:
            raise ValueError(f"`{name}` must be below 2**63, got {value.max()}")
        value = value.astype(np.int64)
    if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8:
        raise TypeError(f"`{name}` must hold numbers of at most 64 bits, got a numpy.ndarray of dtype {value.dtype}")
    if is_masked(value):
        raise TypeError(f"`{name}` must not be a masked array: the mask would be ignored; drop or fill those entries")
    whole = value.flags.aligned and not any(stride < 0 or stride % value.itemsize for stride in value.strides)
    if not (whole and value.dtype.isnative):
        value = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")  # torch has no such views
    if not value.flags.writeable:
        value = _writeable_view(value)
    return torch.from_numpy(value)


def _writeable_view(value: np.ndarray) -> np.ndarray:
    """The same memory without the read-only flag, so that torch does not warn; we never write to inputs."""
    interface = dict(value.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    holder = type("_Memory", (), {"__array_interface__": interface, "owner": value})()
    return np.asarray(holder)


def back_converter(value: Any) -> Callable[[torch.Tensor], Any]:
    """A function that turns an answer into torch, on the device of `value`, where that is a tensor, else into NumPy."""
    if not isinstance(value, torch.Tensor):
        return lambda tensor: tensor.cpu().numpy()
    with torch._C.DisableTorchFunctionSubclass():
        device = value.device
    return lambda tensor: tensor.to(device)


def as_int(value: Any, name: str, low: int | None = None, high: int | None = None) -> int:
    no_scalar = isinstance(value, torch.Tensor) and (value.ndim > 0 or value.is_meta or value.dtype == torch.bool)
    if no_scalar or isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be an int, got {show(value)}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an int, got {show(value)}") from None
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"`{name}` must be {bounds}, got {value}")
    return value


def as_bytes(value: Any, name: str) -> int:
    """An amount of memory, at least 1: a number of bytes, or text for `parse_bytes`."""
    if not isinstance(value, str):
        try:
            return as_int(value, name, low=1)
        except TypeError:
            raise TypeError(f"`{name}` must be a number of bytes or text such as '8GiB', got {show(value)}") from None
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from None


def parse_bytes(text: str) -> int:
    """Bytes from text such as 8GiB, 500MB or 1.5G.

    Raises:
        ValueError: it is no such text, or less than a byte.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+) *([KMGT]?)(i)?B?", text.strip(), re.IGNORECASE | re.ASCII)
    if match:
        base = 1024 if match[3] else 1000
        size = float(match[1]) * base ** " KMGT".index(match[2].upper() or " ")
        if 1 <= size < math.inf:
            return int(size)
    raise ValueError(f"{show(text)} is no amount of memory; write 8GiB, 500MB or 2G")


def as_float(value: Any, name: str) -> float:
    """Any real number, NumPy's included; one beyond a float's range is infinite."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a float, got {show(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def as_bool(value: Any, name: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False, got {show(value)}")
    return bool(value)


def is_masked(value: Any) -> bool:
    """Whether it is one of NumPy's masked arrays, without loading their module: the first call would take its time."""
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(value, masked.MaskedArray)


def as_numbers(value: Any, name: str, what: str) -> np.ndarray:
    """One real number or an array of them, as float64; TypeError "`name` must be `what`" for anything else."""
    try:
        if isinstance(value, torch.Tensor) or is_masked(value):
            value = as_data(value, name, (*FLOATS, *INTEGERS)).double().cpu().numpy()
        array = np.asarray(value)
        if value is None or array.dtype.kind not in "fiuO":  # O: fractions, decimals
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be {what}, got {show(value)}") from None
    except OverflowError:
        return np.full((), np.inf)


def as_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string, one of {', '.join(map(repr, choices))}, got {show(value)}")
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {show(value)}")
    return value


def check_finite(value: torch.Tensor, name: str) -> None:
    """Raise ValueError that names the first NaN or infinite entry and how many there are."""
    if not value.dtype.is_floating_point:
        return
    wide = torch.float32 if value.dtype.itemsize == 2 else None  # float64 takes thirty times as long
    where, count, begin = None, 0, 0
    for some in slices(value):
        if not bool(torch.isfinite(some.sum(dtype=wide))):  # a finite sum has only finite terms: one pass, no mask
            bad = ~torch.isfinite(some)
            found = int(bad.sum())
            if found and where is None:
                first = [int(i) for i in bad.nonzero()[0]]
                where = (first[0] + begin, *first[1:])
            count += found
        begin += len(some)
    if where is not None:
        raise ValueError(
            f"`{name}` must be finite, got {value[where].item()} at index {where} "
            f"({count} such values of {value.numel()})"
        )


def slices(value: torch.Tensor) -> Iterator[torch.Tensor]:
    """Parts of a tensor along its first dimension, none of them empty: torch widens half precision as a whole."""
    if value.numel() == 0:
        return
    if value.ndim == 0 or value.is_cuda:
        yield value if value.ndim else value[None]
        return
    yield from value.split(max(1, SLICE * len(value) // value.numel()))
