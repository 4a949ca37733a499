import numpy as np
import pytest

pytest.importorskip("modAL", reason="modAL-python is not installed")

from modAL.models import ActiveLearner, Committee
from scipy import sparse
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from difal.adapters.modal import maxherding_sampling, uherding_sampling
from difal_kernels import maxherding


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    taught = [0, 60, 110, 149]
    rest = np.setdiff1d(np.arange(150), taught)
    return X[taught], y[taught], X[rest], y[rest]


def learner(iris, strategy=maxherding_sampling, estimator=None, **options):
    X, y = iris[:2]
    return ActiveLearner(estimator or LogisticRegression(), strategy, X_training=X, y_training=y, **options)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_query_gives_the_picks_of_maxherding(iris, count):
    X, _, pool, _ = iris
    expected = maxherding(pool, count, labeled=X, return_info=True)
    picks, instances, gains = learner(iris).query(pool, n_instances=count, return_metrics=True)
    np.testing.assert_array_equal(picks, expected.indices)
    np.testing.assert_array_equal(instances, pool[expected.indices])
    np.testing.assert_allclose(gains, expected.gains)


def test_a_round_moves_the_choice_on(iris):
    _, _, pool, truth = iris
    X, y, *_ = iris
    first, instances = learner(iris).query(pool, n_instances=3)
    more = np.concatenate([X, instances]), np.concatenate([y, truth[first]])
    again, _ = learner(more).query(pool, n_instances=3)  # not teach(), which needs a scikit-learn before 1.8
    assert not set(first) & set(again)


@pytest.mark.parametrize("uncertainty", ["margin", "entropy", "least_confident"])
def test_uncertainty(iris, uncertainty):
    X, _, pool, _ = iris
    al = learner(iris, uherding_sampling)
    p = np.sort(al.predict_proba(pool), axis=1)
    weights = {
        "margin": 1 - (p[:, -1] - p[:, -2]),
        "entropy": -(p * np.log(p)).sum(1),
        "least_confident": 1 - p[:, -1],
    }[uncertainty]
    picks, _ = al.query(pool, n_instances=5, uncertainty=uncertainty)
    np.testing.assert_array_equal(picks, maxherding(pool, 5, labeled=X, weights=weights))
    with pytest.raises(ValueError, match="`uncertainty` must be one of"):
        uherding_sampling(al, pool, uncertainty="guess")


def test_committee_sparse_and_transformed_pools(iris):
    X, _, pool, _ = iris
    expected = maxherding(pool, 4, labeled=X)
    committee = Committee([learner(iris), learner(iris)], query_strategy=maxherding_sampling)
    np.testing.assert_array_equal(committee.query(pool, n_instances=4)[0], expected)
    picks, _ = maxherding_sampling(learner(iris), sparse.csr_matrix(pool), 4)
    np.testing.assert_array_equal(picks, expected)
    scaled = learner(iris, estimator=make_pipeline(StandardScaler(), LogisticRegression()), on_transformed=True)
    scaler = scaled.estimator.steps[0][1]
    picks, _ = scaled.query(pool, n_instances=4)
    np.testing.assert_array_equal(picks, maxherding(scaler.transform(pool), 4, labeled=scaler.transform(X)))


def test_options_go_through(iris):
    _, _, pool, _ = iris
    picks, _ = learner(iris).query(pool, n_instances=4, labeled=None, kernel="tophat", bandwidth=0.8)
    np.testing.assert_array_equal(picks, maxherding(pool, 4, kernel="tophat", bandwidth=0.8))
    picks, _ = learner(iris).query(pool, n_instances=4, random_tie_break=True)
    np.testing.assert_array_equal(picks, learner(iris).query(pool, n_instances=4)[0])
    with pytest.raises(ValueError, match="`n_instances` must be from 0 to 146"):
        maxherding_sampling(learner(iris), pool, 1000)
    with pytest.raises(ValueError, match="`n_instances` must be from 0 to 0"):
        maxherding_sampling(learner(iris), pool[:0], 1)


@pytest.mark.parametrize("strategy", [maxherding_sampling, uherding_sampling])
def test_tables_lists_and_text_labels(iris, strategy):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y, pool, _ = iris
    expected = learner(iris, strategy).query(pool, n_instances=5)[0]
    table = pandas.DataFrame(pool, index=np.arange(len(pool))[::-1])
    of_table = ActiveLearner(LogisticRegression(), strategy, X_training=pandas.DataFrame(X), y_training=y)
    picks, rows = of_table.query(table, n_instances=5)
    np.testing.assert_array_equal(picks, expected)
    np.testing.assert_array_equal(rows, pool[expected])
    of_lists = learner((X.tolist(), np.array(["a", "b", "c"])[y].tolist()), strategy)
    np.testing.assert_array_equal(of_lists.query(pool.tolist(), n_instances=5)[0], expected)


def test_all_that_a_committee_was_taught_counts(iris):
    X, y, pool, _ = iris
    members = [learner((X, y)), learner((pool[:50:7], np.array([0, 0, 0, 0, 0, 1, 1, 2])))]
    committee = Committee(members, query_strategy=maxherding_sampling)
    expected = maxherding(pool, 6, labeled=np.concatenate([X, pool[:50:7]]))
    np.testing.assert_array_equal(committee.query(pool, n_instances=6)[0], expected)
