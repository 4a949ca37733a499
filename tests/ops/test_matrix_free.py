"""The matrix-free path picks what the reference picks, however badly it guesses and however little memory it has."""

from dataclasses import replace

import pytest
import torch

import selection
from difal_kernels import MaxHerding, explain, maxherding
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu.tiled import CpuTiledGreedy
from difal_kernels.ops.maxherding.guessing import Guesser
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES
from difal_kernels.ops.maxherding.matrix_free import MatrixFreeSelection
from difal_kernels.ops.maxherding.portions import picks_above
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs, use

CPU = BACKENDS["cpu"]
pytestmark = [
    pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable())),
    pytest.mark.usefixtures("arithmetic"),
]


def cloud(n=500, d=12, seed=0, dtype=torch.float32):
    return blobs(n, d, seed, dtype, clusters=15)


ROOM_FOR_GROUPS = 1 << 20  # bytes
TILES = {"tile_points": 96, "group_points": 32, "least_grouped": 0}
RULES = {**selection.FEW_ROWS, "first_guesses": 3, "max_guesses": 12, "settled_together": 16}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch, two_threads, arithmetic):
    """Many tiles, few guesses a sweep, and no dense path, at sizes that the reference can check."""
    use(monkeypatch, "cpu", "matrix-free", RULES, **TILES)


@pytest.fixture
def gathered_whole(monkeypatch, small_tiles):
    """Guess on until what all candidates may use can be gathered, 128 entries a point."""
    monkeypatch.setattr(CpuTiledGreedy, "room", lambda self, guesses: 128 * self.n)
    use(
        monkeypatch,
        "cpu",
        "matrix-free",
        {**RULES, "shares_gathered": ()},
        tile_points=96,
        group_points=32,
        least_grouped=0,
    )


def least(x, budget, **options):
    return max(BACKENDS["cpu"].tiled_memory(p) for p in prepare(x, budget, **options).problems)


def assert_same(x, budget, limit=None, **options):
    for extra in (0, ROOM_FOR_GROUPS):
        limited = (limit or least(x, budget, **options)) + extra
        selection.assert_same("cpu", x, budget, memory_limit=limited, **options)


@pytest.mark.parametrize("kernel", OF_FEATURES)
def test_every_kernel(kernel):
    assert_same(cloud(), 120, kernel=kernel)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype(dtype):
    assert_same(cloud(dtype=dtype), 60)


def test_labeled_candidates_and_weights():
    x = cloud()
    w = torch.rand(500, generator=torch.Generator().manual_seed(1))
    w[::5] = 0
    assert_same(x, 80, labeled=x[:30] + 0.1, weights=w, candidates=torch.arange(3, 500, 3))


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 500])
def test_budgets_that_end_within_the_guesses_or_take_the_whole_pool(budget):
    assert_same(cloud(), budget)


@pytest.mark.parametrize("extra", [0, 20_000, 200_000, 10_000_000])
def test_any_memory_limit_gives_the_same_picks(extra):
    x = cloud()
    assert_same(x, 100, limit=least(x, 100) + extra)


def test_wrong_guesses_are_corrected(monkeypatch):
    selection.guess_at_random(monkeypatch)
    monkeypatch.setattr(Guesser, "alive_estimate", lambda self, m, wanted=None: 1e30)
    assert_same(cloud(300), 25)


@pytest.mark.parametrize("kernel", ["rbf", "laplace", "cosine"])
def test_the_sums_of_a_sweep_are_right_after_each_correction(monkeypatch, gathered_whole, kernel):
    selection.guess_badly(monkeypatch, lambda step: step % 3 == 1)
    corrected = selection.watch_corrections(monkeypatch, CpuTiledGreedy)
    assert_same(cloud(300), 25, kernel=kernel)
    assert corrected


@pytest.mark.parametrize(("factor", "every"), [(3, 2), (3, 3), (10, 3)])
def test_what_is_alive_is_gathered_again_after_a_wrong_guess(monkeypatch, gathered_whole, every, factor):
    """Guesses until few are alive, some of them as bad as can be: entries gathered at a coverage that a correction
    then lowers must be added."""
    lowered, floors, estimated = [], {}, Guesser.alive_estimate
    sweep, again = CpuTiledGreedy.sweep, CpuTiledGreedy.gather

    def watched(self):
        lowered.append(not bool((self.coverage(self.guesses()) >= floors[id(self)]).all()))
        return again(self)

    def swept(self, first, gather, wanted=None):
        floors[id(self)] = self.coverage(self.guesses())
        sweep(self, first, gather, wanted)

    selection.guess_badly(monkeypatch, lambda step: step % every == 0)
    monkeypatch.setattr(CpuTiledGreedy, "gather", watched)
    monkeypatch.setattr(CpuTiledGreedy, "sweep", swept)
    monkeypatch.setattr(Guesser, "alive_estimate", lambda self, m, wanted=None: factor * estimated(self, m))
    for seed in range(3):
        assert_same(torch.randn(300, 6, generator=torch.Generator().manual_seed(seed)), 60, bandwidth=2.0)
    assert any(lowered)


@pytest.mark.parametrize(("most_corrected", "gathers"), [(0.0, False), (0.4, True)])
def test_after_too_many_corrections_the_rest_is_guessed_anew(monkeypatch, gathered_whole, most_corrected, gathers):
    """Also where the sweep has gathered what all of its guesses would have left alive."""
    rules = {**RULES, "most_corrected": most_corrected, "shares_gathered": ()}
    use(monkeypatch, "cpu", "matrix-free", rules, **TILES)
    selection.guess_badly(monkeypatch, lambda step: step % 4 == 1)
    if not gathers:
        monkeypatch.setattr(Guesser, "alive_estimate", lambda self, m, wanted=None: 1e30)
    # What was given up is not asked for, as if there had been no room for it.
    monkeypatch.setattr(Guesser, "had_no_room", lambda self: pytest.fail("there was room"))
    proofs = selection.watch_proofs(monkeypatch)
    for seed in range(2):
        assert_same(cloud(300, seed=seed), 40)
    given_up = [proven for guesses, proven in proofs if proven < guesses]
    assert given_up
    assert all(given_up)  # each proved a pick


def test_guesses_grow_with_what_is_proven(monkeypatch):
    use(monkeypatch, "cpu", "matrix-free", {**RULES, "growth": 2.0, "max_guesses": 40}, **TILES)
    monkeypatch.setattr(Guesser, "alive_estimate", lambda self, m, wanted=None: 1e30)
    proofs = selection.watch_proofs(monkeypatch)
    maxherding(cloud(), 100, memory_limit=least(cloud(), 100))
    assert [guesses for guesses, _ in proofs] == [3, 6, 18, 40, 33]


def test_more_points_are_guessed_at_by_more_rows():
    rules = replace(CPU.guessing, sample_rows=100, first_rows=900, tried=60, most_tried=80, points_a_row=10)
    few, many = rules.among(500), rules.among(5000)
    assert few == rules
    assert (many.sample_rows, many.first_rows, many.tried, many.most_tried) == (500, 4000, 250, 250)
    assert many.among(5000) == many
    assert CPU.guessing.among(10**7) == CPU.guessing


def test_samples_of_more_rows_than_there_are_by_default_have_room(monkeypatch):
    use(monkeypatch, "cpu", "matrix-free", {"points_a_row": 1.0}, **TILES)
    monkeypatch.setattr(Guesser, "alive_estimate", lambda self, m, wanted=None: 1e30)
    assert_same(blobs(2200, 6, clusters=30), 4)


def test_a_gather_that_overflows_is_tried_again_later(monkeypatch):
    estimate = Guesser.alive_estimate
    monkeypatch.setattr(Guesser, "alive_estimate", lambda self, m, wanted=None: estimate(self, m) / 20)
    x = cloud()
    assert_same(x, 60)


@pytest.mark.parametrize("options", [{}, {"candidates": torch.arange(2, 350, 2)}, {"weights": torch.arange(350.0)}])
@pytest.mark.parametrize("room", [0.02, 0.005])
def test_some_candidates_are_gathered_for_while_no_other_can_win(monkeypatch, room, options):
    """With room for few entries: what the likeliest candidates may use, until another might gain more."""
    rules = {**RULES, "max_guesses": 4, "watched_points": 200, "least_gathered": 0}
    use(monkeypatch, "cpu", "matrix-free", rules, **TILES)
    portions, go_on = [], MatrixFreeSelection.go_on

    def watched(self, count, bar):
        before = len(self.picks)
        go_on(self, count, bar)
        portions.append((self.least, len(self.picks) - before, count))

    monkeypatch.setattr(MatrixFreeSelection, "go_on", watched)
    monkeypatch.setattr(CpuTiledGreedy, "room", lambda self, guesses: int(room * self.n**2))
    spread = torch.tensor([0.1, 0.2, 0.5, 1, 1, 2, 2]).repeat_interleave(50)[:, None]
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(7, 5, generator=generator).repeat_interleave(50, 0)
    assert_same(x + spread * torch.randn(350, 5, generator=generator), 150, **options)
    of_some = [made for least, made, _ in portions if least > 0]
    assert len(of_some) > 1
    assert sum(of_some) > 10
    assert all(made == count for least, made, count in portions if least == -float("inf"))


def test_a_sample_that_sees_nothing_alive_ends_too(monkeypatch):
    """Watched rows are of one cluster, watched columns of the other: between them no entry is alive."""
    use(
        monkeypatch,
        "cpu",
        "matrix-free",
        {**RULES, "watched_points": 600},
        tile_points=96,
        group_points=32,
        least_grouped=0,
    )
    x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    x[:, 0] += 1000.0 * (torch.arange(600) % 2)
    assert_same(x, 20, bandwidth=16.0)


def test_gains_that_hardly_fall_have_no_end_in_sight():
    assert picks_above(1.0, 2.0, [1.0 + 2e-9, 1.0 + 1e-9, 1.0, 1.0]) == float("inf")
    assert picks_above(3.0, 2.0, [8.0, 4.0, 2.0, 2.0]) == 0  # nothing gains more
    # a half since half as many: four times the picks for a quarter
    assert picks_above(0.5, 2.0, [8.0, 4.0, 2.0, 2.0]) == pytest.approx(4 * (4.0 - 1.0))


@pytest.mark.parametrize("count", [1, 1200])
def test_labels_join_a_selection_that_has_the_least_memory(count):
    x = cloud(300, 64)
    labeled = x.repeat(4, 1)[:count]
    herding = MaxHerding(x, memory_limit=least(x, 300))
    herding.add_labeled(labeled)
    assert torch.equal(herding.select(10), maxherding(x, 10, labeled=labeled, backend="reference"))


def test_near_ties_and_duplicates():
    x = cloud(150).double()
    moved = x + 1e-7 * torch.randn(150, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert_same(torch.cat([x, moved]), 120)
    assert_same(torch.cat([x, x, x]).float(), 200)
    assert_same(cloud(200).double() + 1e4, 100)


def test_all_equal_and_all_far_apart():
    assert_same(torch.ones(200, 4), 40)
    assert_same(torch.arange(200, dtype=torch.float32)[:, None] * 1e6, 200, bandwidth=1.0)


def test_below_the_smallest_limit_the_error_names_it():
    x = cloud(2000)
    with pytest.raises(ValueError, match=r"`memory_limit` is 1000 bytes .* needs at least \d+; raise it") as caught:
        maxherding(x, 5, memory_limit=1000)
    smallest = int(str(caught.value).split("at least ")[1].split(";")[0])
    assert torch.equal(maxherding(x, 5, memory_limit=smallest), maxherding(x, 5, backend="reference"))
    assert "matrix-free" in explain(maxherding, x, 5)
