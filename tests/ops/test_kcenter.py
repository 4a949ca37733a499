"""kcenter_greedy where products decide what is computed: the picks and distances of the reference, on every path."""

import pytest
import torch

from difal_kernels import explain, kcenter_greedy
from difal_kernels._native import load
from difal_kernels.ops.kcenter_greedy import cpu
from instruction_sets import run_under

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))


def clusters(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 4 * torch.randn(20, d, generator=generator)
    spread = 0.2 + torch.rand(20, 1, generator=generator)
    which = torch.randint(20, (n,), generator=generator)
    return centers[which] + spread[which] * torch.randn(n, d, generator=generator)


def lattice(n, d, seed=0):
    return torch.randint(3, (n, d), generator=torch.Generator().manual_seed(seed)).float()


def sizes(n, d, seed=0):
    """Rows of which float32 holds some norms badly or not at all."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * 10.0 ** torch.randint(-18, 18, (n, 1), generator=generator)


def doubles(n, d, seed=0):
    """Numbers that differ in digits that float32 does not have, some beyond its range."""
    x = 1e6 + 1e-4 * clusters(n, d, seed).double()
    x[::50] *= 1e40
    return x


KINDS = {
    "gaussian": lambda n, d: torch.randn(n, d, generator=torch.Generator().manual_seed(d)),
    "clusters": clusters,
    "plane": lambda n, d: torch.rand(n, 2, generator=torch.Generator().manual_seed(1)) @ torch.ones(2, d).tril(),
    "lattice": lattice,
    "repeated": lambda n, d: clusters(n // 6 + 1, d).repeat(6, 1)[:n],
    "sizes": sizes,
    "doubles": doubles,
    "half": lambda n, d: clusters(n, d).half(),
    "far off": lambda n, d: clusters(n, d) + 1e5,
    "rare": lambda n, d: torch.cat([torch.zeros(n - 20, d), clusters(20, d)]),
}


def check(kind, n, d, budget, **options):
    x = KINDS[kind](n, d)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the reference is many small operations
    want = kcenter_greedy(x, budget, backend="reference", return_info=True, **options)
    torch.set_num_threads(threads)
    got = kcenter_greedy(x, budget, backend="cpu", return_info=True, **options)
    assert torch.equal(got.indices, want.indices), (kind, d)
    torch.testing.assert_close(got.distances, want.distances, rtol=1e-12, atol=0)
    assert got.radius == pytest.approx(want.radius, rel=1e-12, abs=0)


@pytest.mark.parametrize("d", [3, 70, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_picks_and_distances_are_the_references(kind, d, two_threads):
    check(kind, 700, d, 150)


def test_all_points_are_picked(two_threads):
    for kind in ("gaussian", "lattice", "rare"):
        check(kind, 320, 65, 320)


@pytest.mark.parametrize("kind", ["gaussian", "clusters", "sizes"])
def test_labeled_points_and_candidates(kind, two_threads):
    x = KINDS[kind](900, 66)
    check(kind, 900, 66, 60, labeled=x[200:300] * 1.01)
    check(kind, 900, 66, 100, labeled=x[:1], candidates=torch.arange(890, 10, -3))
    check(kind, 900, 66, 0, labeled=x[:70])
    check(kind, 900, 66, 50, candidates=torch.arange(700, 750))


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_every_instruction_set(isa):
    script = "import test_kcenter as t\nfor k in t.KINDS:\n    t.check(k, 500, 67, 80)\nt.check('gaussian', 500, 5, 80)"
    run_under(isa, script)


def engine_of(x, threads):
    return load("_cpu").Farthest(
        rows=len(x), dimension=x.shape[1], type=0, features=x.data_ptr(), allowed=0, threads=threads
    )


def selected(engine, counts):
    picks, distances = [], []
    for count in counts:
        p, d = torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.float64)
        engine.select(count, p.data_ptr(), d.data_ptr())
        picks.append(p)
        distances.append(d)
    return torch.cat(picks), torch.cat(distances)


def test_threads_and_pieces_do_not_matter():
    x = clusters(4000, 80)
    want = selected(engine_of(x, 1), [600])
    for threads, counts in ((1, [1, 0, 2, 597]), (2, [600]), (3, [100] * 6), (5, [300, 300])):
        got = selected(engine_of(x, threads), counts)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, torch.uint8])
@pytest.mark.parametrize("d", [5, 80])
def test_narrow_features_are_used_as_they_are(dtype, d):
    x = (9 * clusters(1200, d)).clamp(-100, 100)
    x = (x.abs() if dtype == torch.uint8 else x).to(dtype)
    for options in ({}, {"labeled": x[:40].float() + 0.25, "candidates": torch.arange(1100, 100, -1)}):
        got = kcenter_greedy(x, 400, return_info=True, **options)
        want = kcenter_greedy(x.float(), 400, return_info=True, **options)
        assert torch.equal(got.indices, want.indices)
        assert torch.equal(got.distances, want.distances)
        assert got.radius == want.radius


@pytest.mark.parametrize("d", [8, 128])
def test_few_distances_are_computed(d):
    x = torch.randn(4000, d, generator=torch.Generator().manual_seed(0))
    engine = engine_of(x, 2)
    selected(engine, [800])
    pairs = 4000 * 800
    assert engine.reads() < pairs / 40  # the others are known to be too far
    assert engine.bounds() < pairs * 0.75  # or were never asked for


def test_explain_says_what_is_needed():
    x = torch.zeros(1000, 64)
    assert "workspace" in explain(kcenter_greedy, x, 10)
