"""MaxHerding's arguments: what each error says, before any work; dispatch, limits and progress."""

import numpy as np
import pytest
import torch

from difal_kernels import BackendUnavailableError, explain, kcenter_greedy, maxherding
from difal_kernels.ops.maxherding.problem import prepare
from difal_kernels.select.arguments import parse


def blobs(n, d=24):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def test_explain_and_dispatch(monkeypatch):
    text = explain(maxherding, blobs(100), 10)
    first, chosen, plan, *others = text.splitlines()
    assert (first, chosen) == ("maxherding on cpu", "-> cpu: can run")
    assert "100 x 100" in plan
    assert [line.partition(":")[0].strip() for line in others] == ["reference", "triton", "cuda"]
    assert explain("maxherding", blobs(100), 10, backend="reference").splitlines()[1] == "-> reference: can run"
    with pytest.raises(BackendUnavailableError, match="no 'triton' implementation"):
        kcenter_greedy(blobs(10), 1, backend="triton")
    with pytest.raises(ValueError, match="`op` must be one of"):
        explain("herding", blobs(10), 1)
    from difal_kernels.ops.maxherding.backends import cpu

    monkeypatch.setattr(cpu._cpu, "unavailable", lambda: "not built; reinstall with a compiler")
    with pytest.raises(BackendUnavailableError, match="reinstall with a compiler"):
        maxherding(blobs(10), 1, backend="cpu")
    assert maxherding(blobs(10), 1, return_info=True).backend == "reference"


def test_memory_limit_is_kept():
    x = blobs(500)
    with pytest.raises(ValueError, match=r"`memory_limit` is 1000 bytes and this selection of 500 points needs"):
        maxherding(x, 10, memory_limit=1000)
    assert torch.equal(maxherding(x, 10, memory_limit=10_000_000), maxherding(x, 10))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("1KB", 1000),
        ("1 KiB", 1024),
        ("1.5k", 1500),
        ("2GiB", 2 << 30),
        (".5Mib", 1 << 19),
        ("1tb", 10**12),
    ],
)
def test_memory_limit_as_text(text, size):
    """Python and the command line read the same text alike."""
    options = {"kernel": "rbf", "bandwidth": 1.0}
    assert prepare(blobs(5), 1, memory_limit=text, **options).memory_limit == size
    assert parse(["x.npy", "--budget", "1", "--out", "-", "--memory", text]).memory == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "1.2.3GB", "8GBB", "0GB", "1e3", "9" * 400, "٣GB"])
def test_text_that_is_no_amount_of_memory(text, capsys):
    with pytest.raises(ValueError, match=r"^`memory_limit`: .* is no amount of memory; write 8GiB, 500MB or 2G$"):
        maxherding(X, 1, memory_limit=text)
    with pytest.raises(SystemExit, match="2"):
        parse(["x.npy", "--budget", "1", "--out", "-", f"--memory={text}"])
    assert "is no amount of memory" in capsys.readouterr().err


def test_progress_is_shown_on_request(capsys):
    maxherding(blobs(100), 40, progress=True)
    captured = capsys.readouterr()
    assert "maxherding" in captured.err
    assert captured.out == ""
    maxherding(blobs(100), 40)
    assert capsys.readouterr().err == ""


X = torch.ones(6, 2)
NAN = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
W = torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0, 1.0])
B = torch.ones(2, 6, 2)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            TypeError,
            "`features` must be a torch.Tensor or numpy.ndarray, got list",
            lambda: maxherding([[1.0]], 1),
        ),
        (TypeError, "`features` must have dtype", lambda: maxherding(X * 1j, 1)),
        (ValueError, r"`features` must be whole numbers up to 2\*\*53", lambda: maxherding(X.long() + 2**60, 1)),
        (TypeError, r"got indices of shape \(2,\); give features\[labeled\]", lambda: maxherding(X, 1, labeled=[0, 1])),
        (TypeError, r"got a mask of shape \(6,\); give features", lambda: maxherding(X, 1, labeled=X[:, 0] > 0)),
        (ValueError, r"`candidates` is a mask of shape \(2,\)", lambda: maxherding(X, 1, candidates=[True, False])),
        (
            TypeError,
            r"`budget` must be an int, got ndarray of shape \(5000,\)$",
            lambda: maxherding(X, np.ones(5000)),
        ),
        (TypeError, "`features` must hold numbers", lambda: maxherding(np.array([["a"]]), 1)),
        (TypeError, "`features` must be a dense tensor", lambda: maxherding(X.to_sparse(), 1)),
        (ValueError, r"`features` must be 2-D .* got shape \(3,\)", lambda: maxherding(torch.ones(3), 1)),
        (ValueError, r"zero-size dimension, got shape \(0, 2\)", lambda: maxherding(torch.ones(0, 2), 0)),
        (ValueError, r"zero-size dimension, got shape \(3, 0\)", lambda: maxherding(torch.ones(3, 0), 1)),
        (ValueError, r"`features` must be finite, got nan at index \(1, 1\)", lambda: maxherding(NAN, 1)),
        (ValueError, "`features` must be finite, got -inf", lambda: maxherding(np.full((2, 2), -np.inf), 1)),
        (
            ValueError,
            r"`features\[1\]` must be finite",
            lambda: maxherding(torch.stack([NAN.nan_to_num(), NAN]), 1),
        ),
        (ValueError, "must be an N x N kernel", lambda: maxherding(X, 1, kernel="precomputed")),
        (ValueError, "`budget` must be at most the number of candidates, 6, got 7", lambda: maxherding(X, 7)),
        (ValueError, "`budget` must be at least 0, got -1", lambda: maxherding(X, -1)),
        (TypeError, "`budget` must be an int, got 2.5", lambda: maxherding(X, 2.5)),
        (TypeError, "`budget` must be an int, got True", lambda: maxherding(X, True)),
        (ValueError, r"candidates, 2, got 3", lambda: maxherding(X, 3, candidates=[0, 1])),
        (
            ValueError,
            "`candidates` must be indices from 0 to 5, got 6",
            lambda: maxherding(X, 1, candidates=[6]),
        ),
        (
            ValueError,
            "`candidates` must be indices from 0 to 5, got -1",
            lambda: maxherding(X, 1, candidates=[-1]),
        ),
        (ValueError, "`candidates` must not repeat, got 3", lambda: maxherding(X, 1, candidates=[3, 1, 3])),
        (ValueError, "candidates, 0, got 1", lambda: maxherding(X, 1, candidates=[])),
        (TypeError, "`candidates` must have dtype", lambda: maxherding(X, 1, candidates=[0.5])),
        (ValueError, "`weights` must have a sum of 1e\\+300", lambda: maxherding(X, 1, weights=np.full(6, 1e308))),
        (ValueError, "`weights` must have a sum of 1e\\+300", lambda: maxherding(X, 1, weights=np.full(6, 1e306))),
        (ValueError, "`candidates` must be 1-D, got a nested", lambda: maxherding(X, 1, candidates=[[1, 2], [3]])),
        (TypeError, "`features` must hold data", lambda: maxherding(torch.ones(2, 2, device="meta"), 1)),
        (TypeError, "at most 64 bits, got", lambda: maxherding(np.ones((2, 2), complex), 1)),
        (TypeError, "must not be a masked array", lambda: maxherding(np.ma.array(np.ones((2, 2))), 1)),
        (TypeError, "`bandwidth` must be a positive number or .* got None", lambda: maxherding(X, 1, bandwidth=None)),
        (TypeError, "`bandwidth` must be a positive number or .* got True", lambda: maxherding(X, 1, bandwidth=True)),
        (ValueError, "`features` must be rows of length at most", lambda: maxherding(np.full((2, 2), 1e200), 1)),
        (ValueError, "values about 1, got", lambda: maxherding(np.full((2, 2), 1e99), 1, kernel="precomputed")),
        (ValueError, "`candidates` must be 1-D", lambda: maxherding(X, 1, candidates=np.zeros((2, 2), int))),
        (
            ValueError,
            r"`weights` must not be negative, got -1.0 at index 2",
            lambda: maxherding(X, 1, weights=W),
        ),
        (
            ValueError,
            r"`weights` must have shape \(6,\), got \(5,\)",
            lambda: maxherding(X, 1, weights=torch.ones(5)),
        ),
        (
            ValueError,
            "`weights` must be finite",
            lambda: maxherding(X, 1, weights=torch.full((6,), torch.inf)),
        ),
        (
            ValueError,
            "`labeled` must be .* with 2 columns",
            lambda: maxherding(X, 1, labeled=torch.ones(2, 3)),
        ),
        (
            ValueError,
            "`labeled` must be on cpu",
            lambda: maxherding(X, 1, labeled=torch.ones(1, 2, device="meta")),
        ),
        (ValueError, "`kernel` must be one of 'rbf'", lambda: maxherding(X, 1, kernel="gauss")),
        (TypeError, "`kernel` must be a string", lambda: maxherding(X, 1, kernel=None)),
        (ValueError, "`bandwidth` must be positive and finite, got 0", lambda: maxherding(X, 1, bandwidth=0)),
        (
            ValueError,
            "`bandwidth` must be positive and finite, got nan",
            lambda: maxherding(X, 1, bandwidth=np.nan),
        ),
        (ValueError, "`bandwidth` must be a positive number or", lambda: maxherding(X, 1, bandwidth="mean")),
        (TypeError, "`bandwidth` must be a positive number or", lambda: maxherding(X, 1, bandwidth=object())),
        (ValueError, "`bandwidth` must be one number", lambda: maxherding(X, 1, bandwidth=[1.0, 2.0])),
        (ValueError, "`lengths` goes with 3-D", lambda: maxherding(X, 1, lengths=[3])),
        (ValueError, r"`lengths\[1\]` must be between 1 and 6", lambda: maxherding(B, 1, lengths=[3, 7])),
        (ValueError, r"`lengths` must have shape \(2,\)", lambda: maxherding(B, 1, lengths=[3])),
        (ValueError, "candidates, 3, got 4", lambda: maxherding(B, 4, lengths=[6, 3])),
        (
            ValueError,
            "`labeled` must have one entry for each of the 2",
            lambda: maxherding(B, 1, labeled=[X]),
        ),
        (ValueError, "`backend` must be 'auto' or one of", lambda: maxherding(X, 1, backend="gpu")),
        (ValueError, "`memory_limit` must be at least 1", lambda: maxherding(X, 1, memory_limit=0)),
        (
            TypeError,
            "`memory_limit` must be a number of bytes or text such",
            lambda: maxherding(X, 1, memory_limit=1e9),
        ),
        (ValueError, "`memory_limit`: '8 apples' is no amount", lambda: maxherding(X, 1, memory_limit="8 apples")),
        (TypeError, "`return_info` must be True or False", lambda: maxherding(X, 1, return_info="yes")),
    ],
)
def test_bad_input_is_named_before_any_work(error, message, call):
    with pytest.raises(error, match=message):
        call()
