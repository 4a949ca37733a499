"""torch's process-wide settings change no answer."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
import torch

import difal_kernels as dk
from difal_kernels.testing import replay


def inputs():
    rng = torch.Generator().manual_seed(3)
    return {
        "x": torch.randn(700, 12, generator=rng),
        "samples": torch.randn(40, 5, 7, generator=rng),
        "single": torch.randn(40, 7, generator=rng),
        "maps": [torch.randn(2, 4, 3, 3, generator=rng), torch.randn(2, 3, 6, 6, generator=rng)],
        "points": torch.tensor([[0, 0], [11, 4], [5, 7]]),
        "images": torch.tensor([0, 1, 1]),
        "weight": torch.randn(4, 7, generator=rng),
        "uncertainty": torch.rand(700, generator=rng),
    }


def opened(v):
    selection = dk.MaxHerding(v["x"])
    selection.select(5)
    selection.add_labeled(v["x"][:2])
    return selection.select(5)


CALLS = {
    "maxherding": lambda v: dk.maxherding(v["x"], 20),
    "maxherding, reference": lambda v: dk.maxherding(v["x"][:80], 20, backend="reference"),
    "maxherding, labeled": lambda v: dk.maxherding(v["x"], 20, labeled=v["x"][:30], candidates=range_tensor(50, 90)),
    "maxherding, batch": lambda v: dk.maxherding(v["x"].view(7, 100, 12), 9),
    "maxherding, cosine": lambda v: dk.maxherding(v["x"], 9, kernel="cosine", return_info=True).gains,
    "maxherding, precomputed": lambda v: dk.maxherding(v["x"][:12].exp(), 4, kernel="precomputed"),
    "maxherding, matrix-free": lambda v: dk.maxherding(v["x"].repeat(8, 1), 9, memory_limit=MATRIX_FREE),
    "MaxHerding": opened,
    "uherding": lambda v: dk.uherding(v["x"], v["uncertainty"], 9),
    "probcover": lambda v: dk.probcover(v["x"], 2.5, 9),
    "kcenter_greedy": lambda v: dk.kcenter_greedy(v["x"], 9),
    "typiclust": lambda v: dk.typiclust(v["x"], 9),
    "disagreement": lambda v: dk.disagreement(v["samples"], v["single"], outputs=("edald", "margin"))["edald"],
    "balentacq": lambda v: dk.balentacq(v["samples"]),
    "entropy": lambda v: dk.entropy(v["single"]),
    "power_bald": lambda v: dk.power_bald(v["samples"], generator=torch.Generator().manual_seed(1)),
    "hypercolumns": lambda v: dk.hypercolumns(v["maps"], v["points"], (12, 12), image_index=v["images"]),
    "project_then_resize": lambda v: dk.project_then_resize(v["maps"], v["weight"], None, (12, 12)),
    "replay": lambda v: replay(v["x"], torch.tensor([3, 1, 2], device="cpu")),
}
MATRIX_FREE = 60_000_000


def range_tensor(begin, end):
    return torch.arange(begin, end, device="cpu")


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("setting", [default_dtype, lambda: torch.device("meta")], ids=["dtype", "device"])
@pytest.mark.parametrize("name", CALLS)
def test_defaults_change_nothing(name, setting):
    values = inputs()
    expected = CALLS[name](values)
    with setting():
        found = CALLS[name](values)
    assert found.dtype == expected.dtype
    assert found.device == expected.device
    assert torch.equal(found, expected)


def test_the_matrix_free_case_is_one():
    x = inputs()["x"].repeat(8, 1)
    assert "matrix-free" in dk.explain(dk.maxherding, x, 9, memory_limit=MATRIX_FREE)


def test_tensors_without_data_are_refused():
    samples = torch.zeros(2, 3, 4, device="meta")
    for backend in ("cpu", "reference", "auto"):
        with pytest.raises(TypeError, match="`samples` must hold data, got a tensor on the meta device"):
            dk.bald(samples, backend=backend)
    with pytest.raises(TypeError, match=r"`maps\[0\]` must hold data"):
        dk.hypercolumns([torch.zeros(1, 2, 3, 3, device="meta")], torch.zeros(1, 2, dtype=torch.int64), (4, 4))


def test_disagreement_needs_samples():
    with pytest.raises(TypeError, match="`sample_dim` must be an int, got None"):
        dk.bald(torch.zeros(4, 3), sample_dim=None)
    assert float(dk.entropy(torch.zeros(2), sample_dim=None)) == pytest.approx(np.log(2))


def test_explain_says_which_arguments_it_wants():
    with pytest.raises(
        TypeError, match=r"explain\(maxherding, ...\) takes the arguments of the call in question: missing"
    ):
        dk.explain(dk.maxherding)


def test_an_open_selection_is_not_copied():
    selection = dk.MaxHerding(inputs()["x"])
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="keep its `indices`"):
            attempt(selection)


def test_inside_of_torch_compile():
    v = inputs()
    calls = {
        "maxherding": lambda x: dk.maxherding(2 * x, 9) + 1,
        "typiclust": lambda x: dk.typiclust(2 * x, 9) + 1,
        "entropy": lambda x: dk.entropy(2 * x) + 1,
    }
    for name, call in calls.items():
        assert torch.equal(torch.compile(call, backend="eager")(v["x"]), call(v["x"])), name
