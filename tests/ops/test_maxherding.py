"""MaxHerding: every backend against the stored float64 order, the reference, and greedy replay."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import selection
from backends import for_cpu_tensors
from difal_kernels import Selection, explain, maxherding
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth, pair_distances, sample_rows
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES, kernel_matrix
from difal_kernels.testing import replay

pytestmark = pytest.mark.usefixtures("arithmetic")
BACKENDS = for_cpu_tensors("maxherding")
NATIVE = [b for b in BACKENDS if b != "reference"]


def test_the_native_backend_is_built():
    assert "cpu" in BACKENDS, explain(maxherding, torch.eye(3), 1)


def blobs(n=300, *args, **options):
    return selection.blobs(n, *args, **options)


def assert_same(features, budget, backend, **options):
    return selection.assert_same(backend, features, budget, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["herding_clusters", "herding_sphere_labelled"])
def test_the_stored_float64_greedy_order(load_fixture, name, weighted, backend):
    data = load_fixture(name)
    prefix = "weighted" if weighted else "greedy"
    options = {"labeled": data.get("labelled"), "weights": data["weights"] if weighted else None}
    options["bandwidth"] = float(data["bandwidth"])
    order = data[f"{prefix}_order"]
    got = maxherding(data["features"], len(order), backend=backend, return_info=True, **options)
    assert torch.equal(got.indices, order)
    torch.testing.assert_close(got.gains, data[f"{prefix}_gains"], rtol=1e-9, atol=1e-15)
    assert got.gains.dtype == torch.float64
    if not weighted:
        assert got.coverage == pytest.approx(float(data["coverage"]), rel=1e-12)
    assert replay(data["features"], got.indices, **options).max() < 1e-9


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("kernel", OF_FEATURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_kernel_and_dtype(backend, kernel, dtype, two_threads):
    x = blobs(dtype=dtype)
    labeled, weights = (
        blobs(7, seed=1, dtype=dtype),
        torch.rand(300, generator=torch.Generator().manual_seed(2)),
    )
    assert_same(x, 120, backend, kernel=kernel)
    assert_same(x, 60, backend, kernel=kernel, labeled=labeled, weights=weights, candidates=torch.arange(250, 20, -1))
    assert_same(x, 20, backend, kernel=kernel, labeled=labeled, candidates=[5, 7, *range(100, 140)])


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precomputed_kernels_need_not_be_symmetric(backend, dtype):
    k = torch.rand(80, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    assert_same(k, 80, backend, kernel="precomputed")
    assert_same(k.T, 30, backend, kernel="precomputed", candidates=list(range(10, 60)), weights=torch.arange(80))
    labeled = k[:3].double() * 0.5
    assert_same(k[::2, ::2], 20, backend, kernel="precomputed", labeled=labeled[:, ::2])


def test_precomputed_equals_the_kernel_it_was_made_of():
    x = blobs(150)
    k = kernel_matrix(x, x, "rbf", 5.0)
    assert torch.equal(maxherding(k, 40, kernel="precomputed"), maxherding(x, 40, bandwidth=5.0))


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("n", [1, 2, 3, 17, 63, 64, 65, 257, 1030])
def test_odd_sizes_down_to_one_and_the_whole_pool(backend, n, two_threads):
    x = blobs(n, d=5)
    got = assert_same(x, n if n < 300 else 100, backend)
    assert len(set(got.indices.tolist())) == len(got.indices)


@pytest.mark.parametrize("backend", NATIVE)
def test_pools_wider_than_a_panel(backend, monkeypatch, two_threads):
    selection.use(monkeypatch, "cpu", panel_rows=(1, 100), tile_columns=48, task_columns=70, diagonal_rows=32)
    x = blobs(730, d=9)
    assert_same(x, 200, backend, labeled=blobs(230, d=9, seed=3))
    assert_same(x, 100, backend, candidates=torch.arange(0, 730, 3))
    assert_same(x, 100, backend, kernel="cosine", labeled=blobs(130, d=9, seed=3))


# Adverse data: what float32 greedy gets wrong.


@pytest.mark.parametrize("backend", NATIVE)
class TestAdverse:
    def test_exact_duplicates_fall_to_the_lowest_index(self, backend):
        x = blobs(60)
        assert_same(torch.cat([x, x, x]), 180, backend, bandwidth=6.0)
        assert_same(x[torch.arange(240) // 4], 240, backend, kernel="laplace")

    def test_isolated_pairs_have_mathematically_equal_gains(self, backend):
        x = torch.zeros(200, 2, dtype=torch.float64)
        x[:, 0] = torch.arange(200) // 2 * 1000 + torch.arange(200) % 2
        got = assert_same(x, 200, backend, bandwidth=2.0)
        assert got.indices.tolist() == [*range(0, 200, 2), *range(1, 200, 2)]

    def test_after_gains_reach_zero_the_lowest_unpicked_follow(self, backend):
        x = torch.zeros(50, 3)
        x[30:] = 100.0
        got = assert_same(x, 50, backend, bandwidth=1.0)
        assert got.indices.tolist() == [0, 30, *[i for i in range(50) if i not in (0, 30)]]
        assert got.gains[2:].abs().max() == 0

    def test_all_points_equal_or_far_apart(self, backend):
        assert_same(torch.ones(100, 4), 100, backend)
        far = torch.arange(100, dtype=torch.float32)[:, None] * 1e6
        assert assert_same(far, 100, backend, bandwidth=1.0).indices.tolist() == list(range(100))

    def test_duplicates_moved_by_a_ten_millionth(self, backend):
        x = blobs(100).double()
        moved = x + 1e-7 * torch.randn(100, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        for dtype in (torch.float32, torch.float64):
            for kernel in ("rbf", "laplace", "cauchy"):
                got = assert_same(torch.cat([x, moved]).to(dtype), 150, backend, kernel=kernel)
        assert got.contested_picks > 0

    def test_clusters_of_equal_density(self, backend):
        ring = torch.arange(20, dtype=torch.float64) * (2 * torch.pi / 20)
        ring = torch.stack([ring.cos(), ring.sin()], 1)
        centers = 50 * torch.stack(torch.meshgrid(*[torch.arange(5.0)] * 2, indexing="ij"), -1).reshape(-1, 1, 2)
        x = (centers + ring).reshape(-1, 2)
        for dtype in (torch.float32, torch.float64):
            assert_same(x.to(dtype), 300, backend, bandwidth=1.5)

    def test_a_large_common_offset(self, backend):
        for dtype in (torch.float32, torch.float64):
            assert_same((blobs(200).double() + 1e4).to(dtype), 150, backend)
        assert_same(blobs(200).double() + 1e8, 150, backend)

    @pytest.mark.parametrize("kernel", OF_FEATURES)
    def test_large_norms(self, backend, kernel):
        x = blobs(200) * 1e4
        x[7] *= 1e3  # an outlier that spoils any bound taken over the whole pool
        assert_same(x, 150, backend, kernel=kernel)
        assert_same(x, 150, backend, kernel=kernel, bandwidth=1e-2)

    @pytest.mark.parametrize("kernel", OF_FEATURES)
    @pytest.mark.parametrize("bandwidth", [1e-30, 1e-6, 1e-2, 1e3, 1e6, 1e30])
    def test_bandwidths_far_from_the_data(self, backend, kernel, bandwidth):
        assert_same(blobs(150), 60, backend, kernel=kernel, bandwidth=bandwidth)

    def test_numbers_near_the_ends_of_the_range(self, backend):
        for scale in (1e-30, 1e30, 3e37):
            assert_same(blobs(60) / 10 * scale, 40, backend)
        assert_same(blobs(60, dtype=torch.float64) * 1e150, 40, backend)

    def test_tophat_edges_on_a_grid(self, backend):
        grid = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 2, indexing="ij"), -1).reshape(-1, 2)
        for radius in (1.0, 2.0**0.5, 2.0, 1.0000001):  # the edge itself is outside
            assert_same(grid, 144, backend, kernel="tophat", bandwidth=radius)
        assert_same(grid.repeat(1, 100), 144, backend, kernel="tophat", bandwidth=10.0)

    def test_weights_of_zero_and_of_many_sizes(self, backend):
        w = 10.0 ** torch.linspace(-8, 8, 200, dtype=torch.float64)
        assert_same(blobs(200), 100, backend, weights=w)
        assert_same(blobs(200), 100, backend, weights=(torch.arange(200) % 3 == 0).double())
        assert_same(blobs(200), 50, backend, weights=torch.zeros(200))

    def test_labeled_points_that_cover_everything(self, backend):
        x = blobs(50)
        got = assert_same(x, 50, backend, labeled=x)
        assert got.indices.tolist() == list(range(50))

    def test_cosine_with_zero_vectors(self, backend):
        x = blobs(60)
        x[::7] = 0
        assert_same(x, 60, backend, kernel="cosine", labeled=x[:8])
        assert_same(torch.zeros(5, 2), 5, backend, kernel="cosine")

    def test_low_precision_matrix_products_are_not_used(self, backend):
        x = torch.nn.functional.normalize(blobs(600, d=64), dim=1)
        want = maxherding(x, 300, backend="reference")
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(maxherding(x, 300, backend=backend), want)
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("backend", NATIVE)
def test_thread_count_changes_nothing(backend):
    x = blobs(900)
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(maxherding(x, 300, backend=backend, labeled=x[:40] + 0.1, return_info=True))
    finally:
        torch.set_num_threads(before)
    for other in answers[1:]:
        assert torch.equal(other.indices, answers[0].indices)
        torch.testing.assert_close(other.gains, answers[0].gains, rtol=1e-13, atol=0)


def test_a_smaller_budget_is_a_prefix():
    x = blobs(400)
    assert torch.equal(maxherding(x, 150)[:40], maxherding(x, 40))


# Batches


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_its_problems_one_by_one(backend):
    x = torch.stack([blobs(90, seed=s) for s in range(4)])
    lengths = torch.tensor([90, 41, 30, 77])
    x[1, 41:] = torch.nan  # padding is never read
    labeled = [x[3, :5], x[0, :0], x[2, :1], x[0, :9]]
    weights = torch.rand(4, 90, generator=torch.Generator().manual_seed(0))
    candidates = [range(0, 90, 2), range(41), range(30), range(40, 77)]
    options = {
        "labeled": labeled,
        "weights": weights,
        "candidates": candidates,
        "bandwidth": [4.0, 5.0, 6.0, 7.0],
    }
    got = maxherding(x, 20, lengths=lengths, backend=backend, return_info=True, **options)
    assert got.indices.shape == got.gains.shape == (4, 20)
    for b, n in enumerate(lengths.tolist()):
        own = {key: value[b] for key, value in options.items()}
        own["weights"] = own["weights"][:n]
        one = maxherding(x[b, :n], 20, backend=backend, return_info=True, **own)
        assert torch.equal(got.indices[b], one.indices)
        assert torch.equal(got.gains[b], one.gains)
        assert got.coverage[b] == one.coverage
        assert got.bandwidth[b] == one.bandwidth


def test_a_batch_shares_what_is_given_once():
    x = torch.stack([blobs(40, seed=s) for s in range(3)])
    got = maxherding(x, 5, labeled=x[0, :3], candidates=[1, 2, 3, 4, 5, 6], weights=torch.ones(40), bandwidth=5.0)
    for b in range(3):
        one = maxherding(x[b], 5, labeled=x[0, :3], candidates=[1, 2, 3, 4, 5, 6], bandwidth=5.0)
        assert torch.equal(got[b], one)


def test_a_batch_of_precomputed_kernels():
    x = torch.stack([blobs(30, seed=s) for s in range(2)])
    k = torch.stack([kernel_matrix(v, v, "rbf", 5.0) for v in x])
    got = maxherding(k, 10, kernel="precomputed", lengths=[30, 20])
    assert torch.equal(got[0], maxherding(x[0], 10, bandwidth=5.0))
    assert torch.equal(got[1], maxherding(x[1, :20], 10, bandwidth=5.0))


# What goes in and what comes out


def test_numpy_in_numpy_out():
    x = blobs(80).numpy()
    want = maxherding(torch.from_numpy(x), 10).numpy()
    read_only = x.copy()
    read_only.flags.writeable = False
    inputs = [
        x,
        read_only,
        np.asfortranarray(x),
        x.astype(">f4"),
        np.repeat(x, 2, axis=0)[::2],
        x[:, ::-1][:, ::-1],
    ]
    for value in inputs:
        got = maxherding(value, 10)
        assert isinstance(got, np.ndarray)
        assert got.dtype == np.int64
        assert np.array_equal(got, want)
    reverse = maxherding(x[::-1], 10, bandwidth=5.0)
    assert np.array_equal(reverse, maxherding(np.ascontiguousarray(x[::-1]), 10, bandwidth=5.0))
    info = maxherding(x, 10, labeled=x[:2], weights=np.ones(80), candidates=np.arange(50), return_info=True)
    assert isinstance(info, Selection)
    assert isinstance(info.gains, np.ndarray)
    assert info.gains.dtype == np.float64


def test_inputs_are_not_changed():
    x, w = blobs(50).requires_grad_(), torch.rand(50)
    before = x.detach().clone(), w.clone()
    got = maxherding(x, 10, weights=w)
    assert not got.requires_grad
    assert torch.equal(x.detach(), before[0])
    assert torch.equal(w, before[1])
    k = kernel_matrix(x.detach(), x.detach(), "rbf", 5.0).float()
    copy = k.clone()
    maxherding(k, 10, kernel="precomputed")
    assert torch.equal(k, copy)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_of_all_kinds(backend):
    x = blobs(60, d=8)
    views = [
        x.T.contiguous().T,
        torch.cat([x, x], 1)[:, :8],
        x[:1].expand(60, 8),
        x.repeat_interleave(2, 0)[::2],
    ]
    for view in views:
        want = maxherding(view.contiguous(), 20, backend=backend, bandwidth=5.0)
        assert torch.equal(maxherding(view, 20, backend=backend, bandwidth=5.0), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_budget_of_zero_is_an_empty_answer(backend):
    got = maxherding(blobs(10), 0, backend=backend, return_info=True, labeled=blobs(3, seed=1))
    assert got.indices.shape == got.gains.shape == (0,)
    assert 0 < got.coverage <= 1
    assert maxherding(np.ones((2, 4, 3)), 0, backend=backend).shape == (2, 0)


def test_the_default_bandwidth():
    x = blobs(2000, d=6)
    rows = sample_rows(2000, 20)
    assert len(set(rows.tolist())) == 20
    want = 2 * np.median(torch.pdist(x[rows].double()))
    assert median_bandwidth(x) == want == maxherding(x, 1, return_info=True).bandwidth
    assert median_bandwidth(torch.ones(30, 2)) == 1.0
    assert median_bandwidth(torch.tensor([[0.0], [0.0], [3.0]])) == 6.0
    torch.manual_seed(1)
    first = maxherding(x, 5)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002 (the global state must not matter)
    assert torch.equal(maxherding(x, 5), first)


@pytest.mark.parametrize("at_once", [1, 700, 5000, 1 << 27])
def test_distances_of_many_rows_are_made_in_parts(at_once):
    rows = blobs(37, d=19).double()
    torch.testing.assert_close(pair_distances(rows, at_once), torch.pdist(rows), rtol=1e-14, atol=0)


# Properties


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_problem_agrees_with_the_reference(data):
    draw = data.draw
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([2, 5, 1000]))  # few levels: many duplicates and ties
    scale = draw(st.sampled_from([1e-3, 1.0, 1e4]))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    x = (torch.randint(levels, (n, d), generator=generator) * (4.0 / levels) * scale).to(dtype)
    options = {
        "kernel": draw(st.sampled_from(OF_FEATURES)),
        "bandwidth": draw(st.sampled_from(["median", scale, 0.05 * scale])),
    }
    if draw(st.booleans()):
        options["labeled"] = x[torch.randint(n, (draw(st.integers(0, 5)),), generator=generator)] * 0.9
    if draw(st.booleans()):
        options["weights"] = torch.randint(4, (n,), generator=generator)
    size = n
    if draw(st.booleans()):
        size = draw(st.integers(1, n))
        options["candidates"] = torch.randperm(n, generator=generator)[:size]
    if draw(st.booleans()):
        x = x.T.contiguous().T
    budget = draw(st.integers(0, size))
    first = maxherding(x, min(budget, 1), backend="reference", return_info=True, **options).gains.sum()
    assume(first == 0 or first > 1e-20)  # kernel values below 1e-30 count as 0
    got = assert_same(x, budget, "cpu", **options)
    picks = got.indices.tolist()
    assert len(set(picks)) == budget
    assert bool((got.gains.diff() <= 1e-11 * max(float(got.gains[:1].sum()), 1e-300)).all())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_permuting_the_pool_permutes_the_picks(seed):
    generator = torch.Generator().manual_seed(seed)
    x, order = blobs(60, seed=seed), torch.randperm(60, generator=generator)
    w = torch.rand(60, generator=generator)  # without weights, two points that only cover each other are tied
    permuted = maxherding(x[order], 20, weights=w[order], bandwidth=5.0)
    assert torch.equal(order[permuted], maxherding(x, 20, weights=w, bandwidth=5.0))


def test_old_names_work_for_one_release_and_warn():
    import difal_kernels.ops.maxherding.kernels as old

    got = maxherding(torch.eye(4), 2, return_info=True)
    with pytest.warns(DeprecationWarning, match="contested_picks"):
        assert got.settled == got.contested_picks
    with pytest.warns(DeprecationWarning, match="kernel_functions"):
        assert old.kernel_matrix is kernel_matrix
