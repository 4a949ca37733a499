"""`sample_rows`: greedy on the rows drawn, and coverage that is as sure as it says."""

import math

import numpy as np
import pytest
import torch

from difal_kernels import BackendUnavailableError, explain, maxherding
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.reference import kernel_matrix
from difal_kernels.ops.maxherding.sampling import draw_rows, hoeffding
from selection import blobs

CPU = BACKENDS["cpu"]
needs_cpu = pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))
N, D = 500, 12
WEIGHTS = torch.rand(N, generator=torch.Generator().manual_seed(2)).double() ** 4
OPTIONS = [
    {},
    {"weights": WEIGHTS, "kernel": "laplace"},
    {"kernel": "cosine", "candidates": np.arange(3, N, 4), "labeled": blobs(7, D, 9)},
    {"kernel": "tophat", "bandwidth": 4.0, "labeled": blobs(7, D, 9).double()},
]


@needs_cpu
@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "weights", "cosine", "tophat"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_picks_are_greedy_on_the_rows_drawn(options, dtype, two_threads):
    x = blobs(N, D).to(dtype)
    want = maxherding(x, 60, sample_rows=120, seed=5, backend="reference", return_info=True, **options)
    got = maxherding(x, 60, sample_rows=120, seed=5, return_info=True, **options)
    assert torch.equal(got.indices, want.indices)
    torch.testing.assert_close(got.gains, want.gains, rtol=1e-9, atol=1e-12)
    assert got.coverage == pytest.approx(want.coverage, rel=1e-9)
    assert got.sampled.chosen_coverage == pytest.approx(want.sampled.chosen_coverage, rel=1e-9)
    # The same by hand, where every row counts once: the rows drawn as a pool, with all points as candidates.
    if "weights" not in options and "labeled" not in options:
        k = kernel_matrix(x[draw_rows(torch.ones(N), 120, 5, 0)], x, "rbf", got.bandwidth)
        m, picks = torch.zeros(120, dtype=torch.float64), []
        for _ in range(60):
            picks.append(int((k - m[:, None]).clamp(min=0).sum(0).argmax()))
            m = torch.maximum(m, k[:, picks[-1]])
        assert got.indices.tolist() == picks


def test_all_rows_give_the_exact_picks():
    x = blobs(N, D)
    got = maxherding(x, 40, sample_rows=N, return_info=True)
    want = maxherding(x, 40, return_info=True)
    assert torch.equal(got.indices, want.indices)
    assert got.coverage == pytest.approx(want.coverage, rel=1e-12)  # drawn without replacement: all of them
    assert want.sampled is None


@pytest.mark.parametrize("options", [{}, {"weights": WEIGHTS}], ids=["plain", "weights"])
def test_the_true_coverage_is_within_the_error(options):
    x = blobs(N, D)
    weights = options.get("weights", torch.ones(N).double())
    for seed in range(20):
        got = maxherding(x, 30, sample_rows=150, seed=seed, bandwidth=4.0, return_info=True, **options)
        k = kernel_matrix(x, x[got.indices], "rbf", 4.0).cummax(1).values
        true = torch.cat([torch.zeros(1).double(), (weights[:, None] * k).mean(0)])
        assert float((true - got.sampled.coverage).abs().max()) < got.sampled.error  # one run in twenty may miss
        assert got.sampled.error == pytest.approx(
            float(weights.mean()) * math.sqrt(math.log(2 * 31 / 0.05) / 300), rel=1e-12
        )
        assert got.sampled.seed == seed
        assert got.sampled.rows == 150
        assert got.coverage == float(got.sampled.coverage[-1])


def test_the_loss_against_the_exact_selection_is_small_and_shrinks():
    x = blobs(N, D)
    exact = maxherding(x, 25, bandwidth=4.0, return_info=True).coverage
    losses = []
    for rows in (25, 100, 400):
        picks = [maxherding(x, 25, bandwidth=4.0, sample_rows=rows, seed=seed) for seed in range(5)]
        losses.append(np.mean([exact - float(kernel_matrix(x, x[p], "rbf", 4.0).amax(1).mean()) for p in picks]))
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.01 * exact


def test_rows_are_drawn_in_proportion_to_their_weights():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    rows = draw_rows(weights, 40_000, 1, 0)
    counts = rows.bincount(minlength=6) / 40_000
    torch.testing.assert_close(counts, (weights / 8).float(), atol=0.01, rtol=0)
    assert not torch.equal(draw_rows(weights, 50, 1, 0), draw_rows(weights, 50, 1, 1))
    assert not torch.equal(draw_rows(torch.ones(900), 50, 1, 0), draw_rows(torch.ones(900), 50, 2, 0))
    assert len(draw_rows(torch.ones(900), 400, 3, 0).unique()) == 400


def test_hoeffding_is_what_simulation_allows():
    generator = torch.Generator().manual_seed(0)
    coins = (torch.rand(2000, 100, generator=generator) < 0.5).double().mean(1)
    misses = float(((coins - 0.5).abs() > hoeffding(100, 1, 0.05)).double().mean())
    assert 0 < misses < 0.05


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"sample_rows": 0}, ValueError, "`sample_rows` must be at least 1, got 0"),
        ({"sample_rows": N + 1}, ValueError, "`sample_rows` must be at most the number of points, 500, got 501"),
        ({"sample_rows": 2.5}, TypeError, "`sample_rows` must be an int"),
        ({"sample_rows": 9, "seed": -1}, ValueError, "`seed` must be"),
        ({"seed": "now"}, TypeError, "`seed` must be an int"),
        ({"sample_rows": 9, "kernel": "precomputed", "features": torch.eye(N)}, ValueError, "precomputed"),
        ({"sample_rows": 9, "features": torch.zeros(2, N, 3)}, ValueError, "one selection"),
        ({"sample_rows": 100, "memory_limit": 1000}, ValueError, "`memory_limit` is 1000 bytes"),
    ],
)
def test_wrong_arguments_are_named(options, error, says):
    options = dict(options)
    with pytest.raises(error, match=says):
        maxherding(options.pop("features", blobs(N, D)), 5, **options)


@needs_cpu
def test_explain_tells_rows_from_candidates():
    assert "dense, 100 x 500 kernel" in explain(maxherding, blobs(N, D), 5, sample_rows=100)
    with pytest.raises(BackendUnavailableError):
        maxherding(blobs(N, D), 5, sample_rows=100, backend="cuda")
