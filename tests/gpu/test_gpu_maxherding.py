"""Selection by the CUDA backend: the picks of the float64 reference, in every way that its kernels can be used."""

import pytest
import torch

from difal_kernels import explain, maxherding
from difal_kernels.ops.maxherding.kernels import KERNELS

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def blobs(n=200, d=24, seed=0, dtype=torch.float32, clusters=12):
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(clusters, d, generator=generator)
    which = torch.randint(clusters, (n,), generator=generator)
    return (centers[which] + torch.randn(n, d, generator=generator)).to(dtype)


def moved(value, device):
    return value.to(device) if isinstance(value, torch.Tensor) else value


def assert_same(device, features, budget, repeats=1, **options):
    """The device's picks are those of the reference on the CPU, and of every further run."""
    want = maxherding(features, budget, backend="reference", return_info=True, **options)
    there = {name: moved(value, device) for name, value in options.items()}
    for _ in range(repeats):
        got = maxherding(features.to(device), budget, backend="cuda", return_info=True, **there)
        assert got.indices.device.type == device.type
        assert torch.equal(got.indices.cpu(), want.indices)
        first = float(want.gains.flatten()[0]) if want.gains.numel() else 1.0
        torch.testing.assert_close(got.gains.cpu() / first, want.gains / first, rtol=0, atol=1e-11)
        coverage = torch.as_tensor(got.coverage).double().cpu()
        torch.testing.assert_close(coverage, torch.as_tensor(want.coverage).double(), rtol=1e-12, atol=0)
    return got


@pytest.mark.parametrize("name", ["herding_clusters", "herding_sphere_labelled"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_stored_float64_greedy_order(device, load_fixture, name, weighted):
    data = load_fixture(name)
    order = data[f"{'weighted' if weighted else 'greedy'}_order"]
    options = {"labeled": data.get("labelled"), "weights": data["weights"] if weighted else None}
    options = {key: moved(value, device) for key, value in options.items()}
    count = len(order) if device.type == "cuda" else 40
    got = maxherding(
        data["features"].to(device), count, bandwidth=float(data["bandwidth"]), backend="cuda", **options
    )
    assert torch.equal(got.cpu(), order[:count])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [k for k in KERNELS if k != "precomputed"])
def test_every_kernel_and_dtype(device, gpu, kernel, dtype):
    x = blobs(dtype=dtype) if gpu else blobs(120, dtype=dtype)
    labeled, weights = blobs(7, seed=1, dtype=dtype), torch.rand(len(x), generator=torch.Generator().manual_seed(2))
    assert_same(device, x, 30, kernel=kernel, repeats=2)
    options = {"labeled": labeled, "weights": weights, "candidates": torch.arange(110, 5, -1)}
    assert_same(device, x, 20, kernel=kernel, **options)
    assert_same(device, x, 10, kernel=kernel, labeled=labeled, candidates=torch.tensor([5, 7, *range(60, 100)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_goes_to_the_tensor_cores_where_the_bound_allows(device, dtype):
    from difal_kernels.ops.maxherding.cuda_panels import Panels
    from difal_kernels.ops.maxherding.problem import prepare

    x = torch.nn.functional.normalize(blobs(150, d=40).float(), dim=1).to(dtype)
    assert Panels(prepare(x.to(device), 3).problems[0]).matrix.dtype == dtype
    assert_same(device, x, 100, repeats=2)
    far = x + 300  # too large for the sums of a tensor core: centred in float32
    assert Panels(prepare(far.to(device), 3).problems[0]).matrix.dtype == torch.float32
    assert_same(device, far, 30)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_precomputed_kernels_need_not_be_symmetric(device, dtype):
    k = torch.rand(70, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    assert_same(device, k, 70, kernel="precomputed")
    options = {"labeled": k[:3].double() * 0.5, "candidates": torch.arange(10, 50), "weights": torch.arange(70)}
    assert_same(device, k.T, 30, kernel="precomputed", **options)


def test_batches_with_ragged_lengths(device, gpu):
    sizes = [70, 1, 33, 64, 65, 2, 50]
    x = torch.stack([blobs(max(sizes), seed=s) for s in range(len(sizes))])
    assert_same(device, x, 1, lengths=sizes)
    assert_same(device, x[:, :60], 40, repeats=2)
    if gpu:
        assert_same(device, torch.stack([blobs(500, seed=s) for s in range(300)]), 20)  # more than there are blocks


def test_ties_go_to_the_lowest_index(device):
    grid = torch.cartesian_prod(torch.arange(9.0), torch.arange(9.0))
    assert_same(device, grid, 81, bandwidth=2.0)
    assert_same(device, torch.ones(70, 3), 70)
    assert_same(device, torch.cat([grid, grid]), 100, kernel="tophat", bandwidth=1.5)
    assert_same(device, torch.zeros(40, 2), 40, kernel="cosine")


def test_small_and_odd_shapes(device):
    for n, d, budget in [(1, 1, 1), (2, 3, 2), (63, 1, 10), (65, 5, 65), (130, 33, 0)]:
        assert_same(device, blobs(n, d=d), budget)
    assert_same(device, blobs(90, d=48)[::2, 3::2], 30)  # strides


def test_bandwidths_far_from_the_data(device):
    for bandwidth in (1e-3, 1e4):
        for kernel in ("rbf", "laplace"):
            assert_same(device, blobs(60), 40, kernel=kernel, bandwidth=bandwidth)


def test_explain_says_what_would_run(device):
    text = explain(maxherding, blobs(50).to(device), 5, backend="cuda")
    assert "-> cuda: can run" in text
    assert "dense, 50 x 50 kernel" in text


def test_addresses_beyond_two_to_the_31(device, gpu):
    """N x N of more than 2^31 entries, 4 GiB below and 16 above."""
    if not gpu:
        pytest.skip("needs a GPU: the matrix has 2.2e9 entries") if False else None
        return _addresses_on_the_host(device)
    x = blobs(47_000, d=16, clusters=400)
    if torch.cuda.mem_get_info()[0] < 14 << 30:
        pytest.fail("the GPU has less than 14 GiB free")
    assert_same_as_cpu(x, 300)


def _addresses_on_the_host(device):
    from difal_kernels.ops.maxherding import cuda_engine

    assert cuda_engine.pad(1 << 17) * (1 << 17) > 1 << 31  # what follows is int64 in csrc; the rest needs a GPU


def assert_same_as_cpu(x, budget):
    want = maxherding(x, budget, bandwidth=6.0, backend="cpu")
    got = maxherding(x.cuda(), budget, bandwidth=6.0, backend="cuda")
    assert torch.equal(got.cpu(), want)
