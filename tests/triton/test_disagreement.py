"""Disagreement by the Triton backend, against the float64 reference."""

import math

import numpy as np
import pytest
import torch

from difal_kernels import BackendUnavailableError, available_backends, bald, disagreement, edald, entropy
from difal_kernels.ops.disagreement import cpu, problem, triton
from feature_maps import far_apart
from predictions import of_any_size, refuse_odd_probabilities, rounded_differences

SCORES = ("entropy", "bald", "expected_entropy", "edald", "margin", "least_confidence", "variation_ratio")
UNRANKED = tuple(name for name in SCORES if name != "variation_ratio")  # those of which a thread takes two positions
TOLERANCE = 1e-6  # absolute, in nats


def logits(*shape, seed=0, dtype=torch.float32, spread=4.0):
    return (spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def agree(device, samples, single=None, outputs=SCORES, **options):
    want = disagreement(samples, single, outputs=outputs, backend="reference", **options)
    there = None if single is None else single.to(device)
    got = disagreement(samples.to(device), there, outputs=outputs, backend="triton", **options)
    for name in outputs:
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name].cpu(), want[name], rtol=0, atol=TOLERANCE, equal_nan=True, msg=name)
    return got


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_differences_that_are_rounded(device, dtype):
    for x, single in rounded_differences():
        agree(device, x.to(dtype), single.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 19, 130])
def test_scores(device, dtype, classes):
    x, single = logits(37, 4, classes, dtype=dtype), logits(37, classes, seed=1, dtype=dtype)
    agree(device, x, single, weight=0.7)
    agree(device, x.float().log_softmax(-1), single.float().log_softmax(-1), input="log_probs")
    agree(device, x.double().softmax(-1), single.double().softmax(-1), input="probs")


def test_layouts_and_mixed_types(device):
    x, single = logits(3, 19, 9, 11), logits(19, 9, 11, seed=1)
    options = {"sample_dim": 0, "class_dim": 1}
    agree(device, x, single, **options)
    agree(device, x[:, :, ::2, 1:], single[:, ::2, 1:], **options)
    agree(device, x.half(), single.double(), **options)
    agree(device, x[:, :, :1].expand(3, 19, 5, 11), single[:, :1].expand(19, 5, 11), **options)
    agree(device, logits(3, 70, 9, 5), logits(70, 9, 5, seed=1), **options)  # more than a thread holds
    x = logits(2, 3, 5, 4, 7, 6)
    agree(device, x.permute(3, 0, 5, 1, 4, 2), outputs=("entropy", "bald"), sample_dim=1, class_dim=4)


def test_classes_side_by_side_in_one_of_two(device):
    """More than a thread holds: where both have them so, a warp reads lines."""
    x, single = logits(4, 3, 70), logits(4, 70, seed=1)
    apart, single_apart = x.permute(2, 0, 1).contiguous().permute(1, 2, 0), single.T.contiguous().T
    for samples, one in ((x, single), (apart, single), (x, single_apart), (apart, single_apart)):
        agree(device, samples, one)
    agree(device, x, single.double().T.contiguous().T)


@pytest.mark.parametrize(("samples", "classes"), [(8, 19), (9, 70), (9, 1), (300, 16)])
def test_many_samples(device, samples, classes):
    """Alike, so that what float32 additions lose does not cancel; and others."""
    for x in (logits(2, 1, classes).expand(2, samples, classes), logits(2, samples, classes)):
        agree(device, x, outputs=("entropy", "bald", "least_confidence"))


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@HALVES
def test_half_precision_of_any_size(device, dtype):
    """Exponents of a prediction are made in one multiply-add, which is rounded where its largest number is large."""
    turned, logs = of_any_size(dtype)
    for x in (turned, turned[:1].expand(3, -1, -1)):
        agree(device, x, x[1], outputs=SCORES, sample_dim=0)
        side_by_side = x.transpose(1, 2).contiguous()
        agree(device, side_by_side, side_by_side[1], outputs=UNRANKED, sample_dim=0, class_dim=1)
    agree(device, logs, logs[1], outputs=UNRANKED, sample_dim=0, input="log_probs")
    logs = logs.transpose(1, 2).contiguous()
    agree(device, logs, logs[1], outputs=UNRANKED, sample_dim=0, class_dim=1, input="log_probs")


@HALVES
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 7, 19, 32])
def test_two_positions_of_half_precision_side_by_side(device, dtype, classes):
    """Where both can be read at once, and where one cannot."""
    x, single = logits(2, classes, 6, 44, dtype=dtype), logits(classes, 6, 44, seed=1, dtype=dtype)

    def pairs(x, single, outputs=UNRANKED):
        checked = problem.prepare(x, single, outputs=outputs, sample_dim=0, class_dim=1)
        return triton.in_pairs(checked, *cpu._merged_positions(checked))

    cuts = [(x, single), (x[:, :, 1:, 2:], single[:, 1:, 2:]), (x[..., ::2, :], single[..., ::2, :])]
    odd = [(x[..., 1:], single[..., 1:]), (x[..., ::2], single[..., ::2]), (x[..., 1:-1], single[..., 1:-1])]
    odd += [(x, single[..., 1:2].expand(single.shape))]
    for samples, one in cuts + odd:
        agree(device, samples, one, outputs=UNRANKED, sample_dim=0, class_dim=1)
        assert not pairs(samples, one, SCORES)
    assert all(pairs(*cut) for cut in cuts)
    assert not any(pairs(*cut) for cut in odd)
    assert not pairs(x.float(), single.float())
    agree(device, x[:, :, :2], outputs=("bald", "margin", "entropy"), sample_dim=0, class_dim=1)
    bad = x.clone()
    bad[1, 0, 5, 43] = bad[0, 0, 5, 42] = math.nan
    with pytest.raises(ValueError, match=r"at position \(5, 42\), sample 0"):
        bald(bad.to(device), sample_dim=0, class_dim=1, backend="triton")
    found = bald(bad.to(device), sample_dim=0, class_dim=1, check_finite=False, backend="triton")
    assert found.cpu().isnan().nonzero().tolist() == [[5, 42], [5, 43]]


def test_many_classes_far_below_the_largest(device):
    """Each of them is less than what is summed without a rounding, and together they are more than the largest."""
    for classes in (1000, 4096):
        x = torch.full((3, 2, classes), -7.7)
        x[:, 0, 0] = x[:, 1, 5] = 0
        x[2] = torch.arange(classes) * -1e-3
        agree(device, x, x[:, 0])


def test_without_single_and_one_score_at_a_time(device):
    x = logits(33, 5, 6)
    for name in SCORES:
        if name != "edald":
            agree(device, x, outputs=(name,))
    assert entropy(x.to(device)[0, 0], backend="triton").shape == ()
    assert bald(x.to(device)[:0], backend="triton").shape == (0,)
    agree(device, x[:, :1], outputs=("bald", "variation_ratio"))


def test_saturated_and_impossible_classes(device):
    x = torch.tensor([[[60.0, -60.0, 0.0], [-math.inf, 40.0, 39.0]], [[1e30, -1e30, 0.0], [0.0, 0.0, 0.0]]])
    agree(device, x, x[:, 0])
    agree(device, 1e4 * logits(20, 5, 7), 1e4 * logits(20, 7, seed=2))
    agree(device, 1e300 * logits(20, 5, 7).double(), 1e300 * logits(20, 7, seed=2).double())
    agree(device, torch.eye(4).expand(3, 4, 4), torch.eye(4)[:3], input="probs")


def test_bald_is_within_its_bounds(device):
    votes = torch.where(torch.eye(4, dtype=torch.bool), 80.0, 0.0).expand(50, 4, 4)  # each sample sure of another
    found = bald(votes.to(device), backend="triton").double()
    assert float(found.max()) <= math.log(4)
    same = logits(500, 1, 19).expand(500, 6, 19)
    assert float(bald(same.to(device), backend="triton").min()) >= 0


def test_odd_probabilities(device):
    x = refuse_odd_probabilities(device, "triton")
    agree(device, x, outputs=("entropy", "bald", "least_confidence"), input="probs", check_finite=False)


def test_invalid_places_are_named_and_nan_stays_where_it_is(device):
    x = logits(50, 3, 5)
    x[17, 1, 2], x[30, 0, 0], x[40, 2] = math.nan, math.inf, -math.inf
    with pytest.raises(ValueError, match=r"NaN for class 2 at position \(17,\), sample 1"):
        disagreement(x.to(device), backend="triton")
    outputs = ("entropy", "bald", "expected_entropy", "margin", "least_confidence", "variation_ratio")
    free = agree(device, x, outputs=outputs, check_finite=False)
    for name in outputs:
        assert free[name].cpu().isnan().nonzero()[:, 0].tolist() == [17, 30, 40], name
    for bad in (torch.full((4, 3), 0.5), torch.tensor([[1.5, -0.5]]), torch.tensor([[1.0, -math.inf]])):
        with pytest.raises(ValueError, match=r"sum to one|negative"):
            entropy(bad.to(device), input="probs", backend="triton")
    with pytest.raises(ValueError, match="sum to one"):
        entropy(logits(4, 3).to(device), input="log_probs", backend="triton")
    p = torch.tensor([[[0.5, math.nan, 0.5], [1.0, 0.0, 0.0]], [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]])
    agree(device, p, outputs=outputs, input="probs", check_finite=False)
    agree(
        device,
        logits(4, 2, 3).log_softmax(-1).index_fill(0, torch.tensor(1), math.nan),
        outputs=outputs,
        input="log_probs",
        check_finite=False,
    )
    for kind in ("log_probs", "probs"):
        p = logits(4, 2, 3).log_softmax(-1)
        p = p.exp() if kind == "probs" else p
        p[1, 0, 2] = math.inf
        agree(device, p, outputs=outputs, input=kind, check_finite=False)
    p = logits(4, 2, 3).log_softmax(-1).index_fill(0, torch.tensor(1), -math.inf)
    agree(device, p, outputs=outputs, input="log_probs", check_finite=False)
    single = logits(50, 5)
    single[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"`single` must hold no NaN, got NaN for class 1 at position \(3,\)"):
        edald(logits(50, 3, 5).to(device), single.to(device), backend="triton")


def test_numpy_in_numpy_out(device, gpu):
    x = logits(9, 3, 5).numpy()
    if gpu:
        with pytest.raises(BackendUnavailableError, match="the input is on cpu"):
            bald(x, backend="triton")
        return
    found = bald(x, backend="triton")
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, bald(x, backend="reference"), rtol=0, atol=TOLERANCE)


def test_it_is_among_the_backends(device):
    assert "triton" in available_backends("disagreement")
    assert "triton" in available_backends("bald")


def test_addresses_beyond_two_to_the_31(device):
    x = logits(2, 3, 5, 7, dtype=torch.float16)
    for options in ({"sample_dim": 1, "class_dim": 2}, {"sample_dim": 0, "class_dim": 1}, {"class_dim": 0}):
        want = disagreement(x, outputs=("entropy", "bald"), backend="reference", **options)
        got = disagreement(far_apart(x, device), outputs=("entropy", "bald"), backend="triton", **options)
        for name in want:
            torch.testing.assert_close(got[name].cpu(), want[name], rtol=0, atol=TOLERANCE)
