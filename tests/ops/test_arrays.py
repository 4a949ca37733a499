"""Tables, sparse matrices, whole numbers and masks give the picks of the float array that they stand for."""

import numpy as np
import pytest
import torch

from difal_kernels import kcenter_greedy, maxherding, typiclust, uherding

WHOLE = np.random.default_rng(0).integers(-100, 100, (60, 5))
X = WHOLE.astype(np.float32)
EXPECTED = maxherding(X, 6).tolist()


def pandas_frame():
    return pytest.importorskip("pandas").DataFrame(X)


def nullable_frame():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(WHOLE).astype("Int64")


def arrow_table():
    arrow = pytest.importorskip("pyarrow")
    return arrow.table({str(i): X[:, i] for i in range(X.shape[1])})


def arrow_lists():
    arrow = pytest.importorskip("pyarrow")
    return arrow.chunked_array([arrow.array(list(part)) for part in (X[:20], X[20:])])


def arrow_column():
    arrow = pytest.importorskip("pyarrow")
    return arrow.table({"embedding": arrow.FixedSizeListArray.from_arrays(X.ravel(), X.shape[1])})


def sparse():
    return pytest.importorskip("scipy.sparse").csr_matrix(X)


class Holder:
    def __array__(self, dtype=None, copy=None):
        return X


class Exchange:
    def __dlpack__(self, **_):
        return torch.from_numpy(X).__dlpack__()

    def __dlpack_device__(self):
        return torch.from_numpy(X).__dlpack_device__()


HOLDERS = {
    **{name: lambda name=name: WHOLE.astype(name) for name in ("int8", "int16", "int32", "int64")},
    "big endian": lambda: WHOLE.astype(">i4"),
    "torch int8": lambda: torch.from_numpy(WHOLE).to(torch.int8),
    "asarray of sparse": lambda: np.asarray(sparse()),
    "array": Holder,
    "dlpack": Exchange,
    **{make.__name__: make for make in (pandas_frame, nullable_frame, arrow_table, arrow_lists, arrow_column, sparse)},
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_same_picks(make):
    value = make()
    picks = maxherding(value, 6)
    assert isinstance(picks, torch.Tensor) == isinstance(value, torch.Tensor)
    assert picks.tolist() == EXPECTED
    assert maxherding(X, 5, labeled=value).tolist() == maxherding(X, 5, labeled=X).tolist()
    assert kcenter_greedy(value, 4).tolist() == kcenter_greedy(X, 4).tolist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_unsigned_numbers(dtype):
    positive = (WHOLE + 100).astype(dtype)
    assert maxherding(positive, 6).tolist() == maxherding(positive.astype(np.float64), 6).tolist()


def test_large_whole_numbers_are_exact():
    """Differences of one, of which float32 keeps nothing."""
    rows = np.array([[2**40 + i] for i in (0, 1, 2, 50, 51, 52)])
    assert maxherding(rows, 2, bandwidth=2.0).tolist() == [1, 4]
    with pytest.raises(ValueError, match=r"up to 2\*\*53, got 11529"):
        maxherding(rows + 2**60, 2)


def test_a_column_that_is_no_number_is_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "name": ["x", "y"]})
    with pytest.raises(TypeError, match="`features` must hold numbers alone, got DataFrame with the column 'name'"):
        maxherding(frame, 1)
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": pandas.array([1, None], "Int64")})
    with pytest.raises(ValueError, match=r"`features` must be finite, got nan at index \(1, 1\)"):
        maxherding(frame, 1)


def test_dates_and_numbers_as_text_are_no_numbers():
    """NumPy makes numbers of both, nanoseconds of the dates."""
    pandas = pytest.importorskip("pandas")
    for values in (["7", "12"], pandas.to_datetime(["2020-01-01", "2021-01-01"])):
        frame = pandas.DataFrame({"a": [1.0, 2.0], "when": values})
        with pytest.raises(TypeError, match="`features` must hold numbers alone, got DataFrame with the column 'when'"):
            maxherding(frame, 1)
    frame = pandas.DataFrame({"a": pandas.array([1, 3, 2], object), "b": [0.5, 1.5, 2.5]})
    assert maxherding(frame, 2).tolist() == maxherding(frame.to_numpy(dtype=float), 2).tolist()


def test_row_numbers_among_the_columns_are_warned_of():
    """As they are left by `reset_index` and by CSV files; they may be meant."""
    pandas = pytest.importorskip("pandas")
    plain = pandas.DataFrame(X)
    with pytest.warns(UserWarning, match="has the column 'index', a different whole number in each row"):
        maxherding(plain.reset_index(), 2)
    assert maxherding(plain, 2).tolist() == maxherding(X, 2).tolist()
    same = plain.assign(id=1)  # nothing that numbers rows
    assert maxherding(same.rename(columns=str), 2).tolist() == maxherding(same.to_numpy(), 2).tolist()


def test_a_mask_that_is_not_bool_says_so():
    with pytest.raises(ValueError, match="got 0 more than once; a mask must be of type bool"):
        maxherding(X, 1, candidates=(np.arange(60) % 3 == 0).astype(np.uint8))


def test_rows_of_several_lengths_are_refused():
    arrow = pytest.importorskip("pyarrow")
    with pytest.raises(TypeError, match="rows of one length"):
        maxherding(arrow.array([[1.0, 2.0], [3.0]]), 1)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy, np.ndarray.tolist])
def test_masks_of_candidates_are_masks(make):
    """Also one of which the ones, read as indices, would be candidates 0 and 1."""
    mask = np.arange(60) >= 50
    expected = maxherding(X, 4, candidates=np.flatnonzero(mask)).tolist()
    assert maxherding(X, 4, candidates=make(mask)).tolist() == expected
    assert uherding(X, np.ones(60), 4, candidates=make(mask)).tolist() == expected
    assert set(typiclust(X, 3, candidates=make(mask)).tolist()) <= set(range(50, 60))
    with pytest.raises(ValueError, match=r"a mask of shape \(59,\); it must be \(60,\), one for each row"):
        maxherding(X, 1, candidates=make(mask[:59]))


@pytest.mark.parametrize("kernel", ["rbf", "tophat", "precomputed"])
def test_coverage_takes_over_where_nothing_is_uncertain(kernel):
    values = (
        torch.cdist(torch.from_numpy(X), torch.from_numpy(X)).div(-60).exp().numpy() if kernel == "precomputed" else X
    )
    options = {} if kernel == "precomputed" else {"bandwidth": 40.0}
    by_coverage = maxherding(values, 6, kernel=kernel, **options).tolist()
    with pytest.warns(
        UserWarning, match="`uncertainty` is zero everywhere: 6 of 6 points are picked by coverage alone"
    ):
        assert uherding(values, np.zeros(60), 6, kernel=kernel, **options).tolist() == by_coverage
    one = np.zeros(60)
    one[17] = 3.0
    with pytest.warns(UserWarning, match="is covered after 1 pick: 5 of 6 points are picked by coverage alone"):
        found = uherding(values, one, 6, kernel=kernel, return_info=True, candidates=np.arange(10, 60), **options)
    known = values[:, [17]].T if kernel == "precomputed" else values[[17]]
    rest = [i for i in range(10, 60) if i != 17]
    expected = maxherding(values, 5, kernel=kernel, labeled=known, candidates=rest, **options).tolist()
    if kernel != "tophat":
        assert found.indices.tolist() == [17, *expected]
    assert found.gains[0] > 0
    assert not found.gains[1:].any()
