"""A head's first linear layer at every pixel of an image, without features at every pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from difal_kernels import _checks
from difal_kernels._dispatch import Op
from difal_kernels.ops import _maps
from difal_kernels.ops.projection import cpu, reference

from ..._settings import on_cpu_by_default

CHUNK_NUMBERS = 1 << 21  # what one chunk of rows holds by default: 8 MiB of float32


@dataclass(frozen=True)
class ProjectionProblem:
    """Validated input: maps as given; weight and bias of `dtype` on their device."""

    maps: list[torch.Tensor]
    weight: torch.Tensor
    bias: torch.Tensor | None
    size: tuple[int, int]
    normalize: bool
    tail: Callable[[torch.Tensor], torch.Tensor] | None
    rows_per_chunk: int

    @property
    def device(self) -> torch.device:
        return self.maps[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype


@on_cpu_by_default
def project_then_resize(
    maps: Sequence[torch.Tensor | np.ndarray],
    weight: torch.Tensor | np.ndarray,
    bias: torch.Tensor | np.ndarray | None,
    size: tuple[int, int],
    *,
    normalize: bool = True,
    tail: Callable[[torch.Tensor], torch.Tensor] | None = None,
    rows_per_chunk: int | None = None,
    backend: str = "auto",
) -> torch.Tensor | np.ndarray:
    r"""Apply a linear layer to the hypercolumn of every pixel, projecting the maps before they are resized.

    With v the concatenation of the maps resized to the image (bilinear, align_corners=False) at one pixel,
    the answer there is

        y = tail(W v / |v|_2 + b)          (W v + b without `normalize`)

    W commutes with resizing and with the division by a scalar, so each map is projected at its own resolution
    and only the O projected channels are resized. In each map v is a mix sum_k w_k v_k of four cells, hence

        |v|^2 = sum over maps of sum_kl w_k w_l <v_k, v_l>

    which needs the inner products of neighbouring cells alone, taken once per map in float64.

    Args:
        maps: L arrays (B, C_l, H_l, W_l), torch tensors or NumPy arrays of float16, bfloat16, float32 or
            float64, in any memory layout. A map of the image's size is projected as it stands; from one with
            more cells than the image, the pixels' values are read first, a few rows at a time.
        weight: (O, D) with D the sum of C_l, like `torch.nn.Linear.weight`.
        bias: (O,) or None.
        size: (H, W) of the image, in pixels.
        normalize: divide each hypercolumn by its Euclidean norm. A zero vector stays zero: the answer is b.
        tail: the rest of the head, for example a `torch.nn.Sequential` in eval mode. It gets (n, O) for n
            pixels at a time, in a tensor that is used again for the next ones, and returns (n, ...).
        rows_per_chunk: image rows per call of `tail`; by default about 8 MiB worth.
        backend: "auto", "cpu" or "reference".

    Returns:
        (B, H, W, O) of float32, or of float64 if any of the arrays is; with `tail` (B, H, W, ...) of whatever
        shape and dtype it returns. Of the library of `maps[0]` and on its device.

    Raises:
        TypeError: an argument is of the wrong kind or dtype.
        ValueError: no map, a wrong shape, NaN or infinity, a `tail` with batch normalisation in training mode
            (its answer would depend on the chunks), or one that returns another number of rows or, for another
            chunk, another shape or dtype.
        BackendUnavailableError: the backend named cannot run here.

    Notes:
        Not differentiable: `tail` runs under `torch.no_grad` too. In float32 the answer agrees with
        interpolating, concatenating, normalising and multiplying in float64 to 1e-5 of |W|. Where the corners
        cancel (|v|^2 below a thousandth of the corners' mean) the pixel is computed from its own float64
        hypercolumn instead. The GEMMs are torch's and follow `torch.set_float32_matmul_precision`.
        GEMM work: O C_l H_l W_l per map instead of O C_l H W. Maps of one size are added up before they are
        resized. Workspace, of one image at a time: O + 10 numbers per cell of each size of map smaller than the
        image, 10 more for the largest size that several maps share, one float64 per pixel, and one chunk of rows.

    References:
        Kim et al., Diffusion-Driven Two-Stage Active Learning, arXiv 2510.22229, section 3 (the head).

    Example:
        >>> import torch
        >>> from difal_kernels import project_then_resize
        >>> maps = [torch.ones(1, 3, 2, 2), torch.ones(1, 1, 4, 4)]
        >>> project_then_resize(maps, torch.ones(1, 4), None, (4, 4))[0, :, :, 0]
        tensor([[2., 2., 2., 2.],
                [2., 2., 2., 2.],
                [2., 2., 2., 2.],
                [2., 2., 2., 2.]])
        >>> labels = project_then_resize(maps, torch.ones(2, 4), None, (4, 4), tail=lambda y: y.argmax(1))
        >>> labels.shape
        torch.Size([1, 4, 4])
    """
    problem = prepare(maps, weight, bias, size, normalize=normalize, tail=tail, rows_per_chunk=rows_per_chunk)
    return _maps.to_library(OP.run(backend, problem), maps[0])


def prepare(maps, weight, bias, size, *, normalize=True, tail=None, rows_per_chunk=None) -> ProjectionProblem:
    views = _maps.as_maps(maps)
    height, width = _maps.as_size(size)
    channels = sum(view.shape[1] for view in views)
    matrix = _checks.as_data(weight, "weight")
    if matrix.ndim != 2 or matrix.shape[1] != channels or matrix.shape[0] == 0:
        raise ValueError(
            f"`weight` must be 2-D (O, D) with D = {channels}, the channels of all maps, got shape "
            f"{tuple(matrix.shape)}"
        )
    given = [*views, matrix]
    if bias is not None:
        bias = _checks.as_data(bias, "bias")
        if tuple(bias.shape) != (len(matrix),):
            raise ValueError(f"`bias` must have shape ({len(matrix)},), got {tuple(bias.shape)}")
        given.append(bias)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in given) else torch.float32
    matrix, bias = (None if t is None else t.to(views[0].device, dtype).contiguous() for t in (matrix, bias))
    _checks.check_finite(matrix, "weight")
    if bias is not None:
        _checks.check_finite(bias, "bias")
    _check_tail(tail)
    if rows_per_chunk is None:
        read = sum(v.shape[1] for v in views if v.shape[2] * v.shape[3] > height * width)
        rows_per_chunk = min(height, max(1, CHUNK_NUMBERS // (width * (len(matrix) + read))))
    return ProjectionProblem(
        maps=views,
        weight=matrix,
        bias=bias,
        size=(height, width),
        normalize=_checks.as_bool(normalize, "normalize"),
        tail=tail,
        rows_per_chunk=min(height, _checks.as_int(rows_per_chunk, "rows_per_chunk", 1)),
    )


def _check_tail(tail: Any) -> None:
    if tail is None:
        return
    if not callable(tail):
        raise TypeError(f"`tail` must be callable, (n, O) -> (n, ...), got {type(tail).__name__}")
    if isinstance(tail, torch.nn.Module):
        for name, module in tail.named_modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training:
                raise ValueError(
                    f"`tail` must not be in training mode: its batch normalisation {name!r} would see "
                    f"one chunk of rows at a time; call tail.eval() first"
                )


OP = Op("project_then_resize", prepare, {"reference": reference, "cpu": cpu})
