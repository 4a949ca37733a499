"""project_then_resize against interpolating, concatenating, normalising and multiplying in float64."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from difal_kernels import BackendUnavailableError, _native, available_backends, explain, project_then_resize
from difal_kernels.ops import _maps
from feature_maps import BACKENDS, CASES, DTYPES, LAYOUTS, RUNS, dense, lay_out, layer, linear, make

TOLERANCE = {torch.float64: 1e-12}  # any other dtype computes in float32: 1e-5


def head(outputs=13):
    """What follows the first layer in a head, with batch statistics that are not the default ones."""
    torch.manual_seed(5)
    norm = nn.BatchNorm1d(outputs)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.ReLU(), norm, nn.Linear(outputs, 7), nn.ReLU(), nn.Linear(7, 4)).eval()


@pytest.mark.parametrize(("backend", "layout"), RUNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_layer(backend, case, dtype, layout):
    maps, size = make(case, dtype, layout)
    weight, bias = layer(maps)
    got = project_then_resize(maps, weight, bias, size, backend=backend)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = linear(dense(maps, size), weight, bias)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=TOLERANCE.get(dtype, 1e-5))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_normalisation_or_bias(backend, case):
    maps, size = make(case)
    weight, _ = layer(maps, outputs=1)
    got = project_then_resize(maps, weight, None, size, normalize=False, backend=backend)
    want = linear(dense(maps, size, normalize=False), weight, None)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows_per_chunk", [None, 1, 5, 10**12])
@pytest.mark.parametrize("case", ["paper-like", "odd"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tail_is_the_rest_of_the_head(backend, case, rows_per_chunk):
    maps, size = make(case)
    weight, bias = layer(maps)
    tail = head()
    got = project_then_resize(maps, weight, bias, size, tail=tail, rows_per_chunk=rows_per_chunk, backend=backend)
    with torch.no_grad():
        want = tail.double()(linear(dense(maps, size), weight, bias).flatten(0, 2))
    assert got.shape == (len(maps[0]), *size, 4)
    assert not got.requires_grad
    torch.testing.assert_close(got.double(), want.view(got.shape), rtol=0, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tail_may_return_labels_or_work_in_place(backend):
    maps, size = make("odd")
    weight, bias = layer(maps)
    logits = project_then_resize(maps, weight, bias, size, backend=backend)
    kwargs = {"rows_per_chunk": 4, "backend": backend}
    labels = project_then_resize(maps, weight, bias, size, tail=lambda y: y.argmax(1), **kwargs)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, logits.argmax(-1))
    clipped = project_then_resize(maps, weight, bias, size, tail=lambda y: y.relu_(), **kwargs)
    torch.testing.assert_close(clipped, logits.relu(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-7, 1e-4, 1e-2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_that_cancel(backend, scale):
    """Neighbours point in opposite ways, so that between them next to nothing is left, or nothing at all."""
    generator = torch.Generator().manual_seed(6)
    direction = torch.randn(32, generator=generator)
    sign = torch.tensor([1.0, -1.0]).repeat(4)
    m = direction[:, None, None] * (sign[:, None] * sign) + scale * torch.randn(32, 8, 8, generator=generator)
    maps, size = [m[None]], (40, 12)  # some columns lie halfway between cells
    weight, bias = layer(maps)
    got = project_then_resize(maps, weight, bias, size, backend=backend)
    vectors = dense(maps, size, normalize=False)
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    well = (norms > 1e-9 * torch.linalg.vector_norm(direction)).squeeze(1)
    assert well.any()
    assert scale > 0 or not well.all()
    want = linear(vectors / torch.where(norms > 0, norms, 1), weight, bias)
    torch.testing.assert_close(got[well].double(), want[well], rtol=0, atol=1e-5)
    assert bool((got - bias).abs().max() <= 1 + 1e-5)  # |W v| <= |W| = 1 where |v| = 1, rounding or not


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_vectors_give_the_bias(backend):
    m = torch.zeros(1, 5, 4, 4)
    m[0, :, 3, 3] = 1e-20
    weight, bias = layer([m])
    got = project_then_resize([m, torch.zeros(1, 2, 8, 8)], nn.functional.pad(weight, (0, 2)), bias, (8, 8))
    assert torch.equal(got[0, :4, :4], bias.expand(4, 4, -1))
    want = bias + weight.sum(1) / 5**0.5
    torch.testing.assert_close(got[0, 7, 7], want, rtol=0, atol=1e-5)


def gram_maps(view, image=0, self_only=False):
    out = torch.full((1 if self_only else 5, *view.shape[2:]), float("nan"), dtype=torch.float64)
    _native.load("_cpu").gram_maps(_maps.native_map(view), image, self_only, out.data_ptr(), 2)
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(17, 6, 9), (3, 1, 300), (9, 5, 1), (1, 1, 1), (8, 40, 129)])
def test_gram_maps(shape, dtype, layout):
    generator = torch.Generator().manual_seed(7)
    m = lay_out(torch.randint(-9, 10, (2, *shape), generator=generator).to(dtype), layout)
    v = m[1].double()
    want = torch.zeros(5, *shape[1:], dtype=torch.float64)
    want[0] = (v * v).sum(0)
    want[1, :, :-1] = (v[:, :, :-1] * v[:, :, 1:]).sum(0)
    want[2, :-1] = (v[:, :-1] * v[:, 1:]).sum(0)
    want[3, :-1, :-1] = (v[:, :-1, :-1] * v[:, 1:, 1:]).sum(0)
    want[4, :-1, :-1] = (v[:, :-1, 1:] * v[:, 1:, :-1]).sum(0)
    assert torch.equal(gram_maps(m, 1), want)
    assert torch.equal(gram_maps(m, 1, self_only=True), want[:1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_shapes(data):
    side = st.integers(1, 20)
    size = data.draw(st.tuples(side, side))
    images = data.draw(st.integers(1, 2))
    sizes = st.one_of(st.tuples(side, side), st.just(size))
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 24), sizes), min_size=1, max_size=4))
    layouts = data.draw(st.lists(st.sampled_from(LAYOUTS), min_size=len(shapes), max_size=len(shapes)))
    dtype = data.draw(st.sampled_from(DTYPES))
    normalize = data.draw(st.booleans())
    maps = [lay_out(torch.randn(images, c, *s).to(dtype), l) for (c, s), l in zip(shapes, layouts, strict=True)]
    weight, bias = layer(maps, outputs=data.draw(st.integers(1, 40)))
    rows = data.draw(st.integers(1, 20))
    got = project_then_resize(maps, weight, bias, size, normalize=normalize, rows_per_chunk=rows, backend="cpu")
    want = linear(dense(maps, size, normalize), weight, bias)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_do_not_change_a_bit(layout):
    """On small integers the library's GEMM is exact, so all that could differ is ours."""
    generator = torch.Generator().manual_seed(8)
    shapes = [(24, 5, 9), (12, 40, 40), (6, 64, 50)]
    maps = [lay_out(torch.randint(-4, 5, (2, *s), generator=generator).float(), layout) for s in shapes]
    weight = torch.randint(-4, 5, (16, 42), generator=generator).float()
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(project_then_resize(maps, weight, None, (40, 40), backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(answers[0], other) for other in answers[1:])


def test_numpy_in_numpy_out():
    maps, size = make("odd")
    weight, bias = layer(maps)
    want = project_then_resize(maps, weight, bias, size)
    got = project_then_resize([m.numpy() for m in maps], weight.numpy(), bias.numpy(), size)
    assert isinstance(got, np.ndarray)
    assert np.array_equal(got, want.numpy())
    with pytest.raises(TypeError, match="NumPy has no bfloat16"):
        project_then_resize([m.numpy() for m in maps], weight, bias, size, tail=lambda y: y.bfloat16())


def test_no_gradient():
    maps, size = make("odd")
    weight, bias = (t.requires_grad_() for t in layer(maps))
    assert not project_then_resize(maps, weight, bias, size).requires_grad


PEAK = """
import torch
from difal_kernels import project_then_resize

def peak():  # of this process alone: the value of getrusage is inherited across exec
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

torch.set_num_threads(1)
maps = [torch.ones(1, c, s, s) for c, s in ((768, 32), (384, 64), (192, 128), (192, 256))]
weight = torch.ones(128, 1536)
labels = lambda y: y.argmax(1).to(torch.uint8)
project_then_resize([m[:, :, :8, :8] for m in maps], weight, None, (16, 16), tail=labels)
before = peak()
project_then_resize(maps, weight, None, (256, 256), tail=labels)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_peak_memory_is_far_below_dense_features():
    done = subprocess.run(
        [sys.executable, "-c", PEAK],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 256 * 256 * 1536 * 4 / 10


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_not_finite(backend, where, normalize):
    maps = [torch.ones(2, 3, 4, 4), torch.ones(2, 3, 8, 8), torch.ones(2, 3, 16, 16)]
    maps[where][1, 2, 3, 2] = float("nan")
    weight, bias = layer(maps)
    with pytest.raises(ValueError, match=rf"`maps\[{where}\]` must be finite, got nan at index \(1, 2, 3, 2\)"):
        project_then_resize(maps, weight, bias, (8, 8), normalize=normalize, backend=backend)


MAP = torch.ones(1, 3, 4, 4)
WEIGHT = torch.ones(2, 3)
ERRORS = [
    (TypeError, r"`maps` must be a list", {"maps": MAP}),
    (ValueError, r"`maps\[0\]` must be 4-D", {"maps": [MAP[0]]}),
    (TypeError, r"`weight` must be a torch.Tensor or numpy.ndarray, got Linear", {"weight": nn.Linear(3, 2)}),
    (ValueError, r"`weight` must be 2-D \(O, D\) with D = 3, .* got shape \(3, 2\)", {"weight": WEIGHT.T}),
    (ValueError, r"`weight` must be 2-D .* got shape \(2, 3, 1, 1\)", {"weight": WEIGHT[..., None, None]}),
    (ValueError, r"`weight` must be finite, got nan at index \(0, 0\)", {"weight": WEIGHT * float("nan")}),
    (ValueError, r"`bias` must have shape \(2,\), got \(3,\)", {"bias": torch.ones(3)}),
    (ValueError, r"`bias` must be finite, got inf", {"bias": torch.tensor([1, float("inf")])}),
    (TypeError, r"`bias` must have dtype .*, got int64", {"bias": torch.ones(2).long()}),
    (TypeError, r"`size` must be a pair", {"size": "88"}),
    (TypeError, r"`normalize` must be True or False, got None", {"normalize": None}),
    (TypeError, r"`tail` must be callable, .* got int", {"tail": 3}),
    (ValueError, r"`tail` must not be in training mode: .* '0'", {"tail": nn.Sequential(nn.BatchNorm1d(2))}),
    (TypeError, r"`tail` must return a torch.Tensor, got list", {"tail": lambda y: y.tolist()}),
    (
        ValueError,
        r"`tail` must return one row per pixel, \(64, ...\), got shape \(2,\)",
        {"tail": lambda y: y[0]},
    ),
    (
        ValueError,
        r"`tail` must return the same kind of row .*, got shape \(8, 1\) of torch.float32 after rows of shape \(2,\)",
        {"tail": lambda y: y if len(y) > 8 else y[:, :1], "rows_per_chunk": 7},
    ),
    (
        ValueError,
        r"`tail` must return the same kind of row .* of torch.float64 after rows .* of torch.float32",
        {"tail": lambda y: y if len(y) > 8 else y.double(), "rows_per_chunk": 7},
    ),
    (TypeError, r"`weight` must hold data, got a tensor on the meta device", {"weight": WEIGHT.to("meta")}),
    (TypeError, r"`bias` must hold data, got a tensor on the meta device", {"bias": torch.ones(2, device="meta")}),
    (ValueError, r"`rows_per_chunk` must be at least 1, got 0", {"rows_per_chunk": 0}),
    (TypeError, r"`rows_per_chunk` must be an int, got 1.5", {"rows_per_chunk": 1.5}),
    (BackendUnavailableError, r"no 'triton' implementation", {"backend": "triton"}),
]


@pytest.mark.parametrize(("error", "message", "wrong"), ERRORS, ids=[str(i) for i in range(len(ERRORS))])
def test_errors(error, message, wrong):
    right = {"maps": [MAP], "weight": WEIGHT, "bias": None, "size": (8, 8)}
    project_then_resize(**right)
    with pytest.raises(error, match=message):
        project_then_resize(**{**right, **wrong})


def test_explain():
    text = explain(project_then_resize, [MAP], WEIGHT, None, (8, 8))
    assert "-> cpu: can run" in text
    assert "dense features would take 768 bytes" in text
    assert available_backends("project_then_resize") == BACKENDS
