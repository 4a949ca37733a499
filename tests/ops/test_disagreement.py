"""Values: against the stored float64 numbers, and every backend against formulas written out again here."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import difal_kernels as dk
from backends import for_cpu_tensors
from predictions import LAYOUTS, draw, lay_out

FIXTURE = Path(__file__).parents[1] / "fixtures" / "edald_c11.safetensors"
BACKENDS = for_cpu_tensors("disagreement")
NATIVE = ("entropy", "bald", "expected_entropy", "edald", "margin", "least_confidence", "variation_ratio")
TOLERANCE = 1e-6  # absolute, in nats


@pytest.fixture(scope="module")
def stored():
    return load_file(FIXTURE)


def expected_scores(p, q, weight=1.0):
    """All scores of probabilities p (P, K, C) and q (P, C), in plain NumPy float64."""

    def entropy(x):
        return -np.sum(np.where(x > 0, x * np.log(np.where(x > 0, x, 1)), 0), axis=-1)

    inner = entropy(p).mean(-1)
    bald = entropy(p.mean(-2)) - inner
    ordered = np.concatenate([np.zeros((len(q), 1)), np.sort(q, axis=-1)], axis=-1)
    votes = [max(np.bincount(row).tolist()) for row in p.argmax(-1)]
    return {
        "entropy": entropy(q),
        "bald": bald,
        "expected_entropy": inner,
        "edald": entropy(q) + weight * bald,
        "margin": 1 - (ordered[:, -1] - ordered[:, -2]),
        "least_confidence": 1 - ordered[:, -1],
        "variation_ratio": 1 - np.array(votes) / p.shape[1],
    }


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def assert_scores(actual, expected, shape):
    for name, value in expected.items():
        got = torch.as_tensor(actual[name])
        assert got.dtype == torch.float32
        assert got.shape == shape
        difference = np.abs(got.double().numpy() - value.reshape(tuple(shape)))
        assert difference.max(initial=0) <= TOLERANCE, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_stored_values(stored, backend):
    samples, single = stored["logits_samples"], stored["logits_single"]
    scores = dk.disagreement(samples, single, outputs=("entropy", "bald", "edald"), backend=backend)
    for name, key in (("entropy", "entropy"), ("bald", "mutual_information"), ("edald", "edald")):
        assert (scores[name] - stored[key]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("input", ["logits", "log_probs", "probs"])
def test_layouts_and_dtypes(backend, dtype, layout, input):
    x = draw((13, 29, 5, 19))
    single = draw((13, 29, 19), seed=1)
    if input == "log_probs":
        x, single = x.log_softmax(-1), single.log_softmax(-1)
    elif input == "probs":
        x, single = x.softmax(-1), single.softmax(-1)
    x, single = lay_out(x.to(dtype), layout), single.to(dtype)
    scores = dk.disagreement(x, single, outputs=NATIVE, weight=0.7, input=input, backend=backend)

    def probabilities(t):
        values = t.double().numpy()
        return values / values.sum(-1, keepdims=True) if input == "probs" else softmax(values)

    expected = expected_scores(probabilities(x).reshape(-1, 5, 19), probabilities(single).reshape(-1, 19), 0.7)
    assert_scores(scores, expected, x.shape[:2])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_released_edald(stored, backend):
    samples, single = stored["logits_samples"], stored["logits_single"]
    released = dk.edald(samples, single, compat="released", backend=backend)
    assert (released - stored["released_edald"]).abs().max() <= TOLERANCE
    first = [set(scores.topk(20).indices.tolist()) for scores in (released, dk.edald(samples, single))]
    assert len(first[0] & first[1]) == 14  # it ranks otherwise: the docstring says by how much


def released_edald(p, q, weight):
    """The released code's arithmetic: p where ln p is expected."""

    def entropy(x):
        return -np.sum(x * np.log(x + 1e-8), axis=-1)

    information = entropy(np.exp(p).mean(-2)) - entropy(np.exp(p)).mean(-1)
    return entropy(q) + weight * np.maximum(information, 1e-9)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("input", ["logits", "log_probs", "probs"])
def test_released_edald_layouts_and_dtypes(backend, dtype, layout, input):
    x, single = draw((5, 29, 5, 19)), draw((5, 29, 19), seed=1)
    make = {"logits": lambda t: t, "log_probs": lambda t: t.log_softmax(-1), "probs": lambda t: t.softmax(-1)}[input]
    x, single = lay_out(make(x).to(dtype), layout), make(single).to(dtype)
    got = dk.edald(x, single, weight=0.7, compat="released", input=input, backend=backend)
    p, q = (t.double().numpy() for t in (x, single))
    p, q = (
        (p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)) if input == "probs" else (softmax(p), softmax(q))
    )
    assert got.dtype == torch.float32
    assert np.abs(got.double().numpy() - released_edald(p, q, 0.7)).max() <= TOLERANCE


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    ("places", "K", "C", "scale"),
    [(1, 1, 1, 3), (1, 5, 1, 3), (7, 1, 3, 3), (65, 4, 7, 1e4), (2049, 2, 5, 30), (9, 3, 512, 3), (30, 101, 5, 3),
     (64, 5, 11, 0), (0, 3, 4, 3)],
)  # fmt: skip
def test_released_edald_shapes_and_saturation(backend, places, K, C, scale):
    x, single = draw((places, K, C), scale=scale), draw((places, C), seed=1, scale=scale)
    got = dk.edald(x, single, compat="released", backend=backend)
    expected = released_edald(softmax(x.double().numpy()), softmax(single.double().numpy()), 1)
    assert got.shape == (places,)
    assert np.abs(got.double().numpy() - expected).max(initial=0) <= TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("places", "K", "C"),
    [(1, 1, 1), (1, 5, 1), (7, 1, 3), (63, 2, 2), (64, 3, 19), (65, 4, 7), (2049, 2, 11), (40, 3, 512),
     (33, 2, 129), (9, 2, 1025), (70, 101, 5), (4100, 1, 19), (0, 3, 4)],
)  # fmt: skip
def test_shapes(backend, places, K, C):
    x = draw((places, K, C), seed=places)
    scores = dk.disagreement(x, outputs=tuple(n for n in NATIVE if n != "edald"), backend=backend)
    p = softmax(x.double().numpy())
    expected = expected_scores(p, p.mean(1)) if places else {"entropy": np.zeros(0), "bald": np.zeros(0)}
    expected.pop("edald", None)
    assert_scores(scores, expected, torch.Size([places]))


def test_sample_and_class_dims():
    x = draw((5, 19, 6, 7))
    expected = dk.bald(x.permute(2, 3, 0, 1).contiguous())
    assert torch.equal(dk.bald(x, sample_dim=0, class_dim=1), expected)
    assert torch.equal(dk.bald(x, sample_dim=-4, class_dim=-3), expected)
    single = draw((19, 6, 7), seed=1)
    a = dk.edald(x, single, sample_dim=0, class_dim=1)
    b = dk.edald(x.permute(2, 3, 0, 1), single.permute(1, 2, 0))
    assert torch.equal(a, b)
    c = dk.edald(x.transpose(0, 1), single, sample_dim=1, class_dim=0)
    assert torch.equal(a, c)


def test_strides_of_samples_and_single_differ():
    x, single = draw((8, 9, 3, 4)), draw((9, 8, 4), seed=1).transpose(0, 1)
    expected = dk.edald(x.contiguous(), single.contiguous(), backend="reference")
    assert (dk.edald(x, single, backend="cpu") - expected).abs().max() <= TOLERANCE
    broadcast = draw((4,), seed=2).expand(8, 9, 4)
    expected = dk.edald(x, broadcast.contiguous(), backend="reference")
    assert (dk.edald(x, broadcast, backend="cpu") - expected).abs().max() <= TOLERANCE


def test_dtype_of_single_may_differ():
    x, single = draw((50, 3, 4)), draw((50, 4), seed=1)
    expected = dk.edald(x, single.half().float(), backend="reference")
    assert (dk.edald(x, single.half(), backend="cpu") - expected).abs().max() <= TOLERANCE


def test_one_prediction():
    x = draw((7, 3, 5))
    for function in (dk.entropy, dk.margin, dk.least_confidence):
        assert function(x).shape == (7, 3)
        of_mean = function(x.softmax(-1).mean(1), input="probs")
        assert (function(x, sample_dim=1) - of_mean).abs().max() <= TOLERANCE


def test_members_agree_with_the_joint_call():
    x, single = draw((40, 5, 6)), draw((40, 6), seed=1)
    outputs = ("bald", "mutual_information", "dald", "edald", "entropy_bald", "variation_ratio", "balentacq")
    joint = dk.disagreement(x, single, outputs=outputs)
    assert tuple(joint) == outputs
    assert (joint["edald"] - dk.edald(x, single)).abs().max() <= TOLERANCE
    assert torch.equal(joint["edald"], joint["entropy_bald"])
    for name in ("bald", "mutual_information", "dald", "variation_ratio", "balentacq"):
        assert (joint[name] - getattr(dk, name)(x)).abs().max() <= TOLERANCE
    mean = dk.disagreement(x, outputs=("entropy", "bald"))
    assert (dk.entropy_bald(x, weight=2.0) - mean["entropy"] - 2 * mean["bald"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
def test_numpy_in_numpy_out(backend):
    x = np.random.default_rng(0).standard_normal((6, 3, 4)).astype(np.float32)
    got = dk.bald(x, backend=backend)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    assert np.array_equal(got, dk.bald(torch.from_numpy(x), backend=backend).numpy())
    reverse = x[::-1, :, ::-1]  # negative strides
    assert np.allclose(dk.bald(reverse, backend=backend), got[::-1], atol=TOLERANCE)
    x.setflags(write=False)
    assert np.array_equal(dk.bald(x, backend=backend), got)


def test_the_input_is_not_written_to():
    x = draw((5, 7, 16, 16))
    before = x.clone()
    dk.disagreement(x, x[0], outputs=NATIVE, sample_dim=0, class_dim=1)
    assert torch.equal(x, before)


def test_gradients_are_left_behind():
    assert not dk.bald(draw((4, 3, 2)).requires_grad_()).requires_grad


def test_power_bald_is_bald_plus_seeded_noise():
    x = draw((500, 4, 6))
    first, again = (dk.power_bald(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    other = dk.power_bald(x, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    cold = dk.power_bald(x, generator=torch.Generator().manual_seed(3), beta=1e9)
    assert torch.allclose(cold, dk.bald(x).log(), atol=1e-5)
    got = dk.power_bald(x.numpy(), generator=torch.Generator().manual_seed(3))
    assert isinstance(got, np.ndarray)
    assert np.array_equal(got, first.numpy())
    pareto = dk.power_bald(x, generator=torch.Generator().manual_seed(3), noise="pareto")
    assert bool((pareto >= dk.bald(x).log() + 1 - 1e-5).all())  # a Pareto(1, 1) variable is at least 1


def test_power_bald_draws_in_proportion_to_a_power_of_bald():
    x = torch.tensor([[[9.0, 0.0], [0.0, 9.0]], [[1.0, 0.0], [0.0, 1.0]]])
    information = dk.bald(x).double()
    generator = torch.Generator().manual_seed(0)
    repeated = x.repeat(20000, 1, 1)
    for beta in (1.0, 2.0):
        winners = dk.power_bald(repeated, generator=generator, beta=beta).view(-1, 2).argmax(-1)
        share = information[0] ** beta / (information**beta).sum()
        sigma = math.sqrt(float(share * (1 - share)) / 20000)
        assert abs(float((winners == 0).double().mean() - share)) < 5 * sigma
