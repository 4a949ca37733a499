"""A selection that stays open picks what one call picks, and what a new call with more labeled points picks."""

import multiprocessing
import threading

import numpy as np
import pytest
import torch

from difal_kernels import BackendUnavailableError, MaxHerding, _progress, maxherding
from difal_kernels.ops.maxherding import incremental
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.guessing import Guesser
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs, use

CPU = BACKENDS["cpu"]
pytestmark = [
    pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable())),
    pytest.mark.usefixtures("arithmetic"),
]


def cloud(n=400, d=8, seed=0):
    return blobs(n, d, seed)


@pytest.fixture(params=["dense", "matrix-free", "matrix-free in small steps"])
def path(request, monkeypatch, two_threads, arithmetic):
    if request.param != "dense":
        rules = {"watched_points": 60}
        if request.param.endswith("small steps"):  # never few enough alive, so that all picks come from guesses
            monkeypatch.setattr(Guesser, "alive_estimate", lambda self, m, wanted=None: 1e30)
            rules["max_guesses"] = 6
        use(monkeypatch, "cpu", "matrix-free", rules, tile_points=96)
    return request.param


OPTIONS = [
    {},
    {"candidates": np.arange(5, 400, 3)},
    {"candidates": torch.arange(300)},
    {"weights": torch.rand(400, generator=torch.Generator().manual_seed(1)), "kernel": "laplace"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "few candidates", "many candidates", "weights"])
def test_portions_are_the_prefixes_of_one_call(path, options):
    x = cloud()
    want = maxherding(x, 40, backend="reference", return_info=True, **options)
    herding = MaxHerding(x, **options)
    parts = [herding.select(count) for count in (1, 0, 12, 27)]
    assert torch.equal(torch.cat(parts), want.indices)
    assert torch.equal(herding.indices, want.indices)
    torch.testing.assert_close(herding.gains, want.gains, rtol=0, atol=1e-11)
    assert herding.coverage == pytest.approx(want.coverage, rel=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "few candidates", "many candidates", "weights"])
def test_newly_labeled_points_count_from_then_on(path, options):
    x, new = cloud(), cloud(25, seed=7)
    herding = MaxHerding(x, labeled=x[:3], bandwidth=9.0, **options)
    first = herding.select(10)
    herding.add_labeled(new)
    second = herding.select(20)
    assert torch.equal(first, maxherding(x, 10, labeled=x[:3], bandwidth=9.0, backend="reference", **options))
    left = dict(options)
    left["candidates"] = [j for j in range(400) if j in set(options.get("candidates", np.arange(400)).tolist())]
    left["candidates"] = [j for j in left["candidates"] if j not in set(first.tolist())]
    labeled = torch.cat([x[:3], x[first], new])
    want = maxherding(x, 20, labeled=labeled, bandwidth=9.0, backend="reference", return_info=True, **left)
    assert torch.equal(second, want.indices)
    assert herding.coverage == pytest.approx(want.coverage, rel=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "few candidates", "many candidates", "weights"])
def test_goes_on_from_the_picks_of_an_earlier_object(path, options):
    x = cloud()
    want = maxherding(x, 40, backend="reference", return_info=True, **options)
    earlier = MaxHerding(x, **options)
    earlier.select(15)
    later = MaxHerding(x, picked=(earlier.indices, earlier.gains), **options)
    assert torch.equal(later.select(25), want.indices[15:])
    assert torch.equal(later.indices, want.indices)
    torch.testing.assert_close(later.gains, want.gains, rtol=0, atol=1e-11)
    assert later.coverage == pytest.approx(want.coverage, rel=1e-12)


@pytest.mark.parametrize("kernel", ["tophat", "rbf"])
def test_what_ties_in_one_call_ties_after_going_on(path, kernel):
    x, weights = torch.arange(200.0)[:, None], torch.full((200,), 1e-13, dtype=torch.float64)
    weights[150] = 1.0
    weights[100:150] *= 1.5  # alike beside the first gain, not beside each other
    options = {"weights": weights, "kernel": kernel, "bandwidth": 0.1}
    want = maxherding(x, 30, backend="reference", **options)
    assert want.tolist() == [150, *range(29)]
    earlier = MaxHerding(x, **options)
    earlier.select(3)
    assert torch.equal(MaxHerding(x, picked=(earlier.indices, earlier.gains), **options).select(27), want[3:])


def test_picks_that_are_none_of_an_earlier_object_are_named():
    x, gains = cloud(30), torch.ones(2, dtype=torch.float64)
    for picked, error, says in (
        ([1, 2, 3], TypeError, "`picked` must be the indices and gains"),
        ((torch.tensor([0.5, 1.0]), gains), TypeError, r"`picked\[0\]` must have dtype"),
        ((torch.tensor([1, 2, 3]), gains), ValueError, "as many gains"),
        ((torch.tensor([1, 30]), gains), ValueError, "indices of candidates, got 30"),
        ((torch.tensor([1, 1]), gains), ValueError, "must not repeat"),
        ((torch.tensor([1, 2]), gains * torch.nan), ValueError, r"`picked\[1\]` must be finite"),
    ):
        with pytest.raises(error, match=says):
            MaxHerding(x, picked=picked)


def test_progress_may_go_to_a_function(path, monkeypatch):
    monkeypatch.setattr(_progress, "EVERY", -1.0)
    lines = []
    MaxHerding(cloud()).select(30, progress=lines.append)
    assert lines[-1].startswith("maxherding: 30/30")
    assert any("pass over all pairs " in line and "s left" in line for line in lines) == (path != "dense")
    with pytest.raises(TypeError, match="`progress`"):
        MaxHerding(cloud()).select(3, progress=2)


def test_labeling_a_point_twice_changes_nothing():
    x = cloud()
    herding = MaxHerding(x)
    herding.select(5)
    herding.add_labeled(x[herding.indices])
    assert torch.equal(torch.cat([herding.indices, herding.select(15)])[-20:], maxherding(x, 20))


def test_precomputed_and_numpy():
    x = cloud(60)
    kernel = torch.exp(-torch.cdist(x, x) / 4).numpy()
    herding = MaxHerding(kernel, kernel="precomputed")
    first = herding.select(4)
    assert isinstance(first, np.ndarray)
    herding.add_labeled(kernel[[7, 9]])
    rest = [j for j in range(60) if j not in first]
    labeled = kernel[[*first, 7, 9]]
    want = maxherding(kernel, 6, kernel="precomputed", labeled=labeled, candidates=np.array(rest), backend="reference")
    assert np.array_equal(herding.select(6), want)


def test_all_of_the_pool():
    x = cloud(30)
    herding = MaxHerding(x)
    assert sorted([*herding.select(10).tolist(), *herding.select(20).tolist()]) == list(range(30))
    assert herding.remaining == 0


def test_in_a_forked_process():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork on this system")
    x = cloud(1500)
    herding = MaxHerding(x)
    first = herding.select(5)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(herding.select(10).tolist()))
    child.start()
    got = queue.get(timeout=60)
    child.join(60)
    assert first.tolist() + got == maxherding(x, 15).tolist()
    assert herding.select(10).tolist() == got


def test_calls_from_several_threads_wait_for_each_other():
    x, parts = cloud(1500), []
    herding = MaxHerding(x)
    together = threading.Barrier(3)

    def some():
        together.wait()
        for _ in range(20):
            parts.append(herding.select(2))

    threads = [threading.Thread(target=some) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(torch.cat(parts).tolist()) == sorted(maxherding(x, 120).tolist())
    assert torch.equal(herding.indices, maxherding(x, 120))


class Interrupted(incremental.Progress):
    """Ctrl-C when the picks are made and before they are returned."""

    def __exit__(self, *exc):
        raise KeyboardInterrupt


def interrupt(herding, count, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(incremental, "Progress", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            herding.select(count)


def test_picks_that_ctrl_c_has_lost_are_made_again(path, monkeypatch):
    x = cloud()
    herding = MaxHerding(x)
    first = herding.select(5)
    interrupt(herding, 20, monkeypatch)
    assert torch.equal(herding.indices, first)
    assert torch.equal(torch.cat([first, herding.select(30)]), maxherding(x, 35, backend="reference"))


def test_ctrl_c_with_a_kernel_that_is_not_symmetric(monkeypatch):
    kernel = torch.rand(60, 60, generator=torch.Generator().manual_seed(4))
    herding = MaxHerding(kernel, kernel="precomputed")
    first = herding.select(5)
    interrupt(herding, 20, monkeypatch)
    want = maxherding(kernel, 20, kernel="precomputed", backend="reference")
    assert torch.equal(torch.cat([first, herding.select(15)]), want)


def test_errors():
    x = cloud(50)
    herding = MaxHerding(x)
    herding.select(48)
    with pytest.raises(ValueError, match="`budget` must be at most the candidates that remain, 2, got 3"):
        herding.select(3)
    with pytest.raises(TypeError, match="`budget`"):
        herding.select(1.5)
    with pytest.raises(TypeError, match="`progress` must be True or False, got 'yes'"):
        herding.select(1, progress="yes")
    with pytest.raises(ValueError, match=r"`labeled` must be \(L, D\) features with 8 columns"):
        herding.add_labeled(x[:, :4])
    with pytest.raises(TypeError, match="`labeled` must be of the features' dtype"):
        herding.add_labeled(x.double())
    with pytest.raises(ValueError, match="one selection an object"):
        MaxHerding(x[None])
    with pytest.raises(ValueError, match="`memory_limit` is 10 bytes"):
        MaxHerding(x, memory_limit=10)
    assert prepare(x, 0).device.type == "cpu"
    if torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="move it with"):
            MaxHerding(x.cuda())
