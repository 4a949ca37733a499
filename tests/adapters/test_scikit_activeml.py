"""The scikit-activeml strategies: the library's own MaxHerding is the oracle, its conventions the contract."""

import inspect

import numpy as np
import pytest

skactiveml = pytest.importorskip("skactiveml", reason="scikit-activeml is not installed")

from skactiveml.base import SingleAnnotatorPoolQueryStrategy
from skactiveml.classifier import ParzenWindowClassifier
from skactiveml.pool import MaxHerding, RandomSampling, SubSamplingWrapper
from skactiveml.utils import MISSING_LABEL, call_func
from sklearn.base import clone

from difal.adapters.scikit_activeml import MaxHerdingQuery, UHerdingQuery
from difal_kernels import maxherding
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES

pytestmark = pytest.mark.filterwarnings("default")
STRATEGIES = [MaxHerdingQuery, UHerdingQuery]


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5)) + 3 * rng.integers(0, 3, size=(120, 1))
    truth = (X[:, 0] > 3).astype(float)
    y = np.full(120, np.nan)
    y[[3, 40, 77]] = truth[[3, 40, 77]]
    return X, y


def query(strategy, X, y, **options):
    """As the library's loops call any strategy: each takes what it knows."""
    clf = ParzenWindowClassifier(classes=[0, 1], missing_label=strategy.missing_label)
    return call_func(strategy.query, X=X, y=y, clf=clf, **options)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("labels", [True, False])
def test_each_pick_is_the_librarys_best_and_each_gain_its_utility(pool, normalize, labels):
    """Step by step, for two points that gain by each other alone tie, and the library draws among ties."""
    X, y = pool
    y = y.copy() if labels else np.full(len(y), np.nan)
    bandwidth = 0.5 if normalize else 3.0
    theirs = MaxHerding(normalize_samples=normalize, metric="rbf", metric_dict={"gamma": bandwidth**-2})
    ours = MaxHerdingQuery(normalize_samples=normalize, bandwidth=bandwidth)
    picks, gains = ours.query(X, y, batch_size=25, return_utilities=True)
    unlabeled = np.isnan(y).sum()
    for pick, gain in zip(picks, gains, strict=True):
        _, utility = theirs.query(X, y, return_utilities=True)
        utility = utility[0] * np.isnan(y).sum() / unlabeled  # theirs is the mean over those that are still unlabeled
        np.testing.assert_allclose(gain, utility, atol=1e-12)
        assert utility[pick] >= np.nanmax(utility) - 1e-14
        y[pick] = 0


@pytest.mark.parametrize("kernel", OF_FEATURES)
def test_utilities_of_the_picks_are_their_gains(pool, kernel):
    X, y = pool
    picks, utilities = MaxHerdingQuery(False, kernel, 2.0).query(X, y, batch_size=9, return_utilities=True)
    known = ~np.isnan(y)
    selection = maxherding(
        X, 9, labeled=X[known], candidates=np.flatnonzero(~known), kernel=kernel, bandwidth=2.0, return_info=True
    )
    np.testing.assert_array_equal(picks, selection.indices)
    gains = selection.gains * len(X) / np.isnan(y).sum()
    np.testing.assert_allclose(utilities[np.arange(9), picks], gains, atol=1e-12)
    np.testing.assert_allclose(np.nanmax(utilities, axis=1), gains, atol=1e-12)


def test_uncertainty_weighs_the_coverage(pool):
    X, y = pool
    clf = ParzenWindowClassifier(classes=[0, 1])
    picks, gains = UHerdingQuery("entropy", False, bandwidth=2.0).query(X, y, clf, batch_size=6, return_utilities=True)
    p = clf.fit(X, y).predict_proba(X)
    weights = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    known = ~np.isnan(y)
    expected = maxherding(
        X, 6, labeled=X[known], candidates=np.flatnonzero(~known), weights=weights, bandwidth=2.0, return_info=True
    )
    np.testing.assert_array_equal(picks, expected.indices)
    np.testing.assert_allclose(gains[np.arange(6), picks], expected.gains * 120 / 117, atol=1e-12)
    plain = MaxHerdingQuery(False, bandwidth=2.0).query(X, y, batch_size=6)
    assert not np.array_equal(picks, plain)


def test_nothing_labeled_makes_uherding_maxherding(pool):
    X, _ = pool
    y = np.full(len(X), np.nan)
    np.testing.assert_array_equal(
        query(UHerdingQuery(), X, y, batch_size=7), query(MaxHerdingQuery(), X, y, batch_size=7)
    )


@pytest.mark.parametrize("make", STRATEGIES)
class TestConventions:
    def test_shape_of_the_class(self, make):
        assert issubclass(make, SingleAnnotatorPoolQueryStrategy)
        parameters = inspect.signature(make).parameters
        assert list(parameters)[-2:] == ["missing_label", "random_state"]
        assert np.isnan(parameters["missing_label"].default)
        assert {"candidates", "batch_size", "return_utilities"} <= set(inspect.signature(make.query).parameters)

    def test_clone_and_parameters(self, make, pool):
        strategy = make(bandwidth=0.7, kernel="laplace", random_state=3)
        copy = clone(strategy)
        assert copy is not strategy
        assert copy.get_params() == strategy.get_params()
        assert copy.set_params(bandwidth=0.9).bandwidth == 0.9
        before = strategy.get_params()
        X, y = pool
        kept = X.copy(), y.copy()
        first = query(strategy, X, y, batch_size=4)
        assert strategy.get_params() == before
        np.testing.assert_array_equal(first, query(strategy, X, y, batch_size=4))
        np.testing.assert_array_equal(X, kept[0])
        np.testing.assert_array_equal(y, kept[1])

    def test_candidates(self, make, pool):
        X, y = pool
        allowed = np.array([90, 5, 60, 17])
        picks, utilities = query(make(), X, y, candidates=allowed, batch_size=2, return_utilities=True)
        assert set(picks) <= set(allowed)
        assert utilities.shape == (2, len(X))
        assert set(np.flatnonzero(~np.isnan(utilities[0]))) == set(allowed)
        assert np.isnan(utilities[1, picks[0]])
        others = X[allowed] + 0.1
        picks, utilities = query(make(), X, y, candidates=others, batch_size=3, return_utilities=True)
        assert picks.max() < 4
        assert utilities.shape == (3, 4)

    def test_labeled_samples_are_not_queried(self, make, pool):
        X, y = pool
        picks, utilities = query(make(), X, y, batch_size=30, return_utilities=True)
        assert np.isnan(y[picks]).all()
        assert np.isnan(utilities[:, ~np.isnan(y)]).all()
        assert len(set(picks)) == 30
        assert picks.dtype.kind == "i"

    def test_candidates_as_indices_or_as_samples_are_worth_the_same(self, make, pool):
        """The library's template demands it of its strategies: utilities of the first step, in three ways."""
        X, y = pool
        unlabeled = np.flatnonzero(np.isnan(y))
        _, of_all = query(make(), X, y, return_utilities=True)
        _, of_indices = query(make(), X, y, candidates=unlabeled, return_utilities=True)
        np.testing.assert_array_equal(of_all, of_indices)
        _, of_samples = query(make(), X, y, candidates=X[unlabeled], return_utilities=True)
        np.testing.assert_allclose(of_samples[0], of_all[0, unlabeled], rtol=1e-12)

    @pytest.mark.parametrize(
        ("missing", "classes", "dtype"),
        [
            (np.nan, [1.0, 2.0], float),
            (0, [1, 2], int),
            (-1, [0, 1], int),
            (None, [1, 2], object),
            (None, ["A", "B"], object),
            ("", ["A", "B"], str),
            ("none", ["A", "B"], "U4"),
        ],
    )
    def test_missing_labels_of_other_kinds(self, make, pool, missing, classes, dtype):
        X, known = pool
        y = np.full(len(X), missing, dtype=dtype)
        for index in np.flatnonzero(~np.isnan(known)):
            y[index] = classes[int(known[index])]
        clf = ParzenWindowClassifier(classes=classes, missing_label=missing)
        for labels in (y, y.tolist()):
            picks = call_func(make(missing_label=missing).query, X=X, y=labels, clf=clf, batch_size=5)
            np.testing.assert_array_equal(picks, query(make(), X, known, batch_size=5))

    def test_everything_or_nearly_everything_labeled(self, make, pool):
        X, _ = pool
        y = np.zeros(len(X))
        with pytest.warns(UserWarning, match="batch_size"):
            picks, utilities = query(make(), X, y, return_utilities=True)
        assert picks.shape == (0,)
        assert utilities.shape == (0, len(X))
        y[17] = np.nan
        assert query(make(), X, y).tolist() == [17]

    def test_tables_lists_and_whole_numbers(self, make, pool):
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")
        X, y = pool
        X = np.round(X).astype(int)
        expected = query(make(normalize_samples=False), X.astype(float), y, batch_size=4)
        turned = np.arange(len(X))[::-1]
        table, column = pandas.DataFrame(X, index=turned), pandas.Series(y, index=turned)
        for given in ((X, y), (X.tolist(), y.tolist()), (table, column)):
            np.testing.assert_array_equal(query(make(normalize_samples=False), *given, batch_size=4), expected)

    def test_more_than_there_is(self, make, pool):
        X, y = pool
        with pytest.warns(UserWarning, match="batch_size"):
            picks = query(make(), X, y, candidates=[1, 2], batch_size=5)
        assert sorted(picks) == [1, 2]

    @pytest.mark.parametrize(
        ("parameters", "options"),
        [
            ({"bandwidth": -1.0}, {}),
            ({"kernel": "no such kernel"}, {}),
            ({"kernel": "precomputed"}, {}),
            ({"missing_label": "text"}, {}),
            ({}, {"candidates": [500]}),
            ({}, {"batch_size": 0}),
            ({}, {"return_utilities": "yes"}),
            ({"random_state": "text"}, {}),
            ({"normalize_samples": 1}, {}),
            ({"bandwidth": np.nan}, {}),
            ({}, {"candidates": [-1]}),
            ({}, {"candidates": np.arange(119) < 9}),
            ({}, {"candidates": np.ones((4, 2))}),
        ],
    )
    def test_errors(self, make, pool, parameters, options):
        X, y = pool
        with pytest.raises((ValueError, TypeError, IndexError)):
            query(make(**parameters), X, y, **options)

    def test_inside_a_wrapper(self, make, pool):
        X, y = pool
        wrapped = SubSamplingWrapper(make(), max_candidates=20, random_state=0)
        clf = ParzenWindowClassifier(classes=[0, 1])
        options = {"clf": clf} if make is UHerdingQuery else {}
        picks = wrapped.query(X, y, batch_size=3, **options)
        assert len(set(picks)) == 3


def test_uherding_checks_its_own_arguments(pool):
    X, y = pool
    clf = ParzenWindowClassifier(classes=[0, 1])
    with pytest.raises(ValueError, match="`method` must be"):
        UHerdingQuery(method="guess").query(X, y, clf)
    with pytest.raises(TypeError):
        UHerdingQuery().query(X, y, RandomSampling())
    with pytest.raises(TypeError):
        UHerdingQuery().query(X, y, clf, fit_clf="no")
    assert MISSING_LABEL is not None
