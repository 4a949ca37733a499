"""hypercolumns against interpolating, concatenating, gathering and normalising."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from difal_kernels import available_backends, explain, hypercolumns
from feature_maps import (
    BACKENDS,
    CASES,
    DTYPES,
    LAYOUTS,
    RUNS,
    all_points,
    dense,
    lay_out,
    make,
    random_points,
)

# What one rounding to the answer's type can do to numbers of size at most 1; float64 to a few sums.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def gathered(maps, points, image, size, normalize=True):
    return dense(maps, size, normalize)[image, :, points[:, 0], points[:, 1]]


@pytest.mark.parametrize(("backend", "layout"), RUNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_answer_at_every_pixel(backend, case, dtype, layout):
    maps, size = make(case, dtype, layout)
    points, image = all_points(size, len(maps[0]))
    got = hypercolumns(maps, points, size, image_index=image, backend=backend)
    want = gathered(maps, points, image, size)
    assert got.dtype == dtype
    assert got.is_contiguous()
    torch.testing.assert_close(got.double(), want, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_float32_interpolate(backend, normalize):
    maps, size = make("paper-like")
    points, image = random_points(500, size, 2)
    resized = torch.cat([F.interpolate(m, size, mode="bilinear") for m in maps], 1)
    want = resized[image, :, points[:, 0], points[:, 1]]
    want = F.normalize(want, dim=1) if normalize else want
    got = hypercolumns(maps, points, size, image_index=image, normalize=normalize, backend=backend)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_map_of_the_images_size_is_copied_exactly(backend):
    m = torch.randn(1, 19, 13, 7)
    points, _ = all_points((13, 7), 1)
    got = hypercolumns([m], points, (13, 7), normalize=False, backend=backend)
    assert torch.equal(got, m[0].flatten(1).T)


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_out_dtype_is_one_rounding_of_float32(layout, out_dtype):
    maps, size = make("paper-like", layout=layout)
    maps[0] *= torch.logspace(-9, 7, 48)[:, None, None]  # beyond both ends of float16
    points, image = random_points(300, size, 2)
    got = hypercolumns(maps, points, size, image_index=image, normalize=False, out_dtype=out_dtype)
    assert got.dtype == out_dtype
    if out_dtype == torch.float64:
        torch.testing.assert_close(got, gathered(maps, points, image, size, False), rtol=1e-13, atol=1e-12)
    else:
        single = hypercolumns(maps, points, size, image_index=image, normalize=False)
        assert torch.equal(got, single.to(out_dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_every_half_number_is_read_and_written_exactly(layout, dtype):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    every = every[torch.isfinite(every.float())]
    m = every.view(1, -1, 1, 1).expand(1, -1, 2, 1)
    m = m.contiguous(memory_format=torch.channels_last) if layout == "channels-last" else m.contiguous()
    for out_dtype in (dtype, torch.float32):
        got = hypercolumns([m], torch.tensor([[1, 0]]), (2, 1), normalize=False, out_dtype=out_dtype)[0]
        assert torch.equal(got, every.to(out_dtype))


def test_rounding_to_halves_is_torchs():
    values = torch.randn(1 << 16, generator=torch.Generator().manual_seed(3)) * 2.0
    values = torch.cat([values, values * 1e-5, values * 1e-8, values * 3e4, torch.tensor([65519.9, 65520.0, -0.0])])
    ties = torch.arange(2048).float()[:, None] + torch.tensor([0.0, 0.5])
    values = torch.cat([values, (ties * 2.0**-24).flatten(), (ties + 1024).flatten()])
    for dtype in (torch.float16, torch.bfloat16):
        got = hypercolumns(
            [values.view(1, -1, 1, 1)],
            torch.zeros(1, 2, dtype=torch.int64),
            (1, 1),
            normalize=False,
            out_dtype=dtype,
        )
        assert torch.equal(got[0].view(torch.int16), values.to(dtype).view(torch.int16))


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_rows_stay_zero_and_short_rows_do_not(backend):
    m = torch.zeros(1, 6, 2, 2)
    m[0, 1, 1, 1] = 1e-30
    got = hypercolumns([m], torch.tensor([[0, 0], [1, 1]]), (2, 2), backend=backend)
    assert torch.equal(got, torch.tensor([[0.0] * 6, [0.0, 1, 0, 0, 0, 0]]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_values_beyond_float32(backend):
    m = torch.tensor([3e100, 4e100], dtype=torch.float64).view(1, 2, 1, 1)
    got = hypercolumns([m], torch.tensor([[0, 0]]), (1, 1), out_dtype=torch.float32, backend=backend)
    torch.testing.assert_close(got, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_dtypes_may_differ_between_maps(backend):
    maps, size = make("paper-like")
    maps = [m.to(d) for m, d in zip(maps, DTYPES, strict=True)]
    points, image = random_points(50, size, 2)
    got = hypercolumns(maps, points, size, image_index=image, backend=backend)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, gathered(maps, points, image, size), rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_points(backend):
    maps, size = make("odd")
    none = torch.zeros(0, 2, dtype=torch.int32)
    got = hypercolumns(maps, none, size, image_index=none[:, 0], backend=backend)
    assert got.shape == (0, 9)
    assert got.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_image_needs_no_index(backend):
    maps, size = make("wide")
    points, image = random_points(40, size, 1)
    kwargs = {"backend": backend}
    assert torch.equal(
        hypercolumns(maps, points, size, **kwargs),
        hypercolumns(maps, points, size, image_index=image, **kwargs),
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_shapes_agree_and_the_order_of_points_does_not_matter(data):
    side = st.integers(1, 24)
    size = data.draw(st.tuples(side, side))
    images = data.draw(st.integers(1, 3))
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 40), side, side), min_size=1, max_size=4))
    layouts = data.draw(st.lists(st.sampled_from(LAYOUTS), min_size=len(shapes), max_size=len(shapes)))
    dtype = data.draw(st.sampled_from(DTYPES))
    maps = [lay_out(torch.randn(images, *s).to(dtype), l) for s, l in zip(shapes, layouts, strict=True)]
    points, image = random_points(data.draw(st.integers(0, 300)), size, images)
    got = hypercolumns(maps, points, size, image_index=image, backend="cpu", out_dtype=torch.float32)
    torch.testing.assert_close(got.double(), gathered(maps, points, image, size), rtol=0, atol=1e-6)
    order = torch.randperm(len(points))
    again = hypercolumns(maps, points[order], size, image_index=image[order], out_dtype=torch.float32)
    assert torch.equal(again, got[order])
    lengths = torch.linalg.vector_norm(got, dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_do_not_change_a_bit(layout):
    maps, size = make("paper-like", layout=layout)
    points, image = random_points(1000, size, 2)
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(hypercolumns(maps, points, size, image_index=image, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(answers[0], other) for other in answers[1:])


def test_maps_are_not_copied():
    huge = torch.tensor([2.0]).expand(1, 64, 1 << 20, 1 << 20)  # 256 TiB, were it ever written out
    got = hypercolumns([huge], torch.tensor([[5, 7], [0, 0]]), (1 << 10, 1 << 10))
    assert torch.equal(got, torch.full((2, 64), 0.125))


def test_the_largest_image():
    """Pixels are counted to 2^62; the corners and the middle of a map stretched over all of them are its own."""
    last = 2**31 - 2
    m = torch.arange(12.0).view(2, 2, 1, 3) + 1
    points = torch.tensor([[0, 0], [last, last], [last // 2, last // 2], [last, 0]])
    for backend in BACKENDS:
        got = hypercolumns(
            [m], points, (last + 1, last + 1), image_index=torch.tensor([0, 1, 1, 0]), normalize=False, backend=backend
        )
        want = torch.tensor([[1.0, 4.0], [9.0, 12.0], [8.0, 11.0], [1.0, 4.0]])
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_numpy_in_numpy_out(tmp_path):
    maps, size = make("odd", torch.float16)
    points, image = random_points(64, size, 3)
    want = hypercolumns(maps, points, size, image_index=image)
    np.save(tmp_path / "map.npy", maps[0].numpy(), allow_pickle=False)
    stored = np.load(tmp_path / "map.npy", mmap_mode="r", allow_pickle=False)
    arrays = [stored, maps[1].numpy(), maps[2].numpy()[:, :, ::-1][:, :, ::-1]]
    got = hypercolumns(arrays, points.numpy().astype(np.int16), size, image_index=image.numpy())
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float16
    assert np.array_equal(got, want.numpy())
    assert hypercolumns(arrays, points, size, image_index=image, out_dtype=np.float64).dtype == np.float64


def test_no_gradient():
    m = torch.randn(1, 3, 4, 4, requires_grad=True)
    assert not hypercolumns([m], torch.tensor([[1, 2]]), (8, 8)).requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_cells_that_are_read_must_be_finite(backend):
    m = torch.ones(2, 9, 4, 4)
    m[1, 3, 2, 2] = float("inf")
    points = torch.tensor([[0, 0], [3, 3], [2, 1]])
    for ok in ([0, 0, 0], [1, 1, 1], [1, 0, 0]):
        hypercolumns([m], points, (4, 4), image_index=torch.tensor(ok), backend=backend)
    maps = [torch.zeros(2, 1, 2, 2), m]
    with pytest.raises(ValueError, match=r"`maps\[1\]` must be finite, got inf at index \(1, 3, 2, 2\)"):
        hypercolumns(maps, points[1:], (8, 8), image_index=torch.tensor([1, 1]), backend=backend)


MAP = torch.zeros(2, 3, 4, 4)
POINTS = torch.tensor([[0, 0], [7, 5]])
IMAGE = torch.tensor([0, 1])
ERRORS = [
    (TypeError, r"`maps` must be a list .* got Tensor", {"maps": MAP}),
    (ValueError, r"`maps` must hold at least one map", {"maps": []}),
    (TypeError, r"`maps\[0\]` must be a torch.Tensor or numpy.ndarray, got list", {"maps": [[1.0]]}),
    (TypeError, r"`maps\[0\]` must have dtype .*, got int64", {"maps": [MAP.long()]}),
    (TypeError, r"`maps\[0\]` must be a dense tensor", {"maps": [MAP.to_sparse()]}),
    (ValueError, r"`maps\[1\]` must be 4-D .* got shape \(3, 4, 4\)", {"maps": [MAP, MAP[0]]}),
    (ValueError, r"`maps\[0\]` must be 4-D .* got shape \(2, 0, 4, 4\)", {"maps": [MAP[:, :0]]}),
    (ValueError, r"`maps\[1\]` must hold the 2 images .* \(1, 3, 4, 4\)", {"maps": [MAP, MAP[:1]]}),
    (ValueError, r"`maps\[1\]` must be on cpu like `maps\[0\]`, got meta", {"maps": [MAP, MAP.to("meta")]}),
    (TypeError, r"`points` must be a torch.Tensor or numpy.ndarray, got list", {"points": [[0, 0]]}),
    (TypeError, r"`points` must have dtype int64.*, got float32", {"points": POINTS.float()}),
    (
        ValueError,
        r"`points` must be 2-D \(P, 2\).*, got shape \(2, 3\)",
        {"points": torch.zeros(2, 3).long()},
    ),
    (ValueError, r"`points` must have rows between 0 and 7, got 8 at index 1", {"points": POINTS + 1}),
    (ValueError, r"`points` must have rows between 0 and 7, got -1 at index 0", {"points": POINTS - 1}),
    (
        ValueError,
        r"`points` must have columns between 0 and 7, got 9",
        {"points": torch.tensor([[0, 1], [1, 9]])},
    ),
    (TypeError, r"`points` must hold data, got a tensor on the meta device", {"points": POINTS.to("meta")}),
    (TypeError, r"`image_index` must hold data, got a tensor on the meta device", {"image_index": IMAGE.to("meta")}),
    (ValueError, r"`size\[0\]` must be between 1 and 2147483647, got 2147483648", {"size": (2**31, 8)}),
    (TypeError, r"`size` must be a pair \(H, W\), got 8", {"size": 8}),
    (ValueError, r"`size\[1\]` must be between 1 and 2147483647, got 0", {"size": (8, 0)}),
    (TypeError, r"`size\[0\]` must be an int, got 8.0", {"size": (8.0, 8)}),
    (ValueError, r"`image_index` must be given for maps of 2 images", {"image_index": None}),
    (ValueError, r"`image_index` must have shape \(2,\)", {"image_index": IMAGE[:1]}),
    (
        ValueError,
        r"`image_index` must have values between 0 and 1, got 2 at index 1",
        {"image_index": IMAGE * 2},
    ),
    (TypeError, r"`image_index` must have dtype", {"image_index": IMAGE.bool()}),
    (TypeError, r"`normalize` must be True or False, got 1", {"normalize": 1}),
    (TypeError, r"`out_dtype` must be float16, .* got torch.int8", {"out_dtype": torch.int8}),
    (TypeError, r"`out_dtype` must be float16, .* got 'int8'", {"out_dtype": "int8"}),
    (TypeError, r"`out_dtype` must be float16, .* got 3", {"out_dtype": 3}),
    (TypeError, r"`out_dtype` must be a NumPy dtype", {"maps": [MAP.numpy()], "out_dtype": "bfloat16"}),
    (ValueError, r"`backend` must be 'auto' or one of", {"backend": "gpu"}),
]


@pytest.mark.parametrize(("error", "message", "wrong"), ERRORS, ids=[str(i) for i in range(len(ERRORS))])
def test_errors(error, message, wrong):
    right = {"maps": [MAP], "points": POINTS, "size": (8, 8), "image_index": IMAGE}
    hypercolumns(**right)
    with pytest.raises(error, match=message):
        hypercolumns(**{**right, **wrong})


def test_explain():
    text = explain(hypercolumns, [MAP], POINTS, (8, 8), image_index=IMAGE)
    assert "-> cpu: can run" in text
    assert "answer 24 bytes" in text
    assert set(BACKENDS) <= set(available_backends("hypercolumns"))
