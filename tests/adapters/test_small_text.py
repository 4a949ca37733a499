import numpy as np
import pytest
import torch

pytest.importorskip("small_text", reason="small-text is not installed")

from scipy import sparse
from sklearn.preprocessing import normalize
from small_text import (
    ConfidenceEnhancedLinearSVC,
    PoolExhaustedException,
    SklearnClassifier,
    SklearnDataset,
)

from difal.adapters.small_text import MaxHerdingStrategy, UHerdingStrategy
from difal_kernels import maxherding

pytestmark = pytest.mark.filterwarnings("default")


class Embeds(SklearnClassifier):
    """A fitted classifier of the library, with the embedding that neural ones give."""

    def embed(self, dataset, pbar=None):
        return np.asarray(dataset.x.todense())


class EmbedsWithProba(Embeds):
    def embed(self, dataset, return_proba=False, pbar=None):
        return super().embed(dataset), self.predict_proba(dataset)


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(60, 8)))
    y = (x[:, 0] > x[:, 1]).astype(int)
    labeled = np.array([50, 3, 20, 11])
    unlabeled = np.setdiff1d(np.arange(60), labeled)[::-1].copy()
    return SklearnDataset(sparse.csr_matrix(x), y, target_labels=np.array([0, 1])), unlabeled, labeled, y[labeled]


def fitted(kind, pool):
    dataset, _, labeled, _ = pool
    clf = kind(ConfidenceEnhancedLinearSVC(), 2)
    clf.fit(dataset[labeled])
    return clf


@pytest.mark.parametrize("kind", [Embeds, EmbedsWithProba])
def test_query_is_maxherding_given_the_labeled(pool, kind):
    dataset, unlabeled, labeled, y = pool
    picks = MaxHerdingStrategy(bandwidth=0.5).query(fitted(kind, pool), dataset, unlabeled, labeled, y, n=7)
    x = normalize(np.asarray(dataset.x.todense()))
    order = np.concatenate([unlabeled, labeled])
    expected = maxherding(x[order], 7, labeled=x[labeled], candidates=np.arange(len(unlabeled)), bandwidth=0.5)
    np.testing.assert_array_equal(picks, order[expected])
    assert not set(picks) & set(labeled)


def test_given_embeddings_nothing_labeled_and_raw(pool):
    dataset, *_ = pool
    everything = np.arange(60)
    x = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    none = np.array([], dtype=int)
    strategy = MaxHerdingStrategy(normalize=False, kernel="laplace")
    picks = strategy.query(None, dataset, everything, none, none, n=5, embeddings=x)
    np.testing.assert_array_equal(picks, maxherding(x, 5, kernel="laplace"))
    assert str(strategy) == "MaxHerdingStrategy(normalize=False)"
    with pytest.raises(PoolExhaustedException):
        strategy.query(None, dataset, everything, none, none, n=61, embeddings=x)


@pytest.mark.parametrize("strategy", [MaxHerdingStrategy(), MaxHerdingStrategy(normalize=False), UHerdingStrategy()])
def test_embeddings_of_other_kinds(pool, strategy):
    dataset, unlabeled, labeled, y = pool
    clf = fitted(Embeds, pool)
    x = np.asarray(dataset.x.todense())[np.concatenate([unlabeled, labeled])]
    expected = strategy.query(clf, dataset, unlabeled, labeled, y, n=7, embeddings=x)
    for given in (sparse.csr_matrix(x), torch.from_numpy(x)):
        picks = strategy.query(clf, dataset, unlabeled, labeled, y, n=7, embeddings=given)
        np.testing.assert_array_equal(picks, expected)
    with pytest.raises(ValueError, match="`embeddings` must have 60 rows, the unlabeled instances and then"):
        strategy.query(clf, dataset, unlabeled, labeled, y, n=7, embeddings=x[:56])


@pytest.mark.parametrize("kind", [Embeds, EmbedsWithProba])
def test_uherding_weighs_by_entropy(pool, kind):
    dataset, unlabeled, labeled, y = pool
    clf = fitted(kind, pool)
    picks = UHerdingStrategy(bandwidth=0.5).query(clf, dataset, unlabeled, labeled, y, n=7)
    order = np.concatenate([unlabeled, labeled])
    x = normalize(np.asarray(dataset.x.todense()))
    p = clf.predict_proba(dataset[order])
    weights = -(p * np.log(p)).sum(1)
    expected = maxherding(
        x[order], 7, labeled=x[labeled], candidates=np.arange(len(unlabeled)), weights=weights, bandwidth=0.5
    )
    np.testing.assert_array_equal(picks, order[expected])
