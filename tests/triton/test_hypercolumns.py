"""Hypercolumns by the Triton backend, against the float64 reference."""

import math

import pytest
import torch

from difal_kernels import available_backends, explain, hypercolumns
from feature_maps import CASES, far_apart, lay_out, make, random_points


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_values(device, case, dtype):
    maps, size = make(case, dtype)
    points, image = random_points(25, size, len(maps[0]))
    want = hypercolumns(maps, points, size, image_index=image, backend="reference")
    layout = {torch.float32: "sliced", torch.float16: "channels-last", torch.bfloat16: "transposed"}.get(dtype, "as is")
    there = [lay_out(m, layout).to(device) for m in maps]
    got = hypercolumns(there, points.to(device), size, image_index=image.to(device), backend="triton")
    assert got.dtype == dtype
    torch.testing.assert_close(got.cpu(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("out", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("normalize", [True, False])
def test_types_of_the_answer(device, out, normalize):
    maps, size = make("odd", torch.float16)
    maps[0] = maps[0].float()
    points, image = random_points(9, size, 3)
    options = {"normalize": normalize, "out_dtype": out}
    want = hypercolumns(maps, points, size, image_index=image, backend="reference", **options)
    there = [m.to(device) for m in maps]
    got = hypercolumns(there, points.to(device), size, image_index=image.to(device), backend="triton", **options)
    torch.testing.assert_close(got.cpu(), want, rtol=2 * torch.finfo(getattr(torch, out)).eps, atol=1e-7)


def test_zeros_and_no_points(device):
    maps = [torch.zeros(1, 300, 2, 2, device=device)]
    assert not hypercolumns(maps, torch.zeros(1, 2, dtype=torch.int64), (4, 4), backend="triton").any()
    assert hypercolumns(maps, torch.zeros(0, 2, dtype=torch.int64), (4, 4), backend="triton").shape == (0, 300)


def test_what_is_not_finite_is_named(device):
    m = torch.ones(1, 2, 3, 3)
    m[0, 1, 2, 2] = math.nan
    with pytest.raises(ValueError, match=r"`maps\[0\]` must be finite, got nan at index \(0, 1, 2, 2\)"):
        hypercolumns([m.to(device)], torch.tensor([[2, 2]]).to(device), (3, 3), backend="triton")
    found = hypercolumns([m.to(device)], torch.tensor([[0, 0]]).to(device), (3, 3), backend="triton")
    assert torch.isfinite(found).all()  # what is not read does no harm


def test_it_is_among_the_backends(device):
    assert "triton" in available_backends("hypercolumns")
    maps, size = make("paper-like")
    said = explain(hypercolumns, [m.to(device) for m in maps], torch.zeros(3, 2, dtype=torch.int64), size,
                   image_index=torch.zeros(3, dtype=torch.int64), backend="triton")  # fmt: skip
    assert "-> triton: can run" in said
    assert "a block per point" in said


def test_addresses_beyond_two_to_the_31(device):
    m = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).half()
    points, image = torch.tensor([[0, 0], [5, 3], [2, 7]]), torch.tensor([1, 0, 1])
    want = hypercolumns([m], points, (6, 8), image_index=image, backend="reference")
    there = far_apart(m, device)
    got = hypercolumns([there], points.to(device), (6, 8), image_index=image.to(device), backend="triton")
    torch.testing.assert_close(got.cpu(), want, rtol=2e-3, atol=1e-7)
