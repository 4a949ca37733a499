import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from difal.adapters.facility_location import FacilityLocationSelection
from difal_kernels import maxherding

X = np.random.default_rng(0).normal(size=(150, 6))
KERNEL = np.exp(-((X[:, None] - X[None]) ** 2).sum(2) / 4)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("optimizer", ["naive", "lazy"])
@pytest.mark.parametrize("initial", [None, [3, 70, 5]])
@pytest.mark.parametrize("metric", ["precomputed", "euclidean"])
def test_ranking_and_gains_are_apricots(optimizer, initial, metric):
    apricot = pytest.importorskip("apricot", reason="apricot-select is not installed")
    if metric == "euclidean" and initial:
        initial = np.array(initial)
    data = KERNEL if metric == "precomputed" else X
    theirs = apricot.FacilityLocationSelection(25, metric=metric, optimizer=optimizer, initial_subset=initial).fit(data)
    ours = FacilityLocationSelection(25, metric=metric, initial_subset=initial).fit(data)
    np.testing.assert_array_equal(ours.ranking, theirs.ranking)
    np.testing.assert_allclose(ours.gains, theirs.gains, rtol=1e-8)
    np.testing.assert_array_equal(ours.transform(X), theirs.transform(X))


def test_features_and_their_kernel_agree():
    of_features = FacilityLocationSelection(20, bandwidth=2.0).fit(X)
    of_kernel = FacilityLocationSelection(20, metric="precomputed").fit(KERNEL)
    np.testing.assert_array_equal(of_features.ranking, of_kernel.ranking)
    np.testing.assert_allclose(of_features.gains, of_kernel.gains, rtol=1e-9)
    covered = KERNEL[:, of_features.ranking].max(1).sum()
    assert of_features.gains.sum() == pytest.approx(covered)


def test_estimator_conventions():
    selector = FacilityLocationSelection(12, bandwidth=1.5)
    with pytest.raises(ValueError, match="call fit first"):
        selector.transform(X)
    copy = clone(selector)
    assert copy.get_params() == selector.get_params()
    y, w = np.arange(150), np.linspace(0, 1, 150)
    rows, labels, weights = selector.fit_transform(X, y, w)
    np.testing.assert_array_equal(labels, maxherding(X, 12, bandwidth=1.5, weights=w))
    np.testing.assert_array_equal(rows, X[labels])
    np.testing.assert_array_equal(selector.subset, rows)
    np.testing.assert_array_equal(weights, w[labels])
    only_labels = selector.transform(X, y)
    np.testing.assert_array_equal(only_labels[1], labels)
    piped = make_pipeline(StandardScaler(), FacilityLocationSelection(5)).fit_transform(X)
    assert piped.shape == (5, 6)


def test_integers_and_initial_rows():
    counts = np.random.default_rng(1).integers(0, 9, size=(40, 3))
    np.testing.assert_array_equal(
        FacilityLocationSelection(6).fit(counts).ranking, maxherding(counts.astype(np.float64), 6)
    )
    ranking = FacilityLocationSelection(37, initial_subset=[0, 1, 2]).fit(counts).ranking
    assert sorted(ranking) == list(range(3, 40))
    with pytest.raises(ValueError, match="`initial_subset` must be row indices"):
        FacilityLocationSelection(5, initial_subset=[40]).fit(counts)
    with pytest.raises(ValueError, match="`kernel` must be one of"):
        FacilityLocationSelection(5, metric="manhattan").fit(counts)
    with pytest.raises(ValueError, match="`budget`"):
        FacilityLocationSelection(41).fit(counts)
