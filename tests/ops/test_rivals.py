"""The selection ops beside MaxHerding: every backend against the reference, and that against naive loops."""

import numpy as np
import pytest
import torch

from difal_kernels import (
    Centers,
    Typical,
    available_backends,
    explain,
    kcenter_greedy,
    maxherding,
    probcover,
    typiclust,
    uherding,
)
from difal_kernels.ops.probcover import cpu as probcover_cpu

pytestmark = pytest.mark.usefixtures("arithmetic")
NATIVE = [b for b in available_backends("probcover") if b != "reference"]


def blobs(n=300, d=6, seed=0, dtype=torch.float32, clusters=12):
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(clusters, d, generator=generator)
    which = torch.randint(clusters, (n,), generator=generator)
    return (centers[which] + torch.randn(n, d, generator=generator)).to(dtype)


# uherding


def test_uherding_is_maxherding_with_weights(load_fixture):
    data = load_fixture("herding_clusters")
    order = data["weighted_order"]
    width = float(data["bandwidth"])
    got = uherding(data["features"], data["weights"], len(order), bandwidth=width, return_info=True)
    assert torch.equal(got.indices, order)
    torch.testing.assert_close(got.gains, data["weighted_gains"], rtol=1e-9, atol=1e-15)
    equal = uherding(data["features"], np.ones(len(data["features"])), 20, bandwidth=width)
    assert torch.equal(equal, data["greedy_order"][:20])


def test_uherding_with_a_tiny_bandwidth_is_uncertainty_sampling():
    u = torch.rand(300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(uherding(blobs(), u, 20, bandwidth=1e-6), u.argsort(descending=True)[:20])


def test_the_bandwidth_of_the_labeled_points():
    x = blobs()
    labeled = torch.cat([x[:40], x[:3]])  # duplicates do not make it zero
    got = uherding(x, torch.ones(300), 5, labeled=labeled, bandwidth="labeled", return_info=True)
    assert got.bandwidth == pytest.approx(float(torch.pdist(x[:40].double()).min()), rel=1e-12)
    for few in (None, x[:1], x[[0, 0]]):
        one = uherding(x, torch.ones(300), 5, labeled=few, bandwidth="labeled", return_info=True)
        assert one.bandwidth == maxherding(x, 1, return_info=True).bandwidth
    pair = uherding(torch.stack([x, x]), torch.ones(300), 5, labeled=[x[:2], None], bandwidth="labeled")
    assert pair.shape == (2, 5)


# probcover


def naive_probcover(x, radius, budget, labeled=None, candidates=None):
    """Sets of neighbours, one pick after the other."""
    x = np.asarray(x, dtype=np.float64)

    def ball(y):
        return set(np.flatnonzero(np.linalg.norm(x - y, axis=1) <= radius * (1 + 1e-12)).tolist())

    within = [ball(y) for y in x]
    covered = set().union(*(ball(y) for y in (() if labeled is None else np.asarray(labeled, dtype=np.float64))))
    left, picks, gains = list(range(len(x)) if candidates is None else sorted(candidates)), [], []
    for _ in range(budget):
        best = max(left, key=lambda j: (len(within[j] - covered), -j))
        gains.append(len(within[best] - covered) / len(x))
        picks.append(best)
        left.remove(best)
        covered |= within[best]
    return picks, gains, len(covered) / len(x)


@pytest.fixture(params=["pairs", "streamed"])
def way(request, monkeypatch):
    """With all pairs gathered at once, and with room for few: the picks are the same."""
    monkeypatch.setattr(probcover_cpu, "TILE", 64)
    if request.param == "streamed":
        monkeypatch.setattr(probcover_cpu, "_capacity", lambda p, limit: 2 * len(p.features))
    return request.param


@pytest.mark.parametrize("backend", ["reference", *NATIVE])
@pytest.mark.parametrize("radius", [0.5, 2.0, 3.5, 100.0])
def test_probcover_is_the_naive_loop(backend, radius, way, two_threads):
    x = blobs(120)
    for options in (
        {},
        {"labeled": x[:9] + 0.1},
        {"candidates": torch.arange(119, 20, -2)},
        {"labeled": x[:2], "candidates": [7, 5, *range(60, 110)]},
    ):
        budget = min(40, len(options.get("candidates", x)))
        picks, gains, coverage = naive_probcover(x, radius, budget, **options)
        got = probcover(x, radius, budget, backend=backend, return_info=True, **options)
        assert got.indices.tolist() == picks
        assert got.gains.tolist() == pytest.approx(gains, abs=1e-15)
        assert got.coverage == pytest.approx(coverage, abs=1e-15)
        assert got.bandwidth == radius


@pytest.mark.parametrize("backend", ["reference", *NATIVE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_edge_of_a_ball_belongs_to_it(backend, dtype, way):
    grid = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for radius, size in ((1.0, 5), (2.0**0.5, 9), (2.0, 13), (1.9999999, 9)):
        got = probcover(grid.to(dtype), radius, 144, backend=backend, return_info=True)
        assert float(got.gains[0]) * 144 == pytest.approx(size)
        assert sorted(got.indices.tolist()) == list(range(144))
        assert got.indices.tolist() == naive_probcover(grid, radius, 144)[0]
    tenths = torch.arange(20, dtype=torch.float64)[:, None] * 0.1
    assert probcover(tenths, 0.3, 1, backend=backend, return_info=True).gains[0] == 7 / 20


@pytest.mark.parametrize("backend", NATIVE)
def test_probcover_of_hard_numbers(backend, way):
    for x in (
        blobs(150).double() + 1e6,
        blobs(150) * 1e4,
        torch.cat([blobs(50), blobs(50), blobs(50)]),
        torch.ones(150, 3),
        torch.arange(150.0)[:, None] * 1e6,
    ):
        for radius in (1e-9, 2.0, 2e4, 1e12):
            want = probcover(x, radius, 150, backend="reference", return_info=True)
            got = probcover(x, radius, 150, backend=backend, return_info=True)
            assert torch.equal(got.indices, want.indices)
            assert torch.equal(got.gains, want.gains)


def test_probcover_in_batches_and_any_library():
    x = torch.stack([blobs(60, seed=s) for s in range(3)])
    x[1, 41:] = torch.nan  # padding is never read
    got = probcover(x, 2.0, 10, lengths=[60, 41, 30], labeled=[x[2, :2], None, x[0, :1]])
    assert torch.equal(got[0], probcover(x[0], 2.0, 10, labeled=x[2, :2]))
    assert torch.equal(got[1], probcover(x[1, :41], 2.0, 10))
    assert isinstance(probcover(x.numpy()[0], np.float32(2.0), 3), np.ndarray)
    assert probcover(x[0], 2.0, 0).shape == (0,)


def test_probcover_keeps_its_memory_limit():
    x = blobs(500)
    with pytest.raises(ValueError, match=r"`memory_limit` is 1000 bytes .* needs at least \d+; raise it") as caught:
        probcover(x, 3.0, 5, memory_limit=1000)
    smallest = int(str(caught.value).split("at least ")[1].split(";")[0])
    want = probcover(x, 3.0, 50, backend="reference")
    for extra in (0, 10_000, 10_000_000):
        assert torch.equal(probcover(x, 3.0, 50, memory_limit=smallest + extra), want)
    assert "pairs" in explain(probcover, x, 3.0, 5)


# kcenter_greedy


def naive_kcenter(x, budget, labeled=None, candidates=None):
    x = np.asarray(x, dtype=np.float64)
    centers = [] if labeled is None else list(np.asarray(labeled, dtype=np.float64))
    left, picks, distances = list(range(len(x)) if candidates is None else sorted(candidates)), [], []

    def nearest(j):
        return min((np.sqrt(np.square(x[j] - c).sum()) for c in centers), default=np.inf)

    for _ in range(budget):
        values = [nearest(j) for j in left]
        best = max(values)
        at = next(i for i, v in enumerate(values) if v == best or v >= best * (1 - 1e-12))
        picks.append(left.pop(at))
        distances.append(values[at])
        centers.append(x[picks[-1]])
    return picks, distances, max(nearest(j) for j in range(len(x)))


@pytest.mark.parametrize("backend", ["reference", *NATIVE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_kcenter_greedy_is_the_naive_loop(backend, dtype, two_threads):
    x = blobs(120, dtype=dtype)
    for options in ({}, {"labeled": x[:9] + 1}, {"labeled": x[:2], "candidates": [5, 3, *range(60, 110)]}):
        picks, distances, radius = naive_kcenter(x.double(), 30, **options)
        got = kcenter_greedy(x, 30, backend=backend, return_info=True, **options)
        assert isinstance(got, Centers)
        assert got.indices.tolist() == picks
        assert got.distances.tolist() == pytest.approx(distances, rel=1e-12)
        assert got.radius == pytest.approx(radius, rel=1e-12)
        assert got.backend == backend


@pytest.mark.parametrize("backend", NATIVE)
def test_kcenter_greedy_of_hard_numbers(backend):
    grid = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 2, indexing="ij"), -1).reshape(-1, 2)
    hard = [
        grid,
        grid * 0.1,
        torch.ones(40, 3),
        torch.cat([blobs(60)] * 3),
        blobs(100).double() + 1e8,
        blobs(90) * 1e30,
    ]
    for x in hard:
        want = kcenter_greedy(x, len(x), backend="reference", return_info=True)
        got = kcenter_greedy(x, len(x), backend=backend, return_info=True)
        assert torch.equal(got.indices, want.indices)
        torch.testing.assert_close(got.distances, want.distances, rtol=1e-12, atol=0)
        assert sorted(got.indices.tolist()) == list(range(len(x)))
    assert kcenter_greedy(torch.ones(40, 3), 40, backend=backend).tolist() == list(range(40))


@pytest.mark.parametrize("backend", NATIVE)
def test_points_that_a_centre_cannot_reach_are_not_read(backend):
    from difal_kernels._native import load

    x, allowed = blobs(3000, clusters=30), torch.ones(3000, dtype=torch.uint8)
    engine = load("_cpu").Farthest(
        rows=3000, dimension=6, type=0, features=x.data_ptr(), allowed=allowed.data_ptr(), threads=2
    )
    picks, distances = torch.empty(200, dtype=torch.int64), torch.empty(200, dtype=torch.float64)
    engine.select(200, picks.data_ptr(), distances.data_ptr())
    assert engine.reads() < 3000 * 200 / 3
    assert torch.equal(picks, kcenter_greedy(x, 200, backend="reference"))
    assert bool((distances.diff() <= 0).all())


# typiclust


def naive_typicality(x, neighbours):
    r = np.sqrt(np.square(x[:, None] - x[None]).sum(2))
    count = min(neighbours, max(len(x) // 2, 1))
    return np.array([1 / np.sort(np.delete(row, i))[:count].mean() for i, row in enumerate(r)])


@pytest.mark.parametrize("backend", available_backends("typiclust"))
def test_typiclust_takes_the_most_typical_of_each_cluster(backend):
    x = blobs(300, clusters=6)
    got = typiclust(x, 9, labeled=x[:3] + 0.01, candidates=range(20, 300), backend=backend, return_info=True)
    assert isinstance(got, Typical)
    assert len(set(got.indices.tolist())) == 9
    clusters, labeled_in = got.clusters.numpy(), got.clusters[:3].tolist()  # a labeled point lies with its neighbour
    assert all(j >= 20 for j in got.indices.tolist())
    compared = 0
    for at, j in enumerate(got.indices.tolist()):
        members = np.flatnonzero(clusters == clusters[j])
        if clusters[j] in labeled_in or clusters[j] in clusters[got.indices[:at].tolist()]:
            continue  # labeled points count as neighbours; a second pick is not the most typical
        values = naive_typicality(x[members].double().numpy(), 20)
        assert got.typicality[at] == pytest.approx(values[members.tolist().index(j)], rel=1e-12)
        assert got.typicality[at] == pytest.approx(values[members >= 20].max(), rel=1e-12)
        compared += 1
    assert compared >= 5


@pytest.mark.parametrize("n", [1, 2, 5, 37])
def test_typiclust_down_to_one_point_and_up_to_all(n):
    x = blobs(n)
    got = typiclust(x, n, return_info=True)
    assert sorted(got.indices.tolist()) == list(range(n))
    assert sorted(typiclust(torch.ones(n, 2), n).tolist()) == list(range(n))
    assert sorted(typiclust(x, n, max_clusters=2).tolist()) == list(range(n))


def test_labeled_clusters_come_later():
    x = torch.cat([blobs(50, clusters=1, seed=3), blobs(40, clusters=1, seed=4) + 50])
    assert int(typiclust(x, 1, labeled=x[:1])[0]) >= 50
    assert int(typiclust(x, 1, labeled=x[60:61])[0]) < 50
    assert [j < 50 for j in typiclust(x, 2).tolist()] == [True, False]  # the larger first


def test_typiclust_does_not_depend_on_threads_or_libraries():
    x = blobs(400, d=20)
    want = typiclust(x, 30)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(typiclust(x, 30), want)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(typiclust(np.asfortranarray(x.numpy()), 30), want.numpy())
    assert not torch.equal(typiclust(x, 30, seed=1), want)


def test_kmeans_is_lloyds():
    from difal_kernels.ops.typiclust.kmeans import assign, kmeans

    x = blobs(300, clusters=5).double().numpy()
    labels = kmeans(x, 8, seed=0)
    centers = np.stack([x[labels == c].mean(0) for c in range(8)])
    nearest = np.linalg.norm(x[:, None] - centers, axis=2).argmin(1)
    assert np.array_equal(nearest, labels)  # a fixed point
    sklearn = pytest.importorskip("sklearn.cluster")
    theirs = sklearn.KMeans(8, init=centers, n_init=1, max_iter=1).fit(x)
    assert np.array_equal(theirs.labels_, labels)
    ties = np.array([[0.0], [1.0], [2.0]])
    assert assign(ties, np.array([[2.0], [0.0], [2.0]])).tolist() == [1, 0, 0]


# Errors

X = torch.ones(6, 2)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "`uncertainty` must be", lambda: uherding(X, None, 1)),
        (ValueError, r"`uncertainty` must have shape \(6,\)", lambda: uherding(X, torch.ones(5), 1)),
        (ValueError, "`uncertainty` must not be negative", lambda: uherding(X, -torch.ones(6), 1)),
        (ValueError, "which has none", lambda: uherding(X, torch.ones(6), 1, kernel="cosine", bandwidth="labeled")),
        (ValueError, "`bandwidth` must be a positive", lambda: uherding(X, torch.ones(6), 1, bandwidth="mean")),
        (ValueError, "`radius` must be positive", lambda: probcover(X, 0, 1)),
        (ValueError, "`radius` must be positive", lambda: probcover(X, float("inf"), 1)),
        (ValueError, "`radius` must be one number", lambda: probcover(X, np.ones(2), 1)),
        (TypeError, "`radius` must be a positive number, got '1'", lambda: probcover(X, "1", 1)),
        (TypeError, "`radius` must be a positive number, got None", lambda: probcover(X, None, 1)),
        (ValueError, "candidates, 6, got 7", lambda: probcover(X, 1.0, 7)),
        (ValueError, "`features` must be 2-D", lambda: kcenter_greedy(torch.ones(2, 3, 4), 1)),
        (ValueError, "`features` must be finite", lambda: kcenter_greedy(X / 0, 1)),
        (TypeError, "`features` must be a torch.Tensor", lambda: kcenter_greedy([[1.0]], 1)),
        (ValueError, "candidates, 6, got 7", lambda: kcenter_greedy(X, 7)),
        (ValueError, "`labeled` must be", lambda: kcenter_greedy(X, 1, labeled=torch.ones(2, 3))),
        (ValueError, "`candidates` must not repeat", lambda: kcenter_greedy(X, 1, candidates=[1, 1])),
        (TypeError, "`return_info` must be", lambda: kcenter_greedy(X, 1, return_info=1)),
        (ValueError, "`max_clusters` must be at least 1", lambda: typiclust(X, 1, max_clusters=0)),
        (ValueError, "`neighbours` must be at least 1", lambda: typiclust(X, 1, neighbours=0)),
        (ValueError, "`seed` must be between", lambda: typiclust(X, 1, seed=-1)),
        (ValueError, "candidates, 2, got 3", lambda: typiclust(X, 3, candidates=[0, 1])),
        (ValueError, "`backend` must be", lambda: typiclust(X, 1, backend="gpu")),
    ],
)
def test_bad_input_is_named_before_any_work(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["uherding", "probcover", "kcenter_greedy", "typiclust"])
def test_examples(name):
    import doctest
    import importlib

    failed, tried = doctest.testmod(importlib.import_module(f"difal_kernels.ops.{name}"))
    assert failed == 0
    assert tried > 0
