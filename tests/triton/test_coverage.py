"""Selection by the Triton backend: the picks of the float64 reference, in every way that its kernels can be used."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import selection
from difal_kernels import available_backends, explain, maxherding, uherding
from difal_kernels._progress import Progress
from difal_kernels.ops import _triton
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.gpu.operands import GpuOperands
from difal_kernels.ops.maxherding.backends.triton import dense as triton_dense
from difal_kernels.ops.maxherding.backends.triton.tiled import TritonTiledGreedy
from difal_kernels.ops.maxherding.guessing import Guesser
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES
from difal_kernels.ops.maxherding.plan import needed
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs, moved, use

ROOT = Path(__file__).parents[2]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def operands(x, device):
    return GpuOperands(prepare(x.to(device), 3).problems[0], BACKENDS["triton"].tuning)


def assert_same(device, features, budget, **options):
    selection.assert_same("triton", features, budget, device=device, **options)


@pytest.mark.parametrize("name", ["herding_clusters", "herding_sphere_labelled"])
def test_the_stored_float64_greedy_order(device, load_fixture, name, gpu):
    data = load_fixture(name)
    weights = data["weights"] if name == "herding_clusters" else None
    options = {"labeled": data.get("labelled"), "bandwidth": float(data["bandwidth"])}
    if not gpu:  # too many rows for the interpreter
        some = None if weights is None else weights[:100]
        assert_same(device, data["features"][:100], 2, weights=some, **options)
        return
    options = {key: moved(value, device) for key, value in {**options, "weights": weights}.items()}
    order = data["greedy_order" if weights is None else "weighted_order"]
    got = maxherding(data["features"].to(device), len(order), backend="triton", **options)
    assert torch.equal(got.cpu(), order)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", OF_FEATURES)
def test_every_kernel_and_dtype(device, gpu, kernel, dtype):
    x = blobs(400 if gpu else 40, dtype=dtype)
    if gpu:
        assert_same(device, x, 60, kernel=kernel, repeats=2)
    elif dtype != torch.float32 and kernel not in ("rbf", "cosine"):
        return  # what depends on the dtype does not depend on these kernels, and the interpreter is slow
    labeled, weights = blobs(7, seed=1, dtype=dtype), torch.rand(len(x), generator=torch.Generator().manual_seed(2))
    options = {"labeled": labeled, "weights": weights, "candidates": torch.arange(39, 5, -1)}
    assert_same(device, x, 2, kernel=kernel, **options)  # a square matrix: most may be picked


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_few_candidates_have_a_matrix_of_their_own_columns(device, dtype):
    x, labeled = blobs(70, d=70, dtype=dtype), blobs(3, d=70, seed=1, dtype=dtype)
    assert_same(device, x, 3, labeled=labeled, candidates=torch.tensor([5, 7, *range(40, 60)]))
    assert_same(device, x, 2, kernel="cosine", candidates=torch.tensor([5, 7, *range(40, 60)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_goes_to_the_tensor_cores_where_the_bound_allows(device, gpu, dtype):
    x = torch.nn.functional.normalize(blobs(50, d=40).float(), dim=1).to(dtype)
    own = operands(x, device)
    assert own.raw
    assert own.matrix.dtype == dtype
    assert_same(device, x, 4, repeats=1 + gpu)
    far = 300 + 40 * x  # too large for the sums of a tensor core: centred, and split
    assert not operands(far, device).raw
    assert_same(device, far, 2)


@pytest.mark.parametrize("size", [1e20, 1e-20])
def test_half_precision_too_large_or_small_for_float32_products(device, size):
    x = (torch.nn.functional.normalize(blobs(40, d=40), dim=1) * size).to(torch.bfloat16)
    assert_same(device, x, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_precomputed_kernels_need_not_be_symmetric(device, dtype):
    k = torch.rand(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    assert_same(device, k, 4, kernel="precomputed")
    options = {"labeled": k[:3].double() * 0.5, "candidates": torch.arange(10, 25), "weights": torch.arange(40)}
    assert_same(device, k.T, 4, kernel="precomputed", **options)


def test_batches_with_ragged_lengths(device, gpu):
    sizes = [40, 1, 33, 70]
    x = torch.stack([blobs(max(sizes), seed=s) for s in range(len(sizes))])
    assert_same(device, x, 1, lengths=sizes)
    assert_same(device, x[:2, :40], 3)
    if gpu:
        assert_same(device, torch.stack([blobs(500, seed=s) for s in range(300)]), 20)


def test_ties_go_to_the_lowest_index(device):
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    assert_same(device, grid, 3, bandwidth=2.0)
    assert_same(device, torch.ones(5, 3), 5)
    assert_same(device, torch.cat([grid, grid])[:20], 2, kernel="tophat", bandwidth=1.5)
    assert_same(device, torch.zeros(4, 2), 4, kernel="cosine")


def test_near_ties_are_settled_in_float64(device):
    """Mirror images, of which one is moved by less than float32 can tell."""
    x = blobs(15, d=3, dtype=torch.float64)
    x = torch.cat([x + 40, -x - 40 - 1e-9 * blobs(15, d=3, seed=3, dtype=torch.float64)])
    assert_same(device, x, 3)
    assert maxherding(x.to(device), 3, backend="triton", return_info=True).contested_picks > 0


def test_small_and_odd_shapes(device):
    for n, d, budget in [(1, 1, 1), (2, 3, 2), (33, 1, 2), (65, 33, 0)]:
        assert_same(device, blobs(n, d=d), budget)
    assert_same(device, blobs(60, d=48)[::2, 3::2], 2)  # strides


def test_bandwidths_far_from_the_data(device):
    for bandwidth in (1e-3, 1e4):
        assert_same(device, blobs(7), 1, bandwidth=bandwidth)
    assert_same(device, torch.cat([blobs(10), blobs(10) + 1e-4]), 2, kernel="laplace", bandwidth=0.05)


def test_addresses_beyond_two_to_the_31(device, gpu, monkeypatch):
    """Rows so far apart that the matrix spans more than 2^31 numbers, most of which are never touched."""
    if not gpu:
        pages = Path("/proc/sys/vm/overcommit_memory")
        if not pages.exists() or pages.read_text().strip() == "2":
            pytest.skip("this system does not lend addresses without memory, and the matrix has 10 GB of them")
    elif torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.fail("the GPU has less than 12 GiB free")
    use(monkeypatch, "triton", row_multiple=1 << 25)
    assert_same(device, blobs(72), 3, memory_limit=1 << 40)
    assert_same(device, blobs(72), 2, candidates=torch.arange(3, 30), memory_limit=1 << 40)


@pytest.fixture
def gathering(monkeypatch):
    """Lists of at most so many entries, gathered after some guesses, at sizes that the reference can check."""

    def choose(entries, **guessing):
        rules = {**selection.FEW_ROWS, "most_tried": 8, "most_corrected": math.inf, **guessing}
        use(monkeypatch, "triton", "matrix-free", rules, max_entries=entries, rows_at_once=32)

    return choose


@pytest.mark.parametrize(("kernel", "dtype"), [("rbf", torch.bfloat16), ("cosine", torch.float32)], ids=str)
def test_matrix_free(device, gathering, kernel, dtype):
    gathering(2500)
    x = blobs(100, dtype=dtype)
    labeled, weights = blobs(7, seed=1, dtype=dtype), torch.rand(len(x), generator=torch.Generator().manual_seed(2))
    options = {"labeled": labeled, "weights": weights, "candidates": torch.arange(99, 5, -1)}
    assert_same(device, x, 5, kernel=kernel, **options)


@pytest.mark.parametrize("kernel", ["laplace", "tophat"])
def test_matrix_free_kernels(device, gathering, kernel):
    gathering(1800)
    x = blobs(70)
    if kernel == "laplace":
        x = torch.cat([x[:60], x[:10] + 1e-5])  # too near each other for an estimate
    assert_same(device, x, 4, kernel=kernel, bandwidth=6.0)


def test_matrix_free_where_every_entry_is_uncertain(device, gathering):
    gathering(60)
    x = torch.cat([blobs(15, d=4), torch.full((1, 4), 1e6)])  # one far point: no sum of squares is any use
    assert_same(device, x, 3, bandwidth=9.0)


def test_wrong_guesses_are_corrected_in_place(device, gathering, monkeypatch):
    """The sums of a sweep after each correction are those of float64."""
    gathering(800)
    right = Guesser.best_of_sample
    corrected = selection.watch_corrections(monkeypatch, TritonTiledGreedy)

    def sometimes_wrong(self, estimate, open_):
        best = right(self, estimate, open_)
        others = open_.clone()
        others[best] = False
        return int(others.nonzero()[0]) if self.tiles.guesses() % 2 == 1 and bool(others.any()) else best

    monkeypatch.setattr(Guesser, "best_of_sample", sometimes_wrong)
    assert_same(device, blobs(66), 3)
    assert corrected


def test_after_too_many_corrections_the_rest_is_guessed_anew(device, gathering, monkeypatch):
    gathering(800, most_corrected=0.0)
    selection.guess_badly(monkeypatch, lambda step: step == 1)
    proofs = selection.watch_proofs(monkeypatch)
    assert_same(device, blobs(66), 5)
    assert any(proven < guesses for guesses, proven in proofs)


def test_lists_that_were_counted_too_short_are_made_again(device, gathering, monkeypatch):
    gathering(2000)
    use(monkeypatch, "triton", list_room=0)
    gather = TritonTiledGreedy.gather

    def too_short(self):
        self.counts //= 2
        return gather(self)

    monkeypatch.setattr(TritonTiledGreedy, "gather", too_short)
    assert_same(device, blobs(60), 6)


def test_sweeps_add_up_what_all_rows_give(device):
    """The sums of a sweep against float64, from the first guess on: within the bound that `contest` charges."""
    (p,) = prepare(blobs(70).to(device), 8, weights=torch.rand(70).to(device)).problems
    backend = BACKENDS["triton"]
    with _triton.on(device), Progress(8, "", False):
        tiles = backend.tiled_greedy(p, 1 << 34, 8)
        for j in (3, 50, 21):
            tiles.guess(j)
        tiles.sweep(0, True)
        selection.assert_sums_are_right(tiles, 0)


def test_memory_decides_between_the_paths(device):
    x = blobs(3000, d=8)
    (p,) = prepare(x, 5).problems
    assert "dense" in explain(maxherding, x.to(device), 5, backend="triton", memory_limit=1 << 31)
    with pytest.raises(ValueError, match="`memory_limit` is 1000 bytes and this selection of 3000 points needs"):
        maxherding(x.to(device), 5, backend="triton", memory_limit=1000)
    (p,) = prepare(torch.zeros(100_000, 1).half().expand(100_000, 64), 1, bandwidth=1.0).problems
    assert needed(BACKENDS["triton"], p, "matrix-free") < needed(BACKENDS["triton"], p, "dense")


def test_explain_says_what_would_run(device):
    text = explain(maxherding, blobs(50).to(device), 5, backend="triton")
    assert "-> triton: can run" in text
    assert "dense, 50 x 50 kernel" in text
    assert "triton" in available_backends("maxherding")


def test_a_turn_never_takes_two(device, monkeypatch):
    """Picks and rises go together: every pick's own row is covered wholly when all is done."""
    made = []
    engine = triton_dense.Engine

    class Kept(engine):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(triton_dense, "Engine", Kept)
    picks = maxherding(blobs(30).to(device), 12, backend="triton")
    assert bool((made[0].exact[0, picks] == 1).all())


def clean(**environment):
    """This process's environment without the interpreter."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {**kept, "PYTHONPATH": str(ROOT), **environment}


def test_without_a_gpu_the_error_says_what_to_do():
    script = (
        "import torch, difal_kernels as d, sys\n"
        "assert 'triton' not in sys.modules and 'triton' not in d.available_backends('maxherding')\n"
        "try: d.maxherding(torch.eye(4), 1, backend='triton')\n"
        "except d.BackendUnavailableError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], env=clean(CUDA_VISIBLE_DEVICES=""), capture_output=True, text=True, timeout=120
    )
    assert "torch finds no CUDA device" in run.stdout, run.stdout + run.stderr
    assert "TRITON_INTERPRET=1" in run.stdout


def test_without_triton_the_error_says_what_to_install(tmp_path):
    (tmp_path / "triton.py").write_text("raise ImportError('no triton here')\n")
    script = (
        "import torch, difal_kernels as d\n"
        "try: d.maxherding(torch.eye(4), 1, backend='triton')\n"
        "except d.BackendUnavailableError as error: print(error)\n"
    )
    environment = clean(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert "no triton here" in run.stdout, run.stdout + run.stderr
    assert "pip install triton" in run.stdout


def test_uncertainty_herding_runs_on_it_too(device):
    x, u = blobs(40), torch.rand(40, generator=torch.Generator().manual_seed(1))
    want = uherding(x, u, 4, backend="reference")
    assert torch.equal(uherding(x.to(device), u.to(device), 4, backend="triton").cpu(), want)
