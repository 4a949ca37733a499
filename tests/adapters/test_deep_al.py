"""The samplers, by hand and called as those codebases do, with a stand-in for their feature loader."""

import sys
import types

import numpy as np
import pytest
import torch

from difal.adapters.deep_al import MaxHerding, ProbCover, UHerding
from difal_kernels import maxherding

CFG = {"DATASET": {"NAME": "CIFAR10"}, "RNG_SEED": 1}
FEATURES = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
LABELED = np.array([88, 2, 41])
UNLABELED = np.setdiff1d(np.arange(0, 90, 2), LABELED).astype(str)  # some samples are in neither set; these are text


def check(answer, picks, unlabeled):
    active, rest = answer
    np.testing.assert_array_equal(active, picks)
    np.testing.assert_array_equal(rest, np.setdiff1d(unlabeled.astype(int), picks))
    assert active.dtype == rest.dtype == np.int64


def test_select_samples_gives_indices_into_the_whole_set():
    answer = MaxHerding(None, LABELED, UNLABELED, 6, features=FEATURES, bandwidth=1.5).select_samples()
    relevant = np.concatenate([LABELED, UNLABELED.astype(int)])
    picks = maxherding(
        FEATURES[relevant], 6, labeled=FEATURES[LABELED], candidates=np.arange(3, len(relevant)), bandwidth=1.5
    )
    check(answer, relevant[picks], UNLABELED)


def test_nothing_labeled_and_uncertainty():
    weights = np.random.default_rng(1).random(90)
    unlabeled = np.arange(10, 80)
    answer = UHerding(None, [], unlabeled, 8, weights, features=FEATURES).select_samples()
    check(answer, 10 + maxherding(FEATURES[10:80], 8, weights=weights[10:80]), unlabeled)


def test_probcover_counts_newly_covered_samples():
    unlabeled = np.arange(90)
    active, rest = ProbCover(None, [], unlabeled, 5, delta=1.2, features=FEATURES).select_samples()
    near = np.linalg.norm(FEATURES[:, None] - FEATURES[None], axis=2) < 1.2
    covered = np.zeros(90, dtype=bool)
    for pick in active:
        new = (near & ~covered[:, None]).sum(0)
        assert pick == new.argmax()
        covered |= near[:, pick]
    assert len(rest) == 85


def test_features_come_from_the_codebase(monkeypatch):
    with pytest.raises(ImportError, match="give `features=`"):
        MaxHerding(CFG, [], np.arange(90), 4)
    package = {name: types.ModuleType(name) for name in ("pycls", "pycls.datasets", "pycls.datasets.utils")}
    package["pycls.datasets.utils"].load_features = lambda name, seed: (
        FEATURES if (name, seed) == ("CIFAR10", 1) else None
    )
    for name, module in package.items():
        monkeypatch.setitem(sys.modules, name, module)
    answer = MaxHerding(CFG, [], np.arange(90), 4).select_samples()
    check(answer, maxherding(FEATURES, 4), np.arange(90))


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "budget", "message"),
    [
        ([0], [1, 2], 3, "`budgetSize` must be from 0 to 2"),
        ([], [], 1, "`budgetSize` must be from 0 to 0"),
        ([0], [1, 90], 1, "`uSet` must hold indices from 0 to 89, got 90"),
        ([-1], [1, 2], 1, "`lSet` must hold indices from 0 to 89, got -1"),
        ([0], [1, 2, 1], 1, "`uSet` must not repeat, got 1 more than once"),
        ([0, 2], [1, 2], 1, "`uSet` must not share samples with `lSet`, got 2 in both"),
        ([[0, 2]], [1], 1, "`lSet` must be 1-D"),
    ],
)
def test_errors(labeled, unlabeled, budget, message):
    with pytest.raises(ValueError, match=message):
        MaxHerding(None, labeled, unlabeled, budget, features=FEATURES)


def test_uncertainty_is_of_the_whole_data_set():
    with pytest.raises(ValueError, match=r"for each of the 90 samples of the whole data set, got shape \(89,\)"):
        UHerding(None, [0], np.arange(1, 90), 3, np.ones(89), features=FEATURES)
    given = [UHerding(None, [0], np.arange(1, 90), 3, w, features=FEATURES) for w in ([1] * 90, torch.ones(90))]
    expected = MaxHerding(None, [0], np.arange(1, 90), 3, features=torch.from_numpy(FEATURES)).select_samples()[0]
    for sampler in given:
        np.testing.assert_array_equal(sampler.select_samples()[0], expected)
