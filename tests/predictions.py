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


def rounded_differences():
    """Logits (1, K, C) and (1, C) of one class and others alike, whose differences are rounded to the same side."""
    for classes, samples, first, others in (
        (4000, 1, 4.356318473815918, -4.021030902862549),
        (4000, 7, 2.0120649337768555, -5.2543768882751465),
        (29, 7, 2.674288034439087, -1.6123857498168945),
        (31, 1, -0.01472265, -4.1726317),
    ):
        single = torch.full((1, classes), others)
        alike = torch.zeros(1, samples, classes)
        single[..., 0], alike[..., 0] = first, 0.7248826
        yield alike, single
        yield single[:, None].repeat(1, samples, 1), single


def of_any_size(dtype):
    """Logits of half precision up to the largest number, of three samples, (3, positions, 5), and log-probabilities.

    The number of positions is even, so that two of them may lie side by side. Some numbers are as near the largest of
    their position as can be.
    """
    limit = torch.finfo(dtype).max
    spread = torch.tensor([0.0, -0.5, -3.0, -40.0, -math.inf])
    sizes = [0.0, 1.7, -5.3, 100.0, -3e3, 3.1e4, 32768.0, 33024.0, -32768.0, 6e4, limit, -limit]
    sizes += [65536.0, -65536.0, 65280.0, -65280.0, 1e6, -1e30, 3e38, -3e38] if dtype == torch.bfloat16 else [32752.0]
    rows = torch.stack([(size + spread).to(dtype) for size in sizes])
    near = rows.clone()
    near[:, 1] = torch.nextafter(rows[:, 0], torch.full_like(rows[:, 0], -math.inf))
    apart = torch.tensor([[limit, -limit], [-limit, -math.inf], [1.0, -limit]], dtype=dtype).repeat(1, 3)[:, :5]
    rows = torch.cat([rows, near.where(near.isfinite(), -math.inf), apart])
    rows = torch.cat([rows, rows[:1]]) if len(rows) % 2 else rows
    turned = torch.stack([rows.roll(k, 1) for k in range(3)])
    logs = turned[:, : len(sizes) // 2 * 2].double().log_softmax(-1).to(dtype)
    return turned, logs
