"""Limits and properties: degenerate predictions, rounding, threads, instruction sets."""

import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import difal_kernels as dk
from difal_kernels import _native
from instruction_sets import run_under

BACKENDS = ("reference", "cpu")
TOLERANCE = 1e-6
INF = math.inf


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_saturated_logits(backend, dtype):
    x = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]], [[1e4, -1e4], [1e4, -1e4]]], dtype=dtype)
    scores = dk.disagreement(x, outputs=("entropy", "bald", "expected_entropy", "margin"), backend=backend)
    assert scores["expected_entropy"].tolist() == [0, 0]
    assert scores["bald"].tolist() == pytest.approx([math.log(2), 0], abs=1e-7)
    assert scores["entropy"].tolist() == pytest.approx([math.log(2), 0], abs=1e-7)
    assert scores["margin"].tolist() == pytest.approx([1, 0], abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_sample_never_disagrees_and_one_class_is_certain(backend):
    x = torch.randn(50, 1, 512, generator=torch.Generator().manual_seed(0)) * 9
    assert dk.bald(x, backend=backend).eq(0).all()
    scores = dk.disagreement(x[..., :1].expand(50, 4, 1), outputs=("entropy", "bald", "margin"), backend=backend)
    assert all(bool((value == 0).all()) for value in scores.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("C", [2, 19, 512])
def test_the_maximum(backend, C):
    """C samples, each sure of its own class: bald is ln C and not above it, after rounding too."""
    x = torch.eye(C).mul(1e4).expand(3, C, C)
    scores = dk.disagreement(x, outputs=("entropy", "bald"), backend=backend)
    for value in scores.values():
        assert float(value.max()) <= math.log(C)
        assert value.tolist() == pytest.approx([math.log(C)] * 3, abs=5e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_classes_are_as_if_absent(backend):
    x = torch.randn(40, 5, 7, generator=torch.Generator().manual_seed(1))
    masked = torch.cat([x[..., :3], torch.full((40, 5, 4), -INF), x[..., 3:]], -1)
    names = ("entropy", "bald", "margin", "least_confidence", "variation_ratio")
    with_mask = dk.disagreement(masked, outputs=names, backend=backend)
    without = dk.disagreement(x, outputs=names, backend=backend)
    for name in names:
        assert (with_mask[name] - without[name]).abs().max() <= 2.5e-7
    log_p = masked.log_softmax(-1)
    assert (dk.bald(log_p, input="log_probs", backend=backend) - without["bald"]).abs().max() <= 5e-7
    assert (dk.bald(log_p.exp(), input="probs", backend=backend) - without["bald"]).abs().max() <= 5e-7


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [0.0, 1e3, -1e8])
def test_a_common_offset_changes_nothing(backend, offset):
    x = torch.randn(40, 3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert (dk.bald(x + offset, backend=backend) - dk.bald(x, backend=backend)).abs().max() <= 2e-7


@pytest.mark.parametrize("C", [2, 19, 512, 4000])
@pytest.mark.parametrize("K", [1, 2, 30])
def test_accuracy_where_errors_do_not_average_out(K, C):
    """Rows of a few equal values: every class repeats the same rounding."""
    levels = torch.linspace(0, 30, 61)
    x = torch.zeros(len(levels), K, C)
    x[:, : (K + 1) // 2, ::2] = levels[:, None, None]
    x[:, K // 2 :, 1::3] -= levels[:, None, None] / 7
    single = x[:, 0]
    for name in ("entropy", "bald", "edald", "expected_entropy"):
        exact = x.double().softmax(-1)
        entropy = torch.special.entr(exact).sum(-1)
        bald = torch.special.entr(exact.mean(1)).sum(-1) - entropy.mean(1)
        truth = {"entropy": entropy[:, 0], "bald": bald, "edald": entropy[:, 0] + bald}
        truth["expected_entropy"] = entropy.mean(1)
        got = dk.disagreement(x, single, outputs=(name,), backend="cpu")[name]
        assert (got - truth[name]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", ["nan", "inf", "all_minus_inf"])
@pytest.mark.parametrize("where", ["samples", "single"])
def test_check_finite_false_keeps_the_damage_in_its_place(backend, bad, where):
    generator = torch.Generator().manual_seed(0)
    x, single = torch.randn(70, 3, 5, generator=generator), torch.randn(70, 5, generator=generator)
    names = ("entropy", "bald", "edald", "expected_entropy", "margin", "least_confidence", "variation_ratio")
    clean = dk.disagreement(x, single, outputs=names, backend=backend)
    row = x[11, 1] if where == "samples" else single[11]
    if bad == "all_minus_inf":
        row[:] = -INF
    else:
        row[2] = math.nan if bad == "nan" else INF
    got = dk.disagreement(x, single, outputs=names, check_finite=False, backend=backend)
    of_single = {"entropy", "edald", "margin", "least_confidence"}
    of_samples = {"bald", "edald", "expected_entropy", "variation_ratio"}
    for name in names:
        hit = name in (of_samples if where == "samples" else of_single)
        assert bool(got[name][11].isnan()) == hit, name
        others = torch.arange(70) != 11
        assert torch.equal(got[name][others], clean[name][others])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("input", ["log_probs", "probs"])
@pytest.mark.parametrize("bad", ["nan", "inf", "all_minus_inf"])
def test_check_finite_false_of_probabilities(backend, input, bad):
    x = torch.randn(70, 3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    x = x.exp() if input == "probs" else x
    clean = dk.disagreement(x, input=input, backend=backend)
    x[11, 1, 2] = math.nan if bad == "nan" else INF
    if bad == "all_minus_inf":
        x[11, 1] = -INF
        if input == "probs":
            with pytest.raises(ValueError, match="no negative probability"):  # no number of a class, but a mistake
                dk.bald(x, input=input, check_finite=False, backend=backend)
            return
    got = dk.disagreement(x, input=input, check_finite=False, backend=backend)
    for name in got:
        assert got[name].isnan().nonzero().tolist() == [[11]]
        others = torch.arange(70) != 11
        assert torch.equal(got[name][others], clean[name][others])
    with pytest.raises(ValueError, match=r"at position \(11,\), sample 1"):
        dk.bald(x, input=input, backend=backend)
    x[50, 0, 0] = 0.9  # a wrong sum is no such case, and is what is named
    with pytest.raises(ValueError, match=r"sum to one .* at position \(50,\), sample 0"):
        dk.bald(x, input=input, check_finite=False, backend=backend)


@pytest.mark.parametrize("where", [0, 63, 64, 2047, 2048, 5000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_bad_place_is_named(where, backend):
    x = torch.zeros(5001, 2, 3)
    x[where:, 1, 2] = math.nan
    with pytest.raises(
        ValueError, match=rf"`samples` must hold no NaN, got NaN for class 2 at position \({where},\), sample 1"
    ):
        dk.bald(x, backend=backend)


logit_arrays = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=3, max_dims=3, max_side=9),
    elements=st.one_of(
        st.floats(-20, 20, width=32), st.sampled_from([0.0, 1e4, -1e4, 3e38, -3e38, 1e-40]), st.just(-INF)
    ),
)


def finite_rows(x):
    x = x.copy()
    x[..., 0] = np.where(np.isinf(x).all(-1), np.float32(0), x[..., 0])
    return x


@settings(max_examples=100, deadline=None)
@given(x=logit_arrays.map(finite_rows))
def test_properties(x):
    """Bounds, invariances, and agreement with the reference, for any logits."""
    _, K, C = x.shape
    names = (
        "entropy",
        "bald",
        "expected_entropy",
        "margin",
        "least_confidence",
        "variation_ratio",
        "entropy_bald",
    )
    got = dk.disagreement(x, outputs=names, backend="cpu")
    reference = dk.disagreement(x, outputs=names, backend="reference")
    for name in names:
        assert np.abs(got[name].astype(np.float64) - reference[name]).max() <= TOLERANCE, name
    assert (got["bald"] >= 0).all()
    assert (got["bald"].astype(np.float64) <= math.log(min(C, K))).all()
    assert (got["entropy"].astype(np.float64) <= math.log(C)).all()
    assert (got["entropy"] >= got["bald"] - TOLERANCE).all()
    for name in ("margin", "least_confidence", "variation_ratio"):
        assert ((got[name] >= 0) & (got[name] <= 1)).all()
    shuffled = dk.disagreement(x[:, ::-1, ::-1], outputs=names, backend="cpu")
    for name in names[:5]:
        assert np.abs(shuffled[name] - got[name]).max() <= TOLERANCE, name
    repeated = dk.bald(np.concatenate([x, x], axis=1), backend="cpu")
    assert np.abs(repeated - got["bald"]).max() <= TOLERANCE


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 5), st.integers(1, 6), st.integers(1, 20)),
    order=st.permutations(range(4)),
    step=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_any_strides(shape, order, step, dtype, seed):
    memory = torch.randn([n * step for n in shape], generator=torch.Generator().manual_seed(seed)).to(dtype)
    x = memory[::step, ::step, ::step, ::step].permute(order)
    assert (dk.bald(x, backend="cpu") - dk.bald(x, backend="reference")).abs().max() <= TOLERANCE


def test_threads_do_not_change_the_answer():
    x = torch.randn(5, 19, 96, 97, generator=torch.Generator().manual_seed(0))
    names = ("entropy", "bald", "margin", "variation_ratio", "balentacq")
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            answers.append(dk.disagreement(x, outputs=names, sample_dim=0, class_dim=1, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    for other in answers[1:]:
        assert all(torch.equal(answers[0][name], other[name]) for name in names)


ISA_SCRIPT = """
import sys, torch
import difal_kernels as dk
from difal_kernels import _cpu
names = ("entropy", "bald", "expected_entropy", "margin", "least_confidence", "variation_ratio", "edald")
g = torch.Generator().manual_seed(0)
worst = 0.0
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    for shape in ((5, 19, 7, 96), (3, 130, 1, 67), (1, 3, 5, 5)):
        for input in ("logits", "log_probs", "probs"):
            x, s = torch.randn(shape, generator=g) * 4, torch.randn(shape[1:], generator=g)
            x[:, -1] = -torch.inf
            if input != "logits":
                x, s = x.log_softmax(1), s.log_softmax(0)
            if input == "probs":
                x, s = x.exp(), s.exp()
            transposed = (x.permute(2, 3, 0, 1).contiguous(), 2, 3, s.permute(1, 2, 0))
            for t, sd, cd, u in ((x, 0, 1, s), transposed):
                a, b = (dk.disagreement(t.to(dtype), u.to(dtype), outputs=names, input=input, sample_dim=sd,
                                        class_dim=cd, backend=k) for k in ("cpu", "reference"))
                worst = max([worst] + [float((a[n] - b[n]).abs().max()) for n in names])
                t, u = t.to(dtype), u.to(dtype)
                options = dict(input=input, sample_dim=sd, class_dim=cd)
                a, b = (dk.edald(t, u, compat="released", backend=k, **options) for k in ("cpu", "reference"))
                worst = max(worst, float((a - b).abs().max()))
                a, b = (dk.balentacq(t, backend=k, **options) for k in ("cpu", "reference"))
                worst = max(worst, float(((a - b).abs() / (1 + b.abs())).max()))
try:
    dk.bald(torch.full((9, 2, 3), float("nan")), backend="cpu")
except ValueError:
    print(_cpu.isa(), worst)
"""


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512"])
def test_every_instruction_set(level):
    if _native.missing("_cpu"):
        pytest.skip(_native.missing("_cpu"))
    ran, worst = run_under(level, ISA_SCRIPT).split()
    assert float(worst) <= TOLERANCE
    if ran != level:
        pytest.skip(f"this processor goes up to {ran}, which was checked instead of {level}")


@pytest.mark.parametrize("input", ["logits", "probs"])
def test_exp_and_ln_are_better_than_float32(input):
    """The polynomials add at most 1e-10 to the rounding of the answer, half a unit in its last place."""
    d = torch.linspace(0.01, 6, 40001, dtype=torch.float64)  # below it the bound ln 2 cuts in
    x = torch.stack([torch.zeros_like(d), -d], -1)
    if input == "probs":
        x = x.softmax(-1)
    got = dk.entropy(x, input=input, backend="cpu").double()
    p = x if input == "probs" else x.softmax(-1)
    truth = torch.special.entr(p).sum(-1)
    ulp = 2.0 ** (torch.frexp(truth).exponent.double() - 24)
    assert bool(((got - truth).abs() <= ulp / 2 + 1e-10).all())
