"""Lists of feature maps: checks and views shared by the ops that read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from difal_kernels import _checks

# In the order of difal::Float.
FLOAT_CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
MAX_PIXELS = 2**31 - 1  # of a side of the image


def as_maps(maps: Any) -> list[torch.Tensor]:
    """View `maps` as tensors (B, C_l, H_l, W_l) of one batch size and device, never copying."""
    if not isinstance(maps, list | tuple):
        raise TypeError(
            f"`maps` must be a list of arrays (B, C, H, W), got {type(maps).__name__}; put a single map in a list"
        )
    if not maps:
        raise ValueError("`maps` must hold at least one map (B, C, H, W), got an empty list")
    first, *others = maps
    views = [_checks.as_data(first, "maps[0]"), *(_checks.as_tensor(m, f"maps[{i}]") for i, m in enumerate(others, 1))]
    for i, view in enumerate(views):
        if view.ndim != 4 or 0 in view.shape:
            raise ValueError(f"`maps[{i}]` must be 4-D (B, C, H, W), each at least 1, got shape {tuple(view.shape)}")
        if view.shape[0] != views[0].shape[0]:
            raise ValueError(
                f"`maps[{i}]` must hold the {views[0].shape[0]} images of `maps[0]`, got shape {tuple(view.shape)}"
            )
        if view.device != views[0].device:
            raise ValueError(f"`maps[{i}]` must be on {views[0].device} like `maps[0]`, got {view.device}")
    return views


def as_size(size: Any) -> tuple[int, int]:
    """`size` as (H, W)."""
    if not isinstance(size, tuple | list | torch.Size | np.ndarray) or len(size) != 2:
        raise TypeError(f"`size` must be a pair (H, W), got {size!r}")
    return _checks.as_int(size[0], "size[0]", 1, MAX_PIXELS), _checks.as_int(size[1], "size[1]", 1, MAX_PIXELS)


def native_map(view: torch.Tensor) -> tuple:
    """What the native module reads a map by: address, dtype, sizes, strides."""
    return view.data_ptr(), FLOAT_CODES[view.dtype], tuple(view.shape[1:]), view.stride()


def not_finite(maps: list[torch.Tensor], images: list[int]) -> ValueError:
    """The error for NaN or infinity met in one of `images`: names the first map, and where in it."""
    for i, view in enumerate(maps):
        for b in images:
            bad = ~torch.isfinite(view[b])
            if bool(bad.any()):
                c, y, x = (int(k) for k in bad.nonzero()[0])
                return ValueError(
                    f"`maps[{i}]` must be finite, got {view[b, c, y, x].item()} at index {(b, c, y, x)} "
                    f"({int(bad.sum())} such values in image {b})"
                )
    return ValueError("`maps` must have squared norms that fit float64; divide them by a constant")


def out_dtype(value: Any, maps: list[torch.Tensor], like: Any) -> torch.dtype:
    """The dtype asked for, or what the maps promote to; one that the library of `like` has."""
    if value is None:
        dtype = maps[0].dtype
        for view in maps[1:]:
            dtype = torch.promote_types(dtype, view.dtype)
    else:
        named = value if isinstance(value, torch.dtype) else getattr(torch, _dtype_name(value), None)
        if named not in FLOAT_CODES:
            raise TypeError(f"`out_dtype` must be float16, bfloat16, float32 or float64, got {value!r}")
        dtype = named
    if dtype == torch.bfloat16 and isinstance(like, np.ndarray) and like.dtype.name != "bfloat16":
        raise TypeError(
            "`out_dtype` must be a NumPy dtype for NumPy maps, got bfloat16; pass the maps as torch tensors"
        )
    return dtype


def _dtype_name(value: Any) -> str:
    try:
        return value.removeprefix("torch.") if isinstance(value, str) else np.dtype(value).name
    except TypeError:
        return ""


def to_library(answer: torch.Tensor, like: Any) -> torch.Tensor | np.ndarray:
    """The answer in the library of `like`; bfloat16 in NumPy as the extension type that `like` has."""
    if not isinstance(like, np.ndarray):
        return answer
    if answer.dtype == torch.bfloat16 and like.dtype.name != "bfloat16":
        raise TypeError("NumPy has no bfloat16 to return the answer in; pass the maps as torch tensors")
    if answer.dtype == torch.bfloat16:
        return answer.view(torch.uint16).numpy().view(like.dtype)
    return answer.numpy()
