"""Guidance that says nothing, masks for indices, and sparse input: the same in every adapter."""

import numpy as np
import pytest

from difal_kernels import maxherding

X = np.random.default_rng(0).normal(size=(60, 4))
PICKS = maxherding(X, 5).tolist()
warned = pytest.warns(UserWarning, match="`uncertainty` is zero everywhere: 5 of 5 points are picked by coverage alone")


def skactiveml():
    pytest.importorskip("skactiveml", reason="scikit-activeml is not installed")
    from skactiveml.classifier import SklearnClassifier
    from sklearn.dummy import DummyClassifier

    from difal.adapters.scikit_activeml import UHerdingQuery

    clf = SklearnClassifier(DummyClassifier(strategy="prior"), classes=[0, 1])
    y = np.full(60, np.nan)
    y[59] = 0  # one labeled class: the classifier is sure of it everywhere
    query = UHerdingQuery(normalize_samples=False)
    return query.query(X, y, clf, batch_size=5).tolist(), maxherding(
        X, 5, labeled=X[59:], candidates=range(59)
    ).tolist()


def modal():
    pytest.importorskip("modAL", reason="modAL is not installed")
    from difal.adapters import modal

    class Sure:
        X_training = None

    modal.UNCERTAINTIES["sure"] = lambda learner, pool: np.zeros(len(pool))
    try:
        return modal.uherding_sampling(Sure(), X, 5, "sure")[0].tolist(), PICKS
    finally:
        del modal.UNCERTAINTIES["sure"]


def deep_al():
    from difal.adapters.deep_al import UHerding

    sampler = UHerding(None, [], np.arange(60), 5, np.zeros(60), features=X)
    return sampler.select_samples()[0].tolist(), PICKS


def small_text():
    pytest.importorskip("small_text", reason="small-text is not installed")
    from difal.adapters.small_text import UHerdingStrategy

    sure = np.tile([1.0, 0.0], (60, 1))
    strategy = UHerdingStrategy(normalize=False)
    return strategy.sample(None, None, np.arange(60), np.arange(0), None, 5, X, sure).tolist(), PICKS


def facility_location():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from difal.adapters.facility_location import FacilityLocationSelection

    return FacilityLocationSelection(5).fit(X, sample_weight=np.zeros(60)).ranking.tolist(), PICKS


def baal():
    pytest.importorskip("baal", reason="Baal is not installed")
    from difal.adapters.baal import MaxHerding

    return MaxHerding(5, weights=np.zeros(60)).get_ranks(X)[0][:5].tolist(), PICKS


@pytest.mark.parametrize("adapter", [skactiveml, modal, deep_al, small_text, facility_location, baal])
def test_where_nothing_is_uncertain_coverage_takes_over(adapter):
    with warned:
        picks, expected = adapter()
    assert picks == expected


MASK = np.arange(60) % 3 == 0


def test_masks_are_masks_in_every_adapter():
    from difal.adapters.deep_al import MaxHerding

    torch = pytest.importorskip("torch")
    by_index = MaxHerding(None, np.flatnonzero(MASK), np.flatnonzero(~MASK), 5, features=X).select_samples()
    by_mask = MaxHerding(None, MASK, ~MASK, 5, features=X).select_samples()
    assert all(np.array_equal(a, b) for a, b in zip(by_index, by_mask, strict=True))
    with pytest.raises(ValueError, match=r"`lSet` is a mask of shape \(59,\); it must be \(60,\)"):
        MaxHerding(None, MASK[:59], ~MASK, 5, features=X)
    from difal.adapters.anomalib import KCenterGreedy

    greedy = KCenterGreedy(torch.from_numpy(X), 0.1)
    for given in (MASK, MASK.tolist(), torch.from_numpy(MASK)):
        assert greedy.select_coreset_idxs(given) == greedy.select_coreset_idxs(np.flatnonzero(MASK).tolist())


def test_indices_that_are_not_whole_are_refused():
    from difal.adapters.deep_al import MaxHerding

    same = MaxHerding(None, ["0", "1"], np.arange(2.0, 60.0), 5, features=X).select_samples()[0]
    assert np.array_equal(same, MaxHerding(None, [0, 1], np.arange(2, 60), 5, features=X).select_samples()[0])
    for wrong in ([0.5], [np.nan], ["a"], [None]):
        with pytest.raises(ValueError, match="`lSet` must be whole numbers, got"):
            MaxHerding(None, np.array(wrong), np.arange(2, 60), 5, features=X)


def test_masks_of_initial_subsets():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from difal.adapters.facility_location import FacilityLocationSelection

    by_mask = FacilityLocationSelection(5, initial_subset=MASK).fit(X).ranking
    assert np.array_equal(by_mask, FacilityLocationSelection(5, initial_subset=np.flatnonzero(MASK)).fit(X).ranking)
    with pytest.raises(ValueError, match=r"`initial_subset` is a mask of shape \(2,\)"):
        FacilityLocationSelection(5, initial_subset=[True, False]).fit(X)


def test_masks_of_candidates():
    pytest.importorskip("skactiveml", reason="scikit-activeml is not installed")
    from difal.adapters.scikit_activeml import MaxHerdingQuery

    y = np.full(60, np.nan)
    by_mask = MaxHerdingQuery().query(X, y, candidates=MASK, batch_size=4)
    assert np.array_equal(by_mask, MaxHerdingQuery().query(X, y, candidates=np.flatnonzero(MASK), batch_size=4))
