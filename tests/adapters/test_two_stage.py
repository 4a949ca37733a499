"""The released names and signatures, on the fixtures of what the released code picked from."""

import inspect

import numpy as np
import pytest
import torch

from difal.adapters.two_stage import GlobalHerding, local_herding
from difal_kernels import maxherding

torch.manual_seed(0)
FEATURES = torch.randn(70, 5, generator=torch.Generator().manual_seed(0))


class LaplaceKernel:
    """Stands for the released class of that name."""


class CauchyKernel:
    """Likewise; the released one ignores its bandwidth."""


def test_signatures_are_the_released_ones():
    local = "candidate_features budget kernel_fn sigma percentile batch_size device prev_rep_features disable_tqdm"
    assert list(inspect.signature(local_herding).parameters) == [*local.split(), "progress_desc"]
    names = list(inspect.signature(GlobalHerding).parameters)
    assert names == ["kernel_fn", "sigma", "batch_size", "device", "dtype", "seed"]
    names = list(inspect.signature(GlobalHerding.greedy_select).parameters)
    assert names == ["self", "feats", "budget", "num_prev", "allow_split"]


def test_local_first_round(load_fixture):
    fixture = load_fixture("herding_clusters")
    budget = 40
    selected, order, init_idx, init_cov = local_herding(
        fixture["features"], budget, sigma=float(fixture["bandwidth"]), disable_tqdm=True
    )
    np.testing.assert_array_equal(selected, fixture["greedy_order"][:budget].numpy())
    np.testing.assert_array_equal(selected, order)
    assert init_idx == selected[0]
    assert init_cov == pytest.approx(float(fixture["greedy_gains"][0]), rel=1e-12)
    assert selected.dtype == np.int64


def test_local_given_earlier_labels(capsys):
    previous = FEATURES[:6]
    selected, _, init_idx, init_cov = local_herding(FEATURES, 9, sigma=1.5, prev_rep_features=previous)
    assert capsys.readouterr().err
    np.testing.assert_array_equal(selected, maxherding(FEATURES, 9, labeled=previous, bandwidth=1.5).numpy())
    assert init_idx is None
    kernel = torch.exp(-((torch.cdist(FEATURES.double(), previous.double()) / 1.5) ** 2))
    assert init_cov == pytest.approx(float(kernel.amax(1).mean()), abs=1e-12)
    empty = local_herding(FEATURES, 9, sigma=1.5, prev_rep_features=FEATURES[:0], disable_tqdm=True)
    np.testing.assert_array_equal(empty[0], maxherding(FEATURES, 9, bandwidth=1.5).numpy())


@pytest.mark.parametrize(
    ("kernel_fn", "kernel", "bandwidth"),
    [("student_t", "student_t", 0.9), (LaplaceKernel(), "laplace", 0.9), (CauchyKernel(), "cauchy", 1.0)],
)
def test_kernels(kernel_fn, kernel, bandwidth):
    picks = local_herding(FEATURES, 9, kernel_fn=kernel_fn, sigma=0.9, disable_tqdm=True)[0]
    np.testing.assert_array_equal(picks, maxherding(FEATURES, 9, kernel=kernel, bandwidth=bandwidth).numpy())


def test_arrays_do_as_well():
    array = FEATURES.numpy()
    expected = local_herding(FEATURES, 9, sigma=1.5, prev_rep_features=FEATURES[:6], disable_tqdm=True)
    given = local_herding(array, 9, sigma=1.5, device="cpu", prev_rep_features=array[:6], disable_tqdm=True)
    np.testing.assert_array_equal(given[0], expected[0])
    assert given[3] == expected[3]
    np.testing.assert_array_equal(
        GlobalHerding().greedy_select(array, 8, num_prev=10), GlobalHerding().greedy_select(FEATURES, 8, num_prev=10)
    )


def test_unknown_kernel():
    with pytest.raises(ValueError, match="`kernel_fn` must be a name"):
        local_herding(FEATURES, 3, kernel_fn=object(), disable_tqdm=True)


def test_global_selection_counts_rows_of_all_features():
    picks = GlobalHerding(device="cpu", dtype=torch.float32, seed=0).greedy_select(FEATURES, 8, num_prev=10)
    np.testing.assert_array_equal(picks, 10 + maxherding(FEATURES[10:], 8, labeled=FEATURES[:10]).numpy())
    assert picks.dtype == np.int64
    everything = GlobalHerding().greedy_select(FEATURES, 1000, num_prev=60)
    assert sorted(everything) == list(range(60, 70))
    assert len(GlobalHerding().greedy_select(FEATURES, 5, num_prev=70)) == 0
    with pytest.raises(ValueError, match="`num_prev` must be from 0 to 70"):
        GlobalHerding().greedy_select(FEATURES, 5, num_prev=71)


def test_no_random_state_is_read_or_changed():
    first = GlobalHerding(seed=1).greedy_select(FEATURES, 8)
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    state = torch.get_rng_state()
    np.testing.assert_array_equal(GlobalHerding(seed=2).greedy_select(FEATURES, 8), first)
    assert torch.equal(torch.get_rng_state(), state)
