"""The error table: what is refused, with which words; dispatch and explain."""

import math

import numpy as np
import pytest
import torch

import difal_kernels as dk
from difal_kernels.ops.disagreement import cuda, problem, triton
from predictions import refuse_odd_probabilities

X = torch.zeros(4, 3, 5)
P = X.softmax(-1)
GENERATOR = torch.Generator()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: dk.bald([[1.0]]), TypeError, "`samples` must be a torch.Tensor or numpy.ndarray, got list"),
        (lambda: dk.bald(X.int()), TypeError, "`samples` must have dtype float16.*got int32"),
        (lambda: dk.bald(np.array("a")), TypeError, "`samples` must hold numbers"),
        (lambda: dk.bald(X.to_sparse()), TypeError, "`samples` must be a dense tensor"),
        (lambda: dk.entropy("logits"), TypeError, "`predictions` must be a torch.Tensor"),
        (lambda: dk.bald(X, input="prob"), ValueError, "`input` must be one of 'logits', .*, got 'prob'"),
        (lambda: dk.bald(X, input=None), TypeError, "`input` must be a string"),
        (
            lambda: dk.bald(X, sample_dim=3),
            ValueError,
            r"`sample_dim` must be a dimension .*\(4, 3, 5\), got 3",
        ),
        (lambda: dk.bald(X, class_dim=-4), ValueError, "`class_dim` must be a dimension"),
        (lambda: dk.bald(X, class_dim=1.0), TypeError, "`class_dim` must be an int, got 1.0"),
        (lambda: dk.bald(X, class_dim=True), TypeError, "`class_dim` must be an int, got True"),
        (lambda: dk.bald(X, sample_dim=None, class_dim="x"), TypeError, "`class_dim` must be an int"),
        (lambda: dk.bald(X, sample_dim=1, class_dim=-2), ValueError, "must differ, got 1 for both"),
        (lambda: dk.bald(X[0, 0]), ValueError, "`sample_dim` must be a dimension"),
        (
            lambda: dk.bald(X[..., :0]),
            ValueError,
            r"`samples` must have at least one class, got shape \(4, 3, 0\)",
        ),
        (lambda: dk.bald(X[:, :0]), ValueError, "`samples` must have at least one sample"),
        (lambda: dk.bald(X, check_finite=1), TypeError, "`check_finite` must be True or False, got 1"),
        (lambda: dk.edald(X, None), ValueError, "`single` must be given"),
        (lambda: dk.edald(X, X), ValueError, r"`single` must have the shape .* \(4, 5\), got \(4, 3, 5\)"),
        (
            lambda: dk.edald(X, X[:, 0], weight=-1),
            ValueError,
            "`weight` must be finite and at least 0, got -1",
        ),
        (lambda: dk.edald(X, X[:, 0], weight=math.nan), ValueError, "`weight` must be finite"),
        (lambda: dk.edald(X, X[:, 0], weight=10**400), ValueError, "`weight` must be finite and at least 0, got inf"),
        (lambda: dk.edald(X, X[:, 0], weight=True), TypeError, "`weight` must be a float, got True"),
        (lambda: dk.edald(X, X[:, 0], weight="1"), TypeError, "`weight` must be a float, got '1'"),
        (lambda: dk.edald(X, X[:, 0], compat="paper"), ValueError, "`compat` must be one of 'released'"),
        (lambda: dk.edald(X, X[:, 0].to("meta")), ValueError, "`single` must be on the device of `samples`"),
        (lambda: dk.disagreement(X, outputs="bald"), TypeError, "`outputs` must be a tuple or list"),
        (lambda: dk.disagreement(X, outputs=()), ValueError, "`outputs` must name at least one"),
        (
            lambda: dk.disagreement(X, outputs=("bold",)),
            ValueError,
            "`outputs` must be one of .*, got 'bold'",
        ),
        (lambda: dk.disagreement(X, outputs=("edald",)), ValueError, "`single` must be given"),
        (lambda: dk.disagreement(X, backend="gpu"), ValueError, "`backend` must be 'auto' or one of"),
        (lambda: dk.power_bald(X, generator=0), TypeError, "`generator` must be a torch.Generator, got 0"),
        (
            lambda: dk.power_bald(X, generator=GENERATOR, beta=0),
            ValueError,
            "`beta` must be finite and above 0",
        ),
        (lambda: dk.power_bald(X, generator=GENERATOR, beta=10**400), ValueError, "`beta` must be finite and above 0"),
        (lambda: dk.power_bald(X, generator=GENERATOR, beta="x"), TypeError, "`beta` must be a float"),
        (lambda: dk.power_bald(X, generator=GENERATOR, noise="white"), ValueError, "`noise` must be one of"),
    ],
)
def test_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def changed(x, index, value):
    x = x.clone()
    x[index] = value
    return x


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("x", "input", "words"),
    [
        (
            changed(X, (2, 1, 3), math.nan),
            "logits",
            r"hold no NaN, got NaN for class 3 at position \(2,\), sample 1",
        ),
        (changed(X, (2, 1, 3), math.inf), "logits", "not be .inf, got inf for class 3"),
        (
            changed(X, (2, 1), -math.inf),
            "logits",
            "leave at least one class possible, got -inf for every",
        ),
        (changed(P, (2, 1, 3), math.nan), "probs", "hold no NaN"),
        (changed(P, (2, 1), math.inf), "probs", "not be .inf"),
        (changed(P, (2, 1, 3), -0.2), "probs", "no negative probability, got -0.2"),
        (
            changed(P, (2, 1, 3), 0.5),
            "probs",
            r"sum to one over `class_dim`, got a sum of 1.3 at position \(2,\)",
        ),
        (changed(P, (2, 1), 0.0), "probs", "sum to one over `class_dim`, got a sum of 0 "),
        (changed(P.log(), (2, 1, 3), 0.0), "log_probs", "sum to one over `class_dim`, got a sum of 1.8"),
        (changed(P.log(), (2, 1, 3), -math.inf), "log_probs", "got a sum of 0.8"),
        (P, "log_probs", "sum to one"),
        (X + 1, "probs", "got a sum of 5 .* pass input='logits' for logits"),
    ],
)
def test_values(x, input, words, backend):
    with pytest.raises(ValueError, match=f"`samples` must.*{words}"):
        dk.bald(x, input=input, backend=backend)
    with pytest.raises(ValueError, match="`predictions` must"):
        dk.entropy(x, input=input, backend=backend)
    valid = {"logits": X, "probs": P, "log_probs": P.log()}[input]
    with pytest.raises(ValueError, match=f"`single` must.*{words.split(' at position')[0]}"):
        dk.edald(valid[:, :, None].expand(4, 3, 2, 5), x, input=input, backend=backend)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_bad_sum_raises_without_the_finite_check_too(backend):
    with pytest.raises(ValueError, match="sum to one"):
        dk.bald(X + 1, input="probs", check_finite=False, backend=backend)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_odd_probabilities(backend):
    refuse_odd_probabilities("cpu", backend)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("C", [1, 2, 19])
@pytest.mark.parametrize("off", [-1e-3, 1e-3])
def test_a_sum_on_the_limit_is_accepted_or_refused_in_words(backend, C, off):
    """An implementation's own rounding decides."""
    x = torch.full((C,), off - math.log(C), dtype=torch.float64)
    for step in (0, 1e-13, -1e-13, 1e-11, -1e-11):
        try:
            got = dk.entropy(x + step, input="log_probs", backend=backend)
        except ValueError as error:
            assert "sum to one" in str(error)  # noqa: PT017 (either is right)
        else:
            assert float(got) == pytest.approx(math.log(C), abs=1e-6)


def test_numbers_of_numpy_are_numbers():
    single = X[:, 0]
    plain = dk.edald(X, single, weight=0.5, check_finite=True)
    assert torch.equal(dk.edald(X, single, weight=np.float32(0.5), check_finite=np.bool_(True)), plain)
    assert torch.equal(dk.edald(X, single, weight=np.int64(2)), dk.edald(X, single, weight=2))
    draws = [dk.power_bald(X, generator=torch.Generator().manual_seed(0), beta=b) for b in (2, np.float64(2))]
    assert torch.equal(*draws)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounded_softmax_is_accepted(backend, dtype):
    x = torch.randn(300, 2, 150, generator=torch.Generator().manual_seed(0)) * 4
    dk.bald(x.softmax(-1).to(dtype), input="probs", backend=backend)
    dk.bald(x.log_softmax(-1).to(dtype), input="log_probs", backend=backend)


def test_no_work_before_the_checks_and_empty_input():
    assert dk.bald(torch.zeros(0, 3, 4)).shape == (0,)
    assert dk.bald(torch.zeros(2, 0, 3, 4), backend="reference").shape == (2, 0)
    assert dk.bald(torch.zeros(3, 4)).shape == ()


def test_many_place_dimensions():
    x = torch.randn([2] * 19, generator=torch.Generator().manual_seed(0)).permute(*reversed(range(17)), 17, 18)
    with pytest.raises(dk.BackendUnavailableError, match="at most 16 position dimensions"):
        dk.bald(x, backend="cpu")
    assert dk.bald(x).shape == torch.Size([2] * 17)  # auto falls back to the reference


def test_explain_and_available_backends():
    text = dk.explain(dk.bald, torch.zeros(5, 19, 8, 8), sample_dim=0, class_dim=1)
    assert "-> cpu: can run" in text
    assert "K=5, C=19, positions (64,)" in text
    assert "-> cpu: can run" in dk.explain(dk.balentacq, X)
    assert "-> cpu: can run" in dk.explain("edald", X, X[:, 0], compat="released")
    assert "-> cpu" in dk.explain(dk.power_bald, X, generator=GENERATOR)
    assert {"reference", "cpu"} <= set(dk.available_backends("edald"))
    for name in ("disagreement", "entropy", "margin", "least_confidence", "bald", "entropy_bald"):
        assert "reference" in dk.available_backends(name)


def test_no_gpu_backend_takes_what_it_has_no_kernel_for():
    """Whatever the machine: the reason for the scores comes with the other reasons, and names the way out."""
    single = X[:, 0]
    for scores, options in (("balentacq", {"outputs": ("balentacq", "bald")}), ("compat", {"compat": "released"})):
        checked = problem.prepare(X, single, **{"outputs": ("edald",), **options})
        assert scores in problem.beyond_gpu(checked)
        assert "backend='reference'" in problem.beyond_gpu(checked)
        for backend in (cuda, triton):
            assert backend.supports(checked) is not None
    assert problem.beyond_gpu(problem.prepare(X, single, outputs=("edald", "margin", "variation_ratio"))) is None
