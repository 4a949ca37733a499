"""Selection by the CUDA backend: the picks of the float64 reference, in every way that its kernels can be used."""

import math
from pathlib import Path

import pytest
import torch

import gpu_smoke
import selection
from difal_kernels import BackendUnavailableError, _native, explain, maxherding
from difal_kernels.ops import _gpu, _triton
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cuda.operands import CudaOperands
from difal_kernels.ops.maxherding.backends.cuda.tiled import CudaTiledGreedy
from difal_kernels.ops.maxherding.guessing import Guesser
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES
from difal_kernels.ops.maxherding.plan import needed
from difal_kernels.ops.maxherding.problem import prepare
from gpu_cases import Machine
from selection import blobs, moved, use

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def operands(x, device):
    return CudaOperands(prepare(x.to(device), 3).problems[0], BACKENDS["cuda"].tuning)


def assert_same(device, features, budget, **options):
    return selection.assert_same("cuda", features, budget, device=device, **options)


@pytest.mark.parametrize("name", ["herding_clusters", "herding_sphere_labelled"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_stored_float64_greedy_order(device, load_fixture, name, weighted):
    data = load_fixture(name)
    order = data[f"{'weighted' if weighted else 'greedy'}_order"]
    options = {"labeled": data.get("labelled"), "weights": data["weights"] if weighted else None}
    options = {key: moved(value, device) for key, value in options.items()}
    count = len(order) if device.type == "cuda" else 15
    got = maxherding(data["features"].to(device), count, bandwidth=float(data["bandwidth"]), backend="cuda", **options)
    assert torch.equal(got.cpu(), order[:count])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", OF_FEATURES)
def test_every_kernel_and_dtype(device, gpu, kernel, dtype):
    x = blobs(400 if gpu else 80, dtype=dtype)
    labeled, weights = blobs(7, seed=1, dtype=dtype), torch.rand(len(x), generator=torch.Generator().manual_seed(2))
    assert_same(device, x, 60 if gpu else 8, kernel=kernel, repeats=2 if gpu else 1)
    options = {"labeled": labeled, "weights": weights, "candidates": torch.arange(70, 5, -1)}
    assert_same(device, x, 8, kernel=kernel, **options)
    assert_same(device, x, 5, kernel=kernel, labeled=labeled, candidates=torch.tensor([5, 7, *range(40, 60)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_goes_to_the_tensor_cores_where_the_bound_allows(device, dtype):
    x = torch.nn.functional.normalize(blobs(90, d=40).float(), dim=1).to(dtype)
    own = operands(x, device)
    assert own.raw
    assert own.matrix.dtype == dtype
    assert_same(device, x, 40, repeats=2)
    far = x + 300  # too large for the sums of a tensor core: centred, and split
    assert not operands(far, device).raw
    assert_same(device, far, 10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_precomputed_kernels_need_not_be_symmetric(device, dtype):
    k = torch.rand(50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    assert_same(device, k, 50, kernel="precomputed")
    options = {"labeled": k[:3].double() * 0.5, "candidates": torch.arange(10, 40), "weights": torch.arange(50)}
    assert_same(device, k.T, 15, kernel="precomputed", **options)


def test_batches_with_ragged_lengths(device, gpu):
    sizes = [70, 1, 33, 64, 65, 2, 50]
    x = torch.stack([blobs(max(sizes), seed=s) for s in range(len(sizes))])
    assert_same(device, x, 1, lengths=sizes)
    assert_same(device, x[:, :60], 15, repeats=2)
    if gpu:
        assert_same(device, torch.stack([blobs(500, seed=s) for s in range(300)]), 20)  # more than there are blocks


def test_ties_go_to_the_lowest_index(device):
    grid = torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0))
    assert_same(device, grid, 49, bandwidth=2.0)
    assert_same(device, torch.ones(30, 3), 30)
    assert_same(device, torch.cat([grid, grid]), 60, kernel="tophat", bandwidth=1.5)
    assert_same(device, torch.zeros(20, 2), 20, kernel="cosine")


def test_small_and_odd_shapes(device):
    for n, d, budget in [(1, 1, 1), (2, 3, 2), (63, 1, 10), (33, 5, 33), (130, 33, 0)]:
        assert_same(device, blobs(n, d=d), budget)
    assert_same(device, blobs(90, d=48)[::2, 3::2], 15)  # strides


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_kernel_value_is_the_same_among_any_others(device, dtype):
    """Rows of 33 numbers, few of which begin on 16 bytes. Points without weight come and go."""
    generator = torch.Generator().manual_seed(5)
    near = (blobs(64, d=33, dtype=torch.float64) + torch.rand(64, 33, generator=generator, dtype=torch.float64)).to(
        dtype
    )
    weights = torch.zeros(64, dtype=torch.float64)
    weights[::8] = torch.rand(8, generator=generator, dtype=torch.float64)
    alone = near.clone()
    alone[weights == 0] = 1000
    options = {"kernel": "laplace", "bandwidth": 30.0, "weights": weights.to(device)}
    options["candidates"] = torch.arange(0, 64, 8)
    one, other = (maxherding(x.to(device), 8, backend="cuda", return_info=True, **options) for x in (near, alone))
    assert torch.equal(one.indices, other.indices)
    assert torch.equal(one.gains, other.gains)


@pytest.mark.parametrize("size", [1e20, 1e-20])
def test_half_precision_too_large_or_small_for_float32_products(device, size):
    x = (torch.nn.functional.normalize(blobs(90, d=40), dim=1) * size).to(torch.bfloat16)
    for kernel in ("rbf", "laplace"):
        assert_same(device, x, 20, kernel=kernel)


def test_a_device_that_the_kernels_were_not_built_for_is_no_surprise(device, monkeypatch):
    said = "no kernel image is available (reinstall with DIFAL_CUDA_ARCHS=native)"
    monkeypatch.setattr(_native.load("_cuda"), "why_not", lambda index: said)
    _gpu._why_not.cache_clear()
    try:
        with pytest.raises(BackendUnavailableError, match=r"no kernel image is available \(reinstall"):
            maxherding(blobs(9).to(device), 2, backend="cuda")
        assert maxherding(blobs(9).to(device), 2, return_info=True).backend != "cuda"
    finally:
        _gpu._why_not.cache_clear()


def test_without_triton_there_is_no_product(device, monkeypatch):
    monkeypatch.setattr(_triton, "_import_error", lambda: "no triton here")
    with pytest.raises(BackendUnavailableError, match=r"no triton here\); install it \(`pip install triton`"):
        maxherding(blobs(9).to(device), 2, backend="cuda")


def test_bandwidths_far_from_the_data(device):
    for bandwidth in (1e-3, 1e4):
        assert_same(device, blobs(40), 20, bandwidth=bandwidth)


def test_explain_says_what_would_run(device):
    text = explain(maxherding, blobs(50).to(device), 5, backend="cuda")
    assert "-> cuda: can run" in text
    assert "dense, 50 x 50 kernel" in text


def test_addresses_beyond_two_to_the_31(device, gpu, monkeypatch):
    """Rows so far apart that the matrix spans more than 2^31 numbers, most of which are never touched."""
    if not gpu:
        pages = Path("/proc/sys/vm/overcommit_memory")
        if not pages.exists() or pages.read_text().strip() == "2":
            pytest.skip("this system does not lend addresses without memory, and the matrix has 10 GB of them")
    elif torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.fail("the GPU has less than 12 GiB free")
    use(monkeypatch, "cuda", row_multiple=1 << 25)
    assert_same(device, blobs(72), 20, memory_limit=1 << 40)
    options = {"candidates": torch.arange(3, 30), "memory_limit": 1 << 40}
    assert_same(device, blobs(72), 10, **options)


def test_a_million_points_need_less_than_half_of_a_large_gpu():
    """Rows of the kernel are a million numbers each: a correction may not make thousands of them at a time."""
    (p,) = prepare(torch.zeros(1_000_000, 1).half().expand(1_000_000, 8), 1, bandwidth=1.0).problems
    for name in ("cuda", "triton"):
        assert needed(BACKENDS[name], p, "matrix-free") < 40 * 10**9


@pytest.fixture
def small_tiles(monkeypatch):
    """Many tiles, and lists that are gathered after some guesses, at sizes that the reference can check."""

    def choose(entries, **guessing):
        rules = {**selection.FEW_ROWS, "most_tried": 8, "most_corrected": math.inf, **guessing}
        use(monkeypatch, "cuda", "matrix-free", rules, tile_points=64, max_entries=entries, rows_at_once=32)

    return choose


@pytest.mark.parametrize("kernel", ["rbf", "laplace", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_matrix_free(device, small_tiles, kernel, dtype):
    small_tiles(2500)
    x = blobs(130, dtype=dtype)
    labeled, weights = blobs(7, seed=1, dtype=dtype), torch.rand(len(x), generator=torch.Generator().manual_seed(2))
    assert_same(device, x, 30, kernel=kernel)
    options = {"labeled": labeled, "weights": weights, "candidates": torch.arange(120, 5, -1)}
    assert_same(device, x, 12, kernel=kernel, **options)


def test_nothing_is_added_up_by_what_torch_refuses_when_deterministic(device, small_tiles, monkeypatch):
    """On a GPU it then has no cumsum of floats."""
    small_tiles(2500)
    cumsum = torch.Tensor.cumsum

    def refused(self, *args, **options):
        assert not self.is_floating_point()
        return cumsum(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "cumsum", refused)
    assert_same(device, blobs(130), 20)


@pytest.mark.parametrize("kernel", ["rbf", "laplace", "cosine", "tophat"])
@pytest.mark.parametrize("every", [1, 2])
def test_wrong_guesses_are_corrected_in_place(device, small_tiles, monkeypatch, every, kernel):
    """The sums of a sweep after each correction are those of float64, and no further sweep is made for it."""
    small_tiles(600 if kernel == "tophat" else 1500, first_guesses=3)
    right, calls, sweeps = Guesser.best_of_sample, [], []
    sweep = CudaTiledGreedy.sweep

    def sometimes_wrong(self, estimate, open_):
        best = right(self, estimate, open_)
        calls.append(best)
        others = open_.clone()
        others[best] = False
        return int(others.nonzero()[0]) if len(calls) % every == 0 and bool(others.any()) else best

    def counted(self, first, gather, wanted=None):
        sweeps.append(first)
        sweep(self, first, gather, wanted)

    monkeypatch.setattr(Guesser, "best_of_sample", sometimes_wrong)
    selection.watch_corrections(monkeypatch, CudaTiledGreedy)
    monkeypatch.setattr(CudaTiledGreedy, "sweep", counted)
    options = {"bandwidth": 14.0} if kernel == "tophat" else {}
    assert_same(device, blobs(100, seed=3), 25, kernel=kernel, **options)
    assert calls
    assert len(sweeps) == len(set(sweeps))  # each has further picks to prove


@pytest.mark.parametrize("most_corrected", [0.0, 0.4])
def test_after_too_many_corrections_the_rest_is_guessed_anew(device, small_tiles, monkeypatch, most_corrected):
    """Also where the sweep has counted what all of its guesses would have left alive."""
    small_tiles(2500, most_corrected=most_corrected)
    selection.guess_badly(monkeypatch, lambda step: step % 4 == 1)
    proofs = selection.watch_proofs(monkeypatch)
    for seed in range(2):
        assert_same(device, blobs(130, seed=seed), 25)
    given_up = [proven for guesses, proven in proofs if proven < guesses]
    assert given_up
    assert all(given_up)  # each proved a pick


@pytest.mark.parametrize(("factor", "every"), [(3, 2), (10, 3)])
def test_lists_that_corrections_made_longer(device, small_tiles, monkeypatch, factor, every):
    """Guesses until few are alive, some as bad as can be, and counts that then are too low for what is alive."""
    small_tiles(40_000, first_guesses=12)
    estimated = Guesser.alive_estimate
    selection.guess_badly(monkeypatch, lambda step: step % every == 0)
    monkeypatch.setattr(Guesser, "alive_estimate", lambda self, m, wanted=None: factor * estimated(self, m))
    for seed in range(3):
        x = torch.randn(150, 6, generator=torch.Generator().manual_seed(seed))
        assert_same(device, x, 40, bandwidth=2.0)


def test_lists_that_were_counted_too_short_are_made_again(device, small_tiles, monkeypatch):
    small_tiles(2500)
    use(monkeypatch, "cuda", list_room=0)
    gather = CudaTiledGreedy.gather

    def too_short(self):
        self.counts //= 2
        return gather(self)

    monkeypatch.setattr(CudaTiledGreedy, "gather", too_short)
    assert_same(device, blobs(130), 20)


@pytest.mark.parametrize("wrong", [False, True])
def test_the_smoke_run_counts_sweeps_corrections_and_what_the_loop_did(device, small_tiles, monkeypatch, wrong):
    small_tiles(2500)
    if wrong:
        selection.guess_badly(monkeypatch, lambda step: step == 1)
    with gpu_smoke.phases(Machine(device, True)) as told:
        maxherding(blobs(130).to(device), 20, backend="cuda")
        row = told()
    assert row["sweeps"] >= 1
    assert row["corrections"] > 0 if wrong else row["corrections"] >= 0
    assert 0 < row["counters"]["picks"] <= 20
    made = gpu_smoke.PHASES.keys() if row["corrections"] else gpu_smoke.PHASES.keys() - {gpu_smoke.CORRECTION}
    assert row["phases"].keys() == made


def test_memory_decides_between_the_paths(device):
    x = blobs(3000, d=8)
    assert "dense" in explain(maxherding, x.to(device), 5, backend="cuda", memory_limit=1 << 30)
    (p,) = prepare(x, 5).problems
    backend = BACKENDS["cuda"]
    limit = needed(backend, p, "matrix-free")
    if limit < needed(backend, p, "dense"):
        assert "matrix-free" in explain(maxherding, x.to(device), 5, backend="cuda", memory_limit=limit)
    with pytest.raises(ValueError, match="`memory_limit` is 1000 bytes and this selection of 3000 points needs"):
        maxherding(x.to(device), 5, backend="cuda", memory_limit=1000)
