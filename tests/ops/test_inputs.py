"""Arrays whose memory does not hold their numbers as they are: every op reads the numbers."""

import numpy as np
import pytest
import torch

import difal_kernels as dk

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 3, 5, generator=GENERATOR)
MAPS = torch.randn(2, 9, 4, 6, generator=GENERATOR)
FEATURES = torch.randn(40, 7, generator=GENERATOR)
POINTS, IMAGE = torch.tensor([[0, 0], [7, 11], [3, 4]]), torch.tensor([0, 1, 1])
WEIGHT = torch.randn(3, 9, generator=GENERATOR)
CALLS = {
    "bald": (LOGITS, lambda x: dk.bald(x, backend="cpu")),
    "edald": (LOGITS, lambda x: dk.edald(x, x[:, 0], backend="cpu")),
    "balentacq": (LOGITS, lambda x: dk.balentacq(x, backend="cpu")),
    "hypercolumns": (MAPS, lambda m: dk.hypercolumns([m], POINTS, (8, 12), image_index=IMAGE, backend="cpu")),
    "project_then_resize": (MAPS, lambda m: dk.project_then_resize([m], WEIGHT, None, (8, 12), backend="cpu")),
    "maxherding": (FEATURES, lambda x: dk.maxherding(x, 5, backend="cpu", return_info=True).gains),
    "kcenter_greedy": (FEATURES, lambda x: dk.kcenter_greedy(x, 5)),
}


def negated(x):
    """x by torch's negative flag: what lies in memory is -x."""
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    assert torch.equal(view, x)
    return view


def other_byte_order(x):
    return x.numpy().astype(x.numpy().dtype.newbyteorder())


def reversed_twice(x):
    everywhere = (slice(None, None, -1),) * x.ndim
    view = x.numpy()[everywhere].copy()[everywhere]
    assert max(view.strides) < 0
    return view


def read_only(x):
    array = x.numpy().copy()
    array.setflags(write=False)
    return array


def field_of_a_record(x):
    """Strides that are no multiple of the number's own size."""
    record = np.zeros(tuple(x.shape), dtype=[("flag", np.int8), ("value", np.float32)])
    record["value"] = x
    return record["value"]


@pytest.mark.parametrize("view", [negated, other_byte_order, reversed_twice, read_only, field_of_a_record])
@pytest.mark.parametrize("op", CALLS)
def test_the_numbers_are_read(op, view):
    plain, call = CALLS[op]
    before = plain.clone()
    want, got = call(plain), call(view(plain))
    # Other strides may be read in another order, so that sums are rounded otherwise.
    torch.testing.assert_close(torch.as_tensor(got), want, rtol=1e-6, atol=1e-6)
    assert torch.equal(plain, before)
