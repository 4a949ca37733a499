"""Logits for tests of the disagreement family, and the orders in memory that they may come in."""

import math

import numpy as np
import pytest
import torch

from difal_kernels import bald


def draw(shape, seed=0, scale=3.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


LAYOUTS = {
    # name: (order in memory of the axes place, place, K, C; what is cut from a larger array)
    "places_last": ((2, 3, 0, 1), (0, 0, 0, 0)),  # (K, C, H, W)
    "classes_last": ((0, 1, 2, 3), (0, 0, 0, 0)),  # (H, W, K, C)
    "samples_first": ((2, 0, 1, 3), (0, 0, 0, 0)),  # (K, H, W, C)
    "samples_last": ((0, 1, 3, 2), (0, 0, 0, 0)),
    "classes_first": ((3, 2, 0, 1), (0, 0, 0, 0)),
    "between": ((0, 2, 3, 1), (0, 0, 0, 0)),  # (B, K, C, W)
    "cropped": ((2, 3, 0, 1), (3, 5, 1, 2)),  # a view of a larger (K, C, H, W)
}


def lay_out(x, layout):
    """x of shape (H, W, K, C), with equal values in memory of another order; a view of that shape."""
    order, cut = LAYOUTS[layout]
    larger = torch.full([size + extra for size, extra in zip(x.shape, cut, strict=True)], 77.0, dtype=x.dtype)
    memory = larger.permute(order).contiguous().permute(np.argsort(order).tolist())
    view = memory[tuple(slice(extra // 2, extra // 2 + n) for n, extra in zip(x.shape, cut, strict=True))]
    view.copy_(x)
    return view


def refuse_odd_probabilities(device, backend):
    """A negative one beside NaN, too, and a sum beyond float64 where numbers are checked, which is returned."""
    x = torch.tensor([[[0.5, 0.5, 0.0], [0.5, math.nan, -0.25]]]).to(device)
    with pytest.raises(ValueError, match=r"no negative probability, got -0\.25 at position \(0,\), sample 1"):
        bald(x, input="probs", check_finite=False, backend=backend)
    x = torch.full((1, 2, 3), 1e308, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must hold probabilities that sum to one .* got a sum of inf"):
        bald(x.to(device), input="probs", backend=backend)
    assert bald(x.to(device), input="probs", check_finite=False, backend=backend).isnan().all()
    return x
