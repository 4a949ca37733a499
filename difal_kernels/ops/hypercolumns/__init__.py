"""Hypercolumns: the feature vectors of chosen pixels, without resizing a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from difal_kernels import _checks
from difal_kernels._dispatch import Op
from difal_kernels.ops import _maps
from difal_kernels.ops.hypercolumns import cpu, cuda, reference, triton

from ..._settings import on_cpu_by_default

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class HypercolumnProblem:
    """Validated input: maps as given, points and image (int64, contiguous) on their device."""

    maps: list[torch.Tensor]
    points: torch.Tensor
    image: torch.Tensor
    size: tuple[int, int]
    normalize: bool
    out_dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        return self.maps[0].device

    @property
    def channels(self) -> int:
        return sum(m.shape[1] for m in self.maps)


@on_cpu_by_default
def hypercolumns(
    maps: Sequence[torch.Tensor | np.ndarray],
    points: torch.Tensor | np.ndarray,
    size: tuple[int, int],
    *,
    image_index: torch.Tensor | np.ndarray | None = None,
    normalize: bool = True,
    out_dtype: torch.dtype | str | None = None,
    backend: str = "auto",
) -> torch.Tensor | np.ndarray:
    r"""Gather the feature vectors of pixels from maps of any resolution.

    With `up_l` the bilinear resize (align_corners=False) of map l to the image's H x W, the answer for a
    point (r, c) of image b is

        v = concat_l up_l(maps[l])[b, :, r, c],    divided by |v|_2 if `normalize`

    but only the four cells that each value needs are read: no map is resized, and none is copied.

    Args:
        maps: L arrays (B, C_l, H_l, W_l), torch tensors or NumPy arrays of float16, bfloat16, float32 or
            float64, in any memory layout (channels-last, slices, memory maps), smaller or larger than the
            image.
        points: (P, 2) integers, (row, column) of each point in the image, in pixels.
        size: (H, W) of the image, in pixels.
        image_index: (P,) integers in [0, B), the image of each point; may be left out if B is 1.
        normalize: divide each row by its Euclidean norm. A row of zeros stays zero.
        out_dtype: dtype of the answer; by default the one that `maps` promote to.
        backend: "auto", "cuda", "triton", "cpu" or "reference".

    Returns:
        (P, sum of C_l), rows in the order of `points`, channels in the order of `maps`; of the library of
        `maps[0]` and on its device.

    Raises:
        TypeError: an argument is of the wrong kind or dtype.
        ValueError: no map, a wrong shape, a point outside of the image, an image index out of range or
            missing, NaN or infinity among the values read.
        BackendUnavailableError: the backend named cannot run here.

    Notes:
        Not differentiable: the answer carries no gradient. Coordinates, weights, sums and norms are float64;
        each value is rounded once to float32 (unless a map or the answer is float64) and once to `out_dtype`.
        Unlike `torch.nn.functional.normalize` there is no epsilon: short rows get norm 1 too.
        What lies beyond the range of `out_dtype` becomes infinite (only without `normalize`).
        O(P D) work; points are visited by image, row and column, whatever their order. Workspace: 128 rows of
        the answer per thread. Results do not depend on the number of threads.

    References:
        Hariharan et al., Hypercolumns for Object Segmentation and Fine-grained Localization, CVPR 2015.
        Kim et al., Diffusion-Driven Two-Stage Active Learning, arXiv 2510.22229, section 3.

    Example:
        >>> import torch
        >>> from difal_kernels import hypercolumns
        >>> coarse, fine = torch.ones(1, 2, 4, 4), torch.ones(1, 2, 8, 8)
        >>> hypercolumns([coarse, fine], torch.tensor([[0, 0], [7, 3]]), (8, 8))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000],
                [0.5000, 0.5000, 0.5000, 0.5000]])
    """
    problem = prepare(maps, points, size, image_index=image_index, normalize=normalize, out_dtype=out_dtype)
    return _maps.to_library(OP.run(backend, problem), maps[0])


def prepare(maps, points, size, *, image_index=None, normalize=True, out_dtype=None) -> HypercolumnProblem:
    views = _maps.as_maps(maps)
    height, width = _maps.as_size(size)
    device = views[0].device
    at = _checks.as_tensor(points, "points", INTEGERS)
    if at.ndim != 2 or at.shape[1] != 2:
        raise ValueError(f"`points` must be 2-D (P, 2) of (row, column), got shape {tuple(at.shape)}")
    at = at.to(device, torch.int64).contiguous()
    _check_range(at[:, 0], "points", "rows", height)
    _check_range(at[:, 1], "points", "columns", width)
    return HypercolumnProblem(
        maps=views,
        points=at,
        image=_image_index(image_index, len(at), views[0]),
        size=(height, width),
        normalize=_checks.as_bool(normalize, "normalize"),
        out_dtype=_maps.out_dtype(out_dtype, views, maps[0]),
    )


def _image_index(image_index: Any, count: int, first: torch.Tensor) -> torch.Tensor:
    images = first.shape[0]
    if image_index is None:
        if images != 1:
            raise ValueError(f"`image_index` must be given for maps of {images} images, got None")
        return torch.zeros(count, dtype=torch.int64, device=first.device)
    index = _checks.as_tensor(image_index, "image_index", INTEGERS)
    if tuple(index.shape) != (count,):
        raise ValueError(f"`image_index` must have shape ({count},) like the points, got {tuple(index.shape)}")
    index = index.to(first.device, torch.int64).contiguous()
    _check_range(index, "image_index", "values", images)
    return index


def _check_range(values: torch.Tensor, name: str, what: str, stop: int) -> None:
    if values.numel() == 0:
        return
    low, high = (int(v) for v in values.aminmax())
    if low < 0 or high >= stop:
        first = int(((values < 0) | (values >= stop)).nonzero()[0])
        raise ValueError(
            f"`{name}` must have {what} between 0 and {stop - 1}, got {int(values[first])} at index {first}"
        )


OP = Op("hypercolumns", prepare, {"reference": reference, "cpu": cpu, "triton": triton, "cuda": cuda})
