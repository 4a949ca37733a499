"""Half precision and 8-bit integers are used where they are: the same picks as after widening, without the copy."""

import numpy as np
import pytest
import torch

from difal_kernels import MaxHerding, explain, kcenter_greedy, maxherding, probcover, typiclust, uherding
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu import greedy, operands
from selection import blobs, use

CPU = BACKENDS["cpu"]
pytestmark = [
    pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable())),
    pytest.mark.usefixtures("arithmetic"),
]
DTYPES = (torch.float16, torch.bfloat16, torch.int8, torch.uint8)
CASES = [(torch.float16, kernel) for kernel in ("rbf", "laplace", "tophat", "cosine")]
CASES += [(torch.bfloat16, "rbf"), (torch.int8, "rbf"), (torch.int8, "cosine"), (torch.uint8, "student_t")]


def narrow(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point:
        return x.to(dtype)
    return (4 * x).round().to(dtype) if dtype == torch.int8 else (4 * x + 60).round().clamp(0).to(dtype)


@pytest.fixture(params=["dense", "matrix-free"])
def path(request, monkeypatch, two_threads, arithmetic):
    """Both paths, which must not widen the pool as a whole."""
    if request.param != "dense":
        use(monkeypatch, "cpu", "matrix-free", {}, tile_points=96)
    widen = operands.native

    def only_some(features):
        assert len(features) < 300, "the pool is widened"
        return widen(features)

    for module in (operands, greedy):
        monkeypatch.setattr(module, "native", only_some)


@pytest.mark.parametrize(("dtype", "kernel"), CASES)
def test_picks_are_those_of_the_same_numbers_in_float64(path, dtype, kernel):
    x, labeled = narrow(blobs(300, 24), dtype), narrow(blobs(9, 24, 4), dtype)
    options = {"kernel": kernel, "bandwidth": 60.0 if not dtype.is_floating_point else 12.0}
    if kernel == "cosine":
        del options["bandwidth"]
    want = maxherding(x.double(), 40, labeled=labeled.double(), backend="reference", return_info=True, **options)
    got = maxherding(x, 40, labeled=labeled, return_info=True, **options)
    assert torch.equal(got.indices, want.indices)
    torch.testing.assert_close(got.gains, want.gains, rtol=1e-9, atol=1e-12)
    assert got.backend == "cpu"
    herding = MaxHerding(x.numpy() if dtype != torch.bfloat16 else x, **options)
    parts = [herding.select(7)]
    herding.add_labeled(labeled.float())
    parts.append(herding.select(9))
    first = maxherding(x.double(), 7, backend="reference", **options)
    assert np.array_equal(parts[0], first)
    left = [j for j in range(300) if j not in set(first.tolist())]
    known = torch.cat([x[first].double(), labeled.double()])
    assert np.array_equal(
        parts[1], maxherding(x.double(), 9, labeled=known, candidates=left, backend="reference", **options)
    )


@pytest.mark.parametrize("labels", [torch.float32, torch.float64, torch.bfloat16])
def test_labeled_points_keep_their_own_numbers(labels):
    x, labeled = blobs(200, 24).half(), (blobs(9, 24, 4) * 1.0001).to(labels)
    want = maxherding(x.double(), 30, labeled=labeled.double(), backend="reference", return_info=True)
    got = maxherding(x, 30, labeled=labeled, return_info=True)
    assert torch.equal(got.indices, want.indices)
    torch.testing.assert_close(got.gains, want.gains, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_selections(dtype):
    x, weights = narrow(blobs(200, 24), dtype), torch.rand(200, generator=torch.Generator().manual_seed(0))
    wide = x.double()
    assert torch.equal(uherding(x, weights, 20), uherding(wide, weights, 20))
    radius = float(torch.pdist(wide).quantile(0.05))
    assert torch.equal(probcover(x, radius, 20), probcover(wide, radius, 20, backend="reference"))
    assert torch.equal(kcenter_greedy(x, 20), kcenter_greedy(wide, 20, backend="reference"))
    assert torch.equal(typiclust(x, 5), typiclust(wide, 5))
    for backend in ("reference", "cpu"):
        assert torch.equal(maxherding(x, 20, backend=backend), maxherding(wide, 20, backend="reference"))


def test_a_given_kernel_may_be_of_small_integers():
    kernel = (blobs(40, 3) @ blobs(40, 3).T > 0).to(torch.int8)
    want = maxherding(kernel.float(), 9, kernel="precomputed")
    assert torch.equal(maxherding(kernel, 9, kernel="precomputed"), want)


def test_explain_counts_no_copy():
    x = blobs(2000, 64)
    options = {"bandwidth": 9.0, "memory_limit": 1 << 30}
    plans = {explain(maxherding, narrow(x, dtype), 50, **options) for dtype in (torch.float32, *DTYPES[:2])}
    assert len(plans) == 1
