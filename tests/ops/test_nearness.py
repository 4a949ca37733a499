"""Points of which groups are far from each other: tiles between them are left out, and the picks stay the same."""

import numpy as np
import pytest
import torch

import selection
from difal_kernels import maxherding
from difal_kernels._workers import Workers
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu.nearness import NearTogether, _mean_direction
from difal_kernels.ops.maxherding.backends.cpu.operands import GemmOperands
from difal_kernels.ops.maxherding.backends.cpu.tiled import CpuTiledGreedy
from difal_kernels.ops.maxherding.forecast import rehearse
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES, kernel_matrix
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs, use

CPU = BACKENDS["cpu"]
pytestmark = [
    pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable())),
    pytest.mark.usefixtures("arithmetic"),
]
LIMIT = 4 << 20
RULES = {**selection.FEW_ROWS, "first_guesses": 3, "max_guesses": 12}


@pytest.fixture(autouse=True)
def small_groups(monkeypatch, two_threads, arithmetic):
    use(monkeypatch, "cpu", "matrix-free", RULES, tile_points=64, group_points=32, least_grouped=0)


@pytest.fixture
def little_room(monkeypatch):
    """For few alive entries, so that several sweeps are needed."""
    monkeypatch.setattr(CpuTiledGreedy, "room", lambda self, guesses: 16 * self.n)


def apart(n=700, d=20, seed=0, dtype=torch.float32):
    """Clusters of differing size and spread, far from each other."""
    g = torch.Generator().manual_seed(seed)
    which = torch.randint(9, (n,), generator=g)
    spread = 0.2 + torch.rand(9, 1, generator=g)
    x = 6 * torch.randn(9, d, generator=g)[which] + spread[which] * torch.randn(n, d, generator=g)
    return x.to(dtype)


def odd(n, seed=0):
    """Zeros, duplicates, and points of very different norms."""
    x = apart(n, 8, seed)
    x[::7] = 0
    x[1::7] = x[1]
    x[2::7] *= 1e3
    x[3::7] *= 1e-4
    return x


@pytest.fixture
def share(monkeypatch):
    """Of the half matrix, in each sweep."""
    shares, sweep = [], CpuTiledGreedy.sweep

    def counted(self, first, gather, wanted=None):
        sweep(self, first, gather, wanted)
        shares.append(self.share_needed(first, gather))

    monkeypatch.setattr(CpuTiledGreedy, "sweep", counted)
    return shares


def separation(x, kernel, bandwidth="median", group=32):
    (p,) = prepare(x, 1, kernel=kernel, bandwidth=bandwidth).problems
    workers = Workers(1)
    layout = NearTogether(p, group, workers)
    layout.separate(p, GemmOperands(p, [64, 64], workers, 1 << 30, CPU.tuning, layout.order), workers)
    return p, layout.order, layout


def largest_values(p, order, group=32):
    """Of the kernel between each two groups."""
    values = kernel_matrix(p.features[order], p.features[order], p.kernel, p.bandwidth)
    return torch.stack([torch.stack([b.max() for b in part.split(group, 1)]) for part in values.split(group)])


@pytest.mark.parametrize("kernel", OF_FEATURES)
@pytest.mark.parametrize("data", ["apart", "blobs", "odd", "far from the origin", "tiny"])
def test_no_kernel_value_between_two_groups_is_above_what_is_said(kernel, data):
    x = {
        "apart": apart,
        "blobs": lambda n: blobs(n, 12, 0, torch.float32, clusters=15),
        "odd": odd,
        "far from the origin": lambda n: apart(n) + 500,
        "tiny": lambda n: apart(n) * 1e-30,
    }[data](700)
    p, order, groups = separation(x, kernel)
    assert torch.equal(order.sort().values, torch.arange(len(x)))
    largest = largest_values(p, order)
    assert bool((groups.above >= largest).all())
    if data == "apart" and kernel not in ("tophat", "cosine"):
        assert (groups.above <= 1.2 * largest + 0.05).double().mean() > 0.5  # and it says something


@pytest.mark.parametrize("kernel", OF_FEATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [1.5e19, 1e30])
def test_nothing_is_said_of_groups_whose_products_float32_cannot_hold(kernel, dtype, far):
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[:, 0] = far * torch.tensor([-1.0, 1.0, -1.1, 1.1], dtype=dtype)[torch.arange(256) // 64]
    p, order, groups = separation(x, kernel, bandwidth=1.0)
    assert bool((groups.above >= largest_values(p, order)).all())


def test_near_points_come_side_by_side():
    x = apart()
    _, order, _ = separation(x, "rbf")
    shuffled = (x[1:] - x[:-1]).norm(dim=1).mean()
    assert (x[order][1:] - x[order][:-1]).norm(dim=1).mean() < shuffled / 3


@pytest.mark.parametrize("kernel", OF_FEATURES)
def test_every_kernel(kernel, share, little_room):
    selection.assert_same("cpu", apart(), 120, kernel=kernel, memory_limit=LIMIT)
    assert share
    if kernel not in ("cosine", "tophat"):
        assert min(share) < 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype(dtype, share, little_room):
    selection.assert_same("cpu", apart(dtype=dtype), 60, memory_limit=LIMIT)
    assert min(share) < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_labeled_candidates_and_weights(seed, share, little_room):
    g = torch.Generator().manual_seed(seed)
    x = apart(seed=seed)
    weights = torch.rand(len(x), generator=g, dtype=torch.float64)
    weights[torch.rand(len(x), generator=g) < 0.2] = 0
    candidates = torch.randperm(len(x), generator=g)[:300]
    selection.assert_same(
        "cpu", x, 150, memory_limit=LIMIT, weights=weights, candidates=candidates, labeled=x[:3] + 0.1
    )
    assert len(share) > 1
    assert min(share) < 0.7


def test_sums_are_right_after_wrong_guesses_are_corrected(share, little_room, monkeypatch):
    selection.guess_at_random(monkeypatch)
    corrected = selection.watch_corrections(monkeypatch, CpuTiledGreedy)
    selection.assert_same("cpu", apart(400), 40, memory_limit=LIMIT)
    assert corrected
    assert min(share) < 0.7


def test_ties_go_to_the_lowest_index():
    x = apart(300)
    selection.assert_same("cpu", torch.cat([x, x.flip(0), x]), 40, memory_limit=LIMIT)
    selection.assert_same("cpu", odd(400), 60, memory_limit=LIMIT)


def test_small_pools_have_no_groups(monkeypatch):
    (p,) = prepare(apart(), 10).problems
    assert BACKENDS["cpu"].tiled_greedy(p, LIMIT, 10).layout.order is not None
    use(monkeypatch, "cpu", least_grouped=701)
    assert BACKENDS["cpu"].tiled_greedy(p, LIMIT, 10).layout.order is None


def test_parts_of_tiles_hold_all_that_is_needed(small_groups):
    (p,) = prepare(apart(), 10).problems
    tiles = BACKENDS["cpu"].tiled_greedy(p, LIMIT, 10)
    with tiles.working():
        for j in range(0, 700, 40):
            tiles.guess(j)
        level = tiles.level(tiles.guesses())
    pairs = tiles.layout.pairs(level, None, level).numpy()
    needed, parts, _ = tiles.layout.parts(64, level, None, level)
    inside = np.zeros_like(pairs)
    for i, j in np.argwhere(needed):
        (b, e), (b2, e2) = parts[i, j] // 32 + 2 * i, parts[j, i] // 32 + 2 * j
        inside[b:e, b2:e2] = True
    assert not (pairs & ~inside).any()
    assert inside.mean() < 0.8


def test_the_share_that_is_expected_is_about_what_is_swept():
    (p,) = prepare(apart(1500), 10).problems
    tiles = BACKENDS["cpu"].tiled_greedy(p, 64 << 20, 40)
    rehearsed = rehearse(p)
    with tiles.working():
        assert tiles.share_expected(rehearsed.points, rehearsed.coverage(0)) == 1.0
        for j in maxherding(p.features, 32, backend="reference").tolist():
            tiles.guess(j)
        share = tiles.share_needed(32, False)
    assert share < 0.5
    assert share / 2 < tiles.share_expected(rehearsed.points, rehearsed.coverage(32)) < 2 * share


def test_a_mean_direction_has_length_1_or_0():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6e-30, 8e-30]])
    torch.testing.assert_close(_mean_direction(rows), torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert torch.equal(_mean_direction(torch.tensor([[1.0, 0.0], [-1.0, 1e-9]])), torch.zeros(2, dtype=torch.float64))


def test_gains_are_estimated_over_all_groups_that_matter():
    (p,) = prepare(apart(), 10).problems
    tiles, points = BACKENDS["cpu"].tiled_greedy(p, LIMIT, 10), torch.arange(0, 700, 30)
    with tiles.working():
        for j in (0, 1, 2, 5, 9, 13):
            tiles.guess(j)
        gains = tiles.estimate_gains(points, 6)
        covered = tiles.coverage(6)
    kernel = kernel_matrix(p.features, p.features[points], p.kernel, p.bandwidth)
    exact = (p.weights[:, None] * (kernel - covered[:, None]).clamp(min=0)).sum(0)
    torch.testing.assert_close(gains, exact, rtol=0, atol=1e-2 * float(exact.max()))
