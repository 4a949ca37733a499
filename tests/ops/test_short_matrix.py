"""The kernel matrix in 16 bits an entry: what is stored, when it is, and that picks do not depend on it."""

from dataclasses import replace

import pytest
import torch

from difal_kernels import explain, maxherding
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu.dense import entry_dtype
from difal_kernels.ops.maxherding.bounds import ROUNDINGS, quantization_err
from difal_kernels.ops.maxherding.dense import DenseSelection
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES, SCALE_FREE, kernel_matrix
from difal_kernels.ops.maxherding.plan import needed
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs, use

CPU = BACKENDS["cpu"]
pytestmark = pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))
STEPS = 65535


def clusters(n, d, spread=1.0, seed=0):
    return blobs(n, d, seed, clusters=7, spread=spread)


def stored(p):
    """The matrix as kernel values, float64."""
    matrix = DenseSelection(BACKENDS["cpu"], [p]).matrix.keep[-1]
    assert matrix.dtype == torch.int16
    return (matrix.int() & 0xFFFF).double() / STEPS


def forget_that_entries_are_rounded(monkeypatch):
    use(monkeypatch, "cpu", roundings=replace(ROUNDINGS, entry=0.0))


@pytest.mark.parametrize("kernel", OF_FEATURES)
@pytest.mark.parametrize("n", [2, 31, 64, 301])
def test_an_entry_is_the_nearest_step(short, two_threads, kernel, n):
    x = clusters(n, 9)
    p = prepare(x, 1, kernel=kernel, **({} if kernel in SCALE_FREE else {"bandwidth": 9.0})).problems[0]
    k, exact = stored(p), kernel_matrix(x, x, kernel, p.bandwidth)
    assert torch.equal(k, k.T)
    assert torch.equal(k.diagonal(), torch.ones(n, dtype=torch.float64))
    estimate = 1e-3 * exact if kernel == "laplace" else 3e-6  # a root makes much of little near the diagonal
    assert bool(((k - exact).abs() <= quantization_err() / 2 + estimate).all())
    if kernel == "tophat":
        assert torch.equal(k, exact)


@pytest.mark.parametrize(("n", "m"), [(90, 13), (301, 101)])
def test_columns_of_few_candidates(short, n, m):
    x = clusters(n, 9)
    candidates = torch.arange(n).flip(0)[::2][:m]
    p = prepare(x, 1, candidates=candidates, bandwidth=9.0).problems[0]
    exact = kernel_matrix(x, x[candidates.sort().values], "rbf", 9.0)
    assert bool(((stored(p) - exact).abs() <= quantization_err() / 2 + 3e-6).all())


@pytest.mark.parametrize("weights", ["equal", "two values", "all different"])
@pytest.mark.parametrize("n", [97, 400])
def test_gains_of_rows_of_any_weights(short, weights, n):
    """Rows of one weight are summed as integers, eight together, the others apart."""
    x = clusters(n, 6, 2.0)
    generator = torch.Generator().manual_seed(1)
    w = {
        "equal": torch.full((n,), 0.3, dtype=torch.float64),
        "two values": (torch.arange(n) // 9 % 2 + 1).double() / 7,
        "all different": torch.rand(n, generator=generator, dtype=torch.float64),
    }[weights]
    want = maxherding(x, n // 2, weights=w, backend="reference", return_info=True)
    got = maxherding(x, n // 2, weights=w, backend="cpu", return_info=True)
    assert torch.equal(got.indices, want.indices)
    torch.testing.assert_close(got.gains, want.gains, rtol=0, atol=1e-12)
    assert got.contested_picks <= n // 8  # estimates are good for something


RADIUS = {"rbf": lambda k: (-k.log()).sqrt(), "laplace": lambda k: -k.log(), "cauchy": lambda k: (1 / k - 1).sqrt()}


@pytest.mark.parametrize("kernel", RADIUS)  # laplace is scanned entry by entry, the others weighed
@pytest.mark.parametrize("copies", [5, 30])  # a column for each candidate, or the square
def test_steps_in_favour_of_the_wrong_one(short, monkeypatch, kernel, copies):
    """`a` covers more by 0.08 of a step for each pair of rows, and is stored as covering a step less."""
    k = (torch.tensor([[30000.49, 27000.49], [30000.51, 27000.39]], dtype=torch.float64)) / STEPS
    r, apart = RADIUS[kernel](k), 1.0
    along = (r[:, 0] ** 2 - r[:, 1] ** 2 + apart**2) / (2 * apart)
    a, b = torch.stack([along, (r[:, 0] ** 2 - along**2).sqrt()], 1)
    ends = torch.tensor([[0.0, 0.0], [apart, 0.0]], dtype=torch.float64)
    x = torch.cat([ends.repeat(20, 1), b.repeat(copies, 1), a.repeat(copies, 1)])
    weights = torch.cat([torch.ones(40), torch.zeros(2 * copies)])
    options = {"kernel": kernel, "bandwidth": 1.0, "weights": weights, "candidates": range(40, len(x))}
    assert maxherding(x, 1, backend="reference", **options).item() == 40 + copies
    assert maxherding(x, 1, backend="cpu", **options).item() == 40 + copies
    forget_that_entries_are_rounded(monkeypatch)
    assert maxherding(x, 1, backend="cpu", **options).item() == 40  # or these places would prove nothing


def near_ties():
    """Pairs of points that cover almost the same: steps of 16 bits do not tell them apart."""
    x = clusters(60, 8, seed=3)
    twins = x + 3e-4 * torch.randn(60, 8, generator=torch.Generator().manual_seed(4))
    return torch.cat([x, twins])[torch.randperm(120, generator=torch.Generator().manual_seed(5))]


def test_what_rounding_hides_is_found_again(short, monkeypatch):
    x = near_ties()
    want = maxherding(x, 60, backend="reference")
    assert torch.equal(maxherding(x, 60, backend="cpu"), want)
    forget_that_entries_are_rounded(monkeypatch)
    assert not torch.equal(maxherding(x, 60, backend="cpu"), want)  # or this pool would prove nothing


def test_it_is_used_where_the_matrix_is_large_and_neither_sparse_nor_flat(monkeypatch):
    use(monkeypatch, "cpu", int16_min_entries=300 * 300)
    x = clusters(300, 9)

    def bits(rows, **options):
        text = explain(maxherding, rows, 2, backend="cpu", **options)
        return 16 if "in 16 bits" in text else 32 if "in 32 bits" in text else None

    assert bits(x) == 16
    assert bits(x[:299]) == 32
    assert bits(x, candidates=range(100)) == 32  # 300 x 100
    assert bits(x, candidates=range(200)) == 16  # made whole
    assert bits(x, bandwidth=0.1) == 32
    assert bits(x, bandwidth=300.0) == 32
    assert bits(x, kernel="tophat", bandwidth=0.1) == 16  # 0 and 1 are steps
    assert bits(kernel_matrix(x, x, "rbf", 9.0), kernel="precomputed") == 32


def test_it_takes_half_the_memory(short, monkeypatch):
    p = prepare(clusters(3000, 4), 2).problems[0]
    half = needed(BACKENDS["cpu"], p, "dense")
    use(monkeypatch, "cpu", int16_min_entries=float("inf"))
    whole = needed(BACKENDS["cpu"], p, "dense")
    assert whole - half == 2 * 3000**2


def test_problems_of_both_kinds_share_the_memory_of_a_batch(monkeypatch, two_threads):
    use(monkeypatch, "cpu", int16_min_entries=200 * 200)
    x = torch.stack([clusters(240, 6, seed=seed) for seed in range(5)])
    lengths, widths = [240, 120, 240, 199, 200], [8.0, 8.0, 0.05, 8.0, 8.0]
    problems = prepare(x, 20, lengths=lengths, bandwidth=widths).problems
    assert {entry_dtype(p, BACKENDS["cpu"].tuning) for p in problems} == {torch.int16, torch.float32}
    got = maxherding(x, 20, lengths=lengths, bandwidth=widths, backend="cpu")
    for b, (n, width) in enumerate(zip(lengths, widths, strict=True)):
        assert torch.equal(got[b], maxherding(x[b, :n], 20, bandwidth=width, backend="reference"))


@pytest.fixture(params=[0, float("inf")], ids=["16 bits", "float32"])
def either(request, monkeypatch, short):
    use(monkeypatch, "cpu", int16_min_entries=request.param)


@pytest.mark.parametrize("seed", range(60))
def test_rows_that_rise_out_of_reach_take_nothing(either, seed):
    """Nearly all is covered and the rest ties at 0: a residue of any size would be an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    for n in (6, 8, 12, 16):
        x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        weights = torch.rand(n, generator=generator, dtype=torch.float64)
        options = {"kernel": "rational_quadratic", "bandwidth": 40.0, "weights": weights, "labeled": x[::2]}
        want = maxherding(x, n, backend="reference", **options)
        assert torch.equal(maxherding(x, n, backend="cpu", **options), want)


@pytest.mark.parametrize("heavy", [1e14, 1e16, 1e18, 1e20])
def test_a_heavy_row_that_is_nearly_covered(either, heavy):
    """What rises there is little of a huge weight, and other gains are little beside the weight alone."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        gap = 10 ** (-6 - 3 * torch.rand(1, generator=generator).item())
        x = torch.cat([torch.tensor([0.0, 0.8326 - gap]), 100 + 10 * torch.arange(10.0)])[:, None].double()
        weights = 10 * torch.rand(12, generator=generator, dtype=torch.float64)
        weights[0], weights[1] = heavy * (0.5 + torch.rand(1, generator=generator).item()), 1e-3
        labeled = torch.tensor([[-0.8326]], dtype=torch.float64)
        options = {"bandwidth": 1.0, "weights": weights, "labeled": labeled, "candidates": range(1, 12)}
        want = maxherding(x, 11, backend="reference", **options)
        assert torch.equal(maxherding(x, 11, backend="cpu", **options), want)
