"""Tensors and arrays of unusual kinds: the right picks, or an error that names the argument."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from difal_kernels import explain, kcenter_greedy, maxherding, probcover, typiclust, uherding
from difal_kernels.testing import replay

SELECTIONS = {
    "maxherding": maxherding,
    "reference": lambda x, n, **o: maxherding(x, n, backend="reference", **o),
    "uherding": lambda x, n, **o: uherding(x, np.ones(40), n, **o),
    "probcover": lambda x, n, **o: probcover(x, 3.0, n, **o),
    "kcenter_greedy": kcenter_greedy,
    "typiclust": typiclust,
}


def cloud(n=40, d=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    return (2 * torch.randn(n, d, generator=generator)).to(dtype)


class Careless(torch.Tensor):
    """A subclass that nothing but plain code may touch."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called on the subclass")


def unaligned(x):
    rows = x.numpy()
    return np.frombuffer(b"\0" + rows.tobytes(), dtype=rows.dtype, offset=1).reshape(rows.shape)


def read_only(x):
    rows = x.numpy().copy()
    rows.flags.writeable = False
    return rows


VIEWS = {
    "negated lazily": lambda x: torch._neg_view((-x).clone()),
    "imaginary part of a conjugate": lambda x: torch.complex(x, -x).conj().imag,
    "a subclass": lambda x: x.as_subclass(Careless),
    "a parameter": lambda x: torch.nn.Parameter(x.clone()),
    "unaligned": unaligned,
    "read-only": read_only,
    "big-endian": lambda x: x.numpy().astype(">f4"),
    "backwards": lambda x: x.numpy()[::-1, ::-1].copy()[::-1, ::-1],
    "Fortran order": lambda x: np.asfortranarray(x.numpy()),
    "a field of records": lambda x: np.rec.fromarrays([np.zeros(x.shape, "i1"), x.numpy()], names="a,b").b,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("op", SELECTIONS)
def test_a_view_is_read_as_the_numbers_it_shows(op, view):
    x = cloud()
    odd, select = VIEWS[view](x), SELECTIONS[op]
    assert torch.as_tensor(select(odd, 9)).tolist() == select(x, 9).tolist()
    more = select(x, 9, labeled=VIEWS[view](x[3:8].contiguous()), candidates=np.arange(40)[::-2])
    assert more.tolist() == select(x, 9, labeled=x[3:8], candidates=list(range(1, 40, 2))).tolist()


def test_zeros_without_memory():
    zeros = torch._efficientzerotensor((40, 3))
    for select in SELECTIONS.values():
        assert select(zeros, 3).tolist() == [0, 1, 2]


def test_weights_and_kernels_that_are_negated_lazily():
    x = cloud()
    weights, kernel = x[:, 0].double() ** 2, torch.exp(-torch.cdist(x, x))
    lazy = torch._neg_view(-weights), torch._neg_view(-kernel)
    assert torch.equal(maxherding(x, 9, weights=lazy[0]), maxherding(x, 9, weights=weights))
    assert torch.equal(maxherding(lazy[1], 9, kernel="precomputed"), maxherding(kernel, 9, kernel="precomputed"))


def masked(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        return torch.masked.masked_tensor(x, x > 0)


def fake(x):
    with FakeTensorMode():
        return torch.ones(x.shape)


def nested(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        return torch.nested.nested_tensor([x, x[:3]])


NO_DATA = {
    "masked": (masked, "must be a plain tensor, got MaskedTensor"),
    "fake": (fake, "must be a plain tensor, got FakeTensor"),
    "nested": (nested, "must be a dense tensor, got layout nested"),
    "sparse": (lambda x: x.to_sparse(), "must be a dense tensor, got layout torch.sparse_coo"),
    "meta": (lambda x: x.to("meta"), "must hold data, got a tensor on the meta device"),
}


@pytest.mark.parametrize("kind", NO_DATA)
@pytest.mark.parametrize("op", SELECTIONS)
def test_tensors_that_are_no_rows_of_numbers(op, kind):
    make, message = NO_DATA[kind]
    with pytest.raises(TypeError, match=f"`features` {message}"):
        SELECTIONS[op](make(cloud()), 1)
    if kind != "meta":  # of which the device is wrong
        with pytest.raises(TypeError, match=f"`labeled` {message}"):
            SELECTIONS[op](cloud(), 1, labeled=make(cloud()))


def test_inside_of_torch_func():
    message = "`features` must hold data, got a tensor inside of torch"
    with pytest.raises(TypeError, match=message):
        torch.vmap(lambda x: maxherding(x, 2))(torch.ones(2, 5, 3))
    with pytest.raises(TypeError, match=message):
        torch.func.grad(lambda x: maxherding(x, 2).sum())(cloud())


X, B = cloud(), torch.stack([cloud(20)] * 2)
META = torch.ones(2, device="meta")
HUGE = torch.full((1, 6), 1e200, dtype=torch.float64)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "`budget` must be an int, got tensor(True)", lambda: maxherding(X, torch.tensor(True))),
        (TypeError, "`budget` must be an int, got tensor([2])", lambda: maxherding(X, torch.tensor([2]))),
        (TypeError, "`budget` must be an int, got tensor(", lambda: maxherding(X, META[0].long())),
        (TypeError, "`candidates` must hold data", lambda: maxherding(X, 1, candidates=META.long())),
        (TypeError, "`lengths` must hold data", lambda: maxherding(B, 1, lengths=META.long())),
        (ValueError, "`lengths` must be 1-D, got a nested", lambda: maxherding(B, 1, lengths=[[1], [2, 3]])),
        (TypeError, "`bandwidth` must be a positive number", lambda: maxherding(B, 1, bandwidth=META)),
        (TypeError, "`bandwidth` must be a positive number", lambda: maxherding(B, 1, bandwidth=[True, True])),
        (TypeError, "`bandwidth` must be a positive number", lambda: maxherding(X, 1, bandwidth=torch.tensor(True))),
        (TypeError, "`bandwidth` must be a positive number", lambda: maxherding(X, 1, bandwidth=b"1.0")),
        (TypeError, "`bandwidth` must be a positive number", lambda: maxherding(X, 1, bandwidth=np.ma.masked)),
        (ValueError, "`bandwidth` must be positive and finite", lambda: maxherding(X, 1, bandwidth=10**400)),
        (TypeError, "`radius` must be a positive number", lambda: probcover(X, b"1", 1)),
        (TypeError, "`radius` must be a positive number", lambda: probcover(X, np.array(True), 1)),
        (TypeError, "`radius` must be a positive number", lambda: probcover(X, torch.tensor(1j), 1)),
        (TypeError, "`radius` must be a positive number", lambda: probcover(X, META[0], 1)),
        (ValueError, "`radius` must be positive", lambda: probcover(X, 10**400, 1)),
        (TypeError, "`backend` must be a string", lambda: maxherding(X, 1, backend=np.array(["cpu", "cuda"]))),
        (ValueError, "`labeled` must be rows of length at most", lambda: maxherding(X, 1, labeled=HUGE)),
        (ValueError, "`labeled` must be rows of length at most", lambda: kcenter_greedy(X, 1, labeled=HUGE)),
        (ValueError, "`labeled` must be rows of length at most", lambda: typiclust(X, 1, labeled=HUGE)),
        (
            ValueError,
            "`features` must be rows of length at most 1e+152, got 9000 numbers up to 1e+151",
            lambda: maxherding(np.full((2, 9000), 1e151), 1),
        ),
        (ValueError, "`memory_limit` is 5 bytes", lambda: explain(maxherding, X, 1, memory_limit=5)),
        (ValueError, "`memory_limit` is 5 bytes", lambda: explain(probcover, X, 1.0, 1, memory_limit=5)),
        (ValueError, "`picks` must be indices from 0 to 39, got 40", lambda: replay(X, torch.tensor([1, 40]))),
        (ValueError, "`picks` must be indices from 0 to 39, got -1", lambda: replay(X, np.array([-1]))),
        (ValueError, "`picks` must be 1-D", lambda: replay(X, torch.tensor(3))),
        (ValueError, "`features` must be 2-D (N, D), one selection", lambda: replay(B, torch.tensor([3]))),
    ],
)
def test_odd_arguments_are_named(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_labeled_kernel_values_of_any_size():
    x = cloud()
    kernel, far = torch.exp(-torch.cdist(x, x)), torch.full((1, 40), 1e-40)
    got = maxherding(kernel, 9, kernel="precomputed", labeled=far)
    assert torch.equal(got, maxherding(kernel, 9, kernel="precomputed"))
