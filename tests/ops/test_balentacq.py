"""BalEntAcq: against its definition in fifty digits, and over layouts, dtypes, threads and degenerate samples."""

import math
from pathlib import Path

import mpmath  # comes with torch
import pytest
import torch
from safetensors.torch import load_file

import difal_kernels as dk
from predictions import LAYOUTS, draw, lay_out

FIXTURE = Path(__file__).parents[1] / "fixtures" / "edald_c11.safetensors"
BACKENDS = ("reference", "cpu")


def exact(rows, input="logits"):
    """balent and balentacq of one place, (K, C), in fifty digits."""
    with mpmath.workdps(50):
        x = [[mpmath.mpf(value) if math.isfinite(value) else -mpmath.inf for value in row] for row in rows.tolist()]
        e = x if input == "probs" else [[mpmath.exp(value - max(row)) for value in row] for row in x]
        p = [[value / sum(row) for value in row] for row in e]
        truth = label = mpmath.mpf(0)
        for column in zip(*p, strict=True):
            mean = sum(column) / len(column)
            variance = sum((value - mean) ** 2 for value in column) / len(column)
            inside = min(max(mean, mpmath.mpf(1e-9)), mpmath.mpf(1 - 1e-9))
            strength = inside * (1 - inside) / variance - 1 if variance else mpmath.inf
            strength = min(max(strength, mpmath.mpf(1e-6)), mpmath.mpf(1e8))
            a, b = inside * strength + 1, (1 - inside) * strength
            h = (
                mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
                - (a - 1) * mpmath.digamma(a) - (b - 1) * mpmath.digamma(b) + (a + b - 2) * mpmath.digamma(a + b)
            )  # fmt: skip
            truth += mean * h
            label -= mean * mpmath.log(mean) if mean else 0
        balent = (truth + label) / (label + mpmath.log(2))
        return float(balent), float(1 / balent if balent >= 0 else balent)


def assert_close(got, want):
    """To 1e-6, relative where a value is large: 1 / balent has no bound."""
    got, want = got.double(), torch.as_tensor(want).double()
    assert bool(((got - want).abs() <= 1e-6 * (1 + want.abs())).all()), float((got - want).abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spread", [1e-7, 1e-4, 1e-2, 0.3, 1, 4, 20, 200])
@pytest.mark.parametrize("C", [2, 5])
def test_definition(backend, spread, C):
    """From samples that hardly differ, where lgamma and digamma of 1e8 would cancel, to saturated ones."""
    x = 3 * draw((12, 1, C)).double() + spread * draw((12, 4, C), seed=1).double()
    assert_close(dk.balentacq(x, backend=backend), [exact(rows)[1] for rows in x])


def test_both_signs_and_the_jump_between_them():
    """Where balent passes 0 the answer goes from inf to 0; up to there it is right."""
    logits = draw((5, 3)).double()

    def balent(scale):
        return exact(scale * logits)[0]

    low, high = 0.05, 0.3  # hardly any disagreement, some
    assert balent(low) < 0 < balent(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if balent(middle) < 0 else (low, middle)
    steps = torch.tensor([sign * 10.0**-n for n in range(2, 8) for sign in (-1, 1)], dtype=torch.float64)
    x = (low + steps)[:, None, None] * logits
    truth = [exact(rows) for rows in x]
    assert min(abs(value) for value, _ in truth) < 1e-6
    assert max(value for _, value in truth) > 1e5
    assert_close(dk.balentacq(x, backend="cpu"), [value for _, value in truth])


@pytest.mark.parametrize("backend", BACKENDS)
def test_stored_logits(backend):
    stored = load_file(FIXTURE)
    rows = stored["logits_samples"][::20]
    truth = [exact(row)[1] for row in rows.double()]
    assert_close(dk.balentacq(rows, backend=backend), truth)
    assert min(truth) < 0 < max(truth)
    assert bool(stored["released_balentacq"].isnan().all())  # the released code: nothing to compare with


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("input", ["logits", "log_probs", "probs"])
def test_layouts_and_dtypes(dtype, layout, input):
    x = draw((7, 13, 5, 19))
    x = {"logits": x, "log_probs": x.log_softmax(-1), "probs": x.softmax(-1)}[input].to(dtype)
    view = lay_out(x, layout)
    got = dk.balentacq(view, input=input, backend="cpu")
    assert_close(got, dk.balentacq(x, input=input, backend="reference"))
    assert got[3, 4] == pytest.approx(exact(x[3, 4].double(), "probs" if input == "probs" else "logits")[1], rel=1e-6)


@pytest.mark.parametrize(
    ("places", "K", "C"),
    [(1, 1, 1), (1, 5, 1), (7, 1, 3), (63, 2, 2), (65, 4, 7), (2049, 2, 5), (9, 3, 512), (9, 2, 1025), (30, 101, 5),
     (0, 3, 4)],
)  # fmt: skip
def test_shapes(places, K, C):
    x = draw((places, K, C), seed=places)
    got = dk.balentacq(x, backend="cpu")
    assert got.shape == (places,)
    assert_close(got, dk.balentacq(x, backend="reference"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_saturated_logits_and_masked_classes(backend, dtype):
    x = torch.tensor(
        [
            [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, -1e4, 1e4]],  # sure, and never of the same class
            [[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [1e4, -1e4, 0.0]],  # sure, always of the same class
            [[3.0, -math.inf, 1.0], [1.0, -math.inf, 2.0], [2.0, -math.inf, 2.5]],
        ],
        dtype=dtype,
    )
    assert_close(dk.balentacq(x, backend=backend), [exact(rows)[1] for rows in x.double()])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_disagreement_it_is_finite_and_last(backend):
    same = draw((1, 1, 5)).expand(4, 6, 5)
    one_hot = torch.eye(5)[[0, 1, 2, 3, 4, 0]][None] * 1e4
    scores = dk.balentacq(torch.cat([draw((30, 6, 5), seed=2), same, one_hot]), backend=backend)
    assert bool(scores.isfinite().all())
    assert scores[:30].min() > scores[30:].max()


def test_a_common_offset_changes_nothing():
    x = draw((40, 3, 9)).double()
    assert_close(dk.balentacq(x - 1e3, backend="cpu"), dk.balentacq(x, backend="cpu"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_check_finite_false_keeps_the_damage_in_its_place(backend, bad):
    x = draw((70, 3, 5))
    clean = dk.balentacq(x, backend=backend)
    x[11, 1] = bad
    with pytest.raises(ValueError, match=r"`samples` must.* at position \(11,\), sample 1"):
        dk.balentacq(x, backend=backend)
    got = dk.balentacq(x, check_finite=False, backend=backend)
    assert got.isnan().nonzero().tolist() == [[11]]
    others = torch.arange(70) != 11
    assert torch.equal(got[others], clean[others])


def test_beside_other_scores_and_with_single():
    """It needs the exponentials to more digits: the others stay right, and `single` plays no part in it."""
    x, single = draw((300, 5, 6)), draw((300, 6), seed=1)
    names = ("entropy", "bald", "edald", "margin", "variation_ratio", "balentacq", "expected_entropy")
    got, want = (dk.disagreement(x, single, outputs=names, backend=backend) for backend in ("cpu", "reference"))
    for name in names:
        assert_close(got[name], want[name])
    assert torch.equal(got["balentacq"], dk.balentacq(x, backend="cpu"))
    one = x[:, :1]
    assert dk.disagreement(one, outputs=("bald", "balentacq"), backend="cpu")["bald"].eq(0).all()
