"""Disagreement and hypercolumns by the CUDA backend, against the float64 reference."""

import math

import pytest
import torch

from difal_kernels import disagreement, edald, entropy, hypercolumns
from feature_maps import CASES, DTYPES, far_apart, lay_out, make
from predictions import of_any_size, refuse_odd_probabilities, rounded_differences

SCORES = ("entropy", "bald", "expected_entropy", "edald", "margin", "least_confidence", "variation_ratio")
UNRANKED = ("entropy", "bald", "expected_entropy", "least_confidence")  # from registers, where the classes are few
TOLERANCE = 1e-6  # absolute, in nats


def logits(*shape, seed=0, dtype=torch.float32, spread=4.0):
    return (spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def agree(device, samples, single=None, outputs=SCORES, **options):
    want = disagreement(samples, single, outputs=outputs, backend="reference", **options)
    there = None if single is None else single.to(device)
    got = disagreement(samples.to(device), there, outputs=outputs, backend="cuda", **options)
    for name in outputs:
        torch.testing.assert_close(got[name].cpu(), want[name], rtol=0, atol=TOLERANCE, equal_nan=True, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 19, 64, 65, 300])
def test_scores(device, dtype, classes):
    x, single = logits(37, 4, classes, dtype=dtype), logits(37, classes, seed=1, dtype=dtype)
    agree(device, x, single, weight=0.7)
    agree(device, x.float().log_softmax(-1), single.float().log_softmax(-1), input="log_probs")
    agree(device, x.double().softmax(-1), single.double().softmax(-1), input="probs")


# Up to 32 classes are kept in registers, in kernels for some numbers of classes each.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_number_of_classes_that_fits_in_registers(device, dtype):
    for classes in range(1, 35):
        x, single = logits(5, 3, classes, dtype=dtype), logits(5, classes, seed=1, dtype=dtype)
        for name in ("bald", "edald", "entropy"):
            want = disagreement(x, single, outputs=(name,), backend="reference")[name]
            got = disagreement(x.to(device), single.to(device), outputs=(name,), backend="cuda")[name]
            torch.testing.assert_close(got.cpu(), want, rtol=0, atol=TOLERANCE, msg=f"{name} of {classes} classes")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_where_errors_add_up(device, dtype):
    """One class has much of the probability and the others are alike, or fall evenly: their errors have one sign."""
    masses = torch.tensor([0.05, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999])[:, None, None]
    for classes in (2, 3, 8, 19, 20, 32, 33, 64, 1000, 4000):
        x = torch.log((1 - masses) / (classes - 1)).expand(-1, 4, classes).clone()
        x[..., :1] = masses.log()
        falling = torch.linspace(0, -1, classes) * torch.tensor([1.0, 2.0, 4.0, 6.0, 9.0, 15.0])[:, None, None]
        x = torch.cat([x, falling.expand(-1, 4, -1)])
        moved = (x + torch.tensor([0.0, 3.0, -1e3, 1e4])[:, None]).to(dtype)
        turned = torch.stack([row.roll(k, -1) for k, row in enumerate(x.unbind(1))], 1).to(dtype)
        for rows in (moved, turned, turned.repeat(1, 2, 1)):
            for samples in (rows, rows.permute(1, 2, 0).contiguous().permute(2, 0, 1)):  # positions side by side
                want = disagreement(samples, outputs=("entropy", "bald", "expected_entropy"), backend="reference")
                got = disagreement(samples.to(device), outputs=tuple(want), backend="cuda")
                for name in want:
                    torch.testing.assert_close(got[name].cpu(), want[name], rtol=0, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_differences_that_are_rounded(device, dtype):
    for x, single in rounded_differences():
        for outputs in (SCORES, (*UNRANKED, "edald")):
            agree(device, x.to(dtype), single.to(dtype), outputs)


def test_layouts_and_mixed_types(device):
    x, single = logits(3, 19, 9, 11), logits(19, 9, 11, seed=1)
    options = {"sample_dim": 0, "class_dim": 1}
    agree(device, x, single, **options)
    memory = [t.movedim(-3, -1).contiguous().movedim(-1, -3) for t in (x, single)]  # classes side by side
    same = [edald(*(t.to(device) for t in pair), backend="cuda", **options) for pair in ((x, single), memory)]
    assert torch.equal(*same)
    agree(device, *memory, UNRANKED, **options)
    agree(device, x[:, :, ::2, 1:], single[:, ::2, 1:], **options)
    agree(device, x.half(), single.double(), **options)
    agree(device, x[:, :, :1].expand(3, 19, 5, 11), single[:, :1].expand(19, 5, 11), **options)


def test_saturated_and_impossible_classes(device):
    x = torch.tensor([[[60.0, -60.0, 0.0], [-math.inf, 40.0, 39.0]], [[1e30, -1e30, 0.0], [0.0, 0.0, 0.0]]])
    agree(device, x, x[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_largest_of_huge_logits_are_alike(device, dtype):
    """The second largest is as far from the largest as it is from it less 690, of which nothing is left."""
    for size in (1e20, 1e30, 3e38):
        agree(device, torch.tensor([size, -size, size, 0.0], dtype=dtype).expand(3, 1, 4), outputs=("margin",))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [1, 5, 19, 32])
def test_two_positions_of_half_precision_a_thread(device, dtype, classes):
    """Where two lie side by side they are read at once; the answer is the same to the last bit wherever they lie."""
    x, single = logits(3, classes, 4, 12, dtype=dtype), logits(classes, 4, 12, seed=1, dtype=dtype)
    options = {"sample_dim": 0, "class_dim": 1, "outputs": UNRANKED}

    def scores(samples, one):
        got = disagreement(samples, one, backend="cuda", **options)
        return torch.stack([got[name].cpu() for name in UNRANKED])

    def inside(t, rows, columns, at, step=1):
        """The same numbers within a larger array, so many rows and columns larger, from column `at` on."""
        shape = (*t.shape[:-2], t.shape[-2] + rows, step * t.shape[-1] + columns)
        view = torch.full(shape, math.nan, dtype=dtype, device=device)
        view = view[..., : t.shape[-2], at : at + step * t.shape[-1] : step]
        return view.copy_(t)

    agree(device, x, single, **options)
    want = scores(x.to(device), single.to(device))
    for place in ((0, 2, 0), (1, 1, 0), (0, 2, 1), (1, 0, 0), (0, 0, 0, 2), (0, 6, 2)):
        assert torch.equal(scores(inside(x, *place), single.to(device)), want), place
        assert torch.equal(scores(x.to(device), inside(single, *place)), want), place
    for rows, columns in ((4, 11), (3, 12), (1, 11), (1, 12)):
        some = scores(*(t[..., :rows, :columns].contiguous().to(device) for t in (x, single)))
        assert torch.equal(some, want[:, :rows, :columns])
    odd = scores(x.to(device)[..., :11], single.to(device)[..., :11])  # within rows of twelve
    assert torch.equal(odd, want[..., :11])
    # Strides of samples, classes and rows, and where the array begins, one of them odd.
    for *strides, begin in ((9001, 200, 16, 0), (9000, 201, 16, 0), (9000, 200, 13, 0), (9000, 200, 16, 1)):
        storage = torch.full((30_000,), math.nan, dtype=dtype, device=device)
        strided = storage.as_strided(x.shape, (*strides, 1), begin).copy_(x)
        of_one = torch.empty(10_000, dtype=dtype, device=device).as_strided(single.shape, (*strides[1:], 1), begin)
        assert torch.equal(scores(strided, single.to(device)), want), strides
        assert torch.equal(scores(x.to(device), of_one.copy_(single)), want), strides
    side_by_side = x.transpose(1, 3).contiguous().transpose(1, 3).to(device)  # classes
    assert torch.equal(scores(side_by_side, single.to(device)), want)
    assert torch.equal(scores(side_by_side, single.transpose(0, 2).contiguous().transpose(0, 2).to(device)), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_of_any_size(device, dtype):
    """Exponents are made in one multiply-add, which is rounded where the largest number is large."""
    turned, logs = of_any_size(dtype)
    for x in (turned, turned[:1].expand(3, -1, -1)):
        agree(device, x, x[1], outputs=UNRANKED, sample_dim=0)
        side_by_side = x.transpose(1, 2).contiguous()
        agree(device, side_by_side, side_by_side[1], outputs=UNRANKED, sample_dim=0, class_dim=1)
    logs = logs.transpose(1, 2).contiguous()
    agree(device, logs, logs[1], outputs=UNRANKED, sample_dim=0, class_dim=1, input="log_probs")


@pytest.mark.parametrize("samples", [1, 8, 9, 300])
@pytest.mark.parametrize("classes", [1, 3, 16, 31, 64, 70])
def test_many_samples(device, samples, classes):
    """Alike, so that what float32 additions lose does not cancel; and others."""
    for single in (None, logits(2, classes, seed=1)):
        outputs = SCORES if single is not None else tuple(name for name in SCORES if name != "edald")
        for x in (logits(2, 1, classes).expand(2, samples, classes), logits(2, samples, classes)):
            agree(device, x, single, outputs)
            agree(device, x, single, UNRANKED)
            agree(device, x.softmax(-1).half(), outputs=UNRANKED, input="probs")


def test_odd_probabilities(device):
    x = refuse_odd_probabilities(device, "cuda")
    agree(device, x, outputs=("entropy", "bald", "least_confidence"), input="probs", check_finite=False)


def test_invalid_places_are_named_and_nan_stays_where_it_is(device):
    x = logits(50, 3, 5)
    x[17, 1, 2], x[30, 0, 0] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"NaN for class 2 at position \(17,\), sample 1"):
        disagreement(x.to(device), backend="cuda")
    free = disagreement(x.to(device), backend="cuda", check_finite=False)["bald"].cpu()
    assert free.isnan().nonzero()[:, 0].tolist() == [17, 30]
    for kind in ("log_probs", "probs"):
        p = logits(4, 2, 3).log_softmax(-1)
        p = p.exp() if kind == "probs" else p
        p[1, 0, 2] = math.inf
        agree(device, p, p[:, 1], input=kind, check_finite=False)
    with pytest.raises(ValueError, match="sum to one"):
        entropy(torch.full((4, 3), 0.5).to(device), input="probs", backend="cuda")


@pytest.mark.parametrize(("positions", "position"), [(50, 16), (50, 17), (51, 17), (51, 49), (51, 50)])
@pytest.mark.parametrize("which", ["samples", "single"])
def test_which_of_two_positions_of_half_precision_is_invalid(device, positions, position, which):
    x, single = logits(3, 5, positions, dtype=torch.bfloat16), logits(5, positions, seed=1, dtype=torch.bfloat16)
    (x[1] if which == "samples" else single)[2, position] = math.nan
    with pytest.raises(ValueError, match=rf"NaN for class 2 at position \({position},\)"):
        edald(x.to(device), single.to(device), sample_dim=0, class_dim=1, backend="cuda")
    options = {"sample_dim": 0, "class_dim": 1, "outputs": ("edald", "bald", "entropy"), "check_finite": False}
    got = disagreement(x.to(device), single.to(device), backend="cuda", **options)
    assert got["edald"].isnan().nonzero()[:, 0].tolist() == [position]
    agree(device, x, single, **options)


def test_repeated_runs_are_bit_for_bit_the_same(device):
    x, single = logits(200, 5, 19).to(device), logits(200, 19, seed=1).to(device)
    assert torch.equal(edald(x, single, backend="cuda"), edald(x, single, backend="cuda"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hypercolumns(device, case, dtype):
    maps, size = make(case, dtype)
    generator = torch.Generator().manual_seed(0)
    points = torch.stack([torch.randint(s, (40,), generator=generator) for s in size], dim=1)
    image = torch.randint(len(maps[0]), (40,), generator=generator)
    for layout in ("contiguous", "channels-last", "sliced"):
        there = [lay_out(m, layout).to(device) for m in maps]
        want = hypercolumns(maps, points, size, image_index=image, backend="reference")
        got = hypercolumns(there, points.to(device), size, image_index=image.to(device), backend="cuda")
        torch.testing.assert_close(got.cpu(), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


def test_hypercolumns_too_wide_for_shared_memory(device):
    m = torch.randn(1, 30_000, 2, 2, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[0, 0], [3, 2]])
    want = hypercolumns([m], points, (4, 4), backend="reference")
    got = hypercolumns([m.to(device)], points.to(device), (4, 4), backend="cuda")
    torch.testing.assert_close(got.cpu(), want, rtol=1e-6, atol=1e-8)


def test_hypercolumns_name_what_is_not_finite(device):
    m = torch.ones(1, 2, 3, 3)
    m[0, 1, 2, 2] = math.nan
    with pytest.raises(ValueError, match=r"`maps\[0\]` must be finite, got nan at index \(0, 1, 2, 2\)"):
        hypercolumns([m.to(device)], torch.tensor([[2, 2]]).to(device), (3, 3), backend="cuda")


def test_addresses_beyond_two_to_the_31(device):
    m = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).half()
    points, image = torch.tensor([[0, 0], [5, 3], [2, 7]]), torch.tensor([1, 0, 1])
    want = hypercolumns([m], points, (6, 8), image_index=image, backend="reference")
    there = far_apart(m, device)
    got = hypercolumns([there], points.to(device), (6, 8), image_index=image.to(device), backend="cuda")
    torch.testing.assert_close(got.cpu(), want, rtol=2e-3, atol=1e-7)
    x = logits(2, 3, 5, 7, dtype=torch.float16)
    for options in ({"sample_dim": 1, "class_dim": 2}, {"sample_dim": 0, "class_dim": 1}, {"class_dim": 0}):
        want = disagreement(x, outputs=("entropy", "bald"), backend="reference", **options)
        got = disagreement(far_apart(x, device), outputs=("entropy", "bald"), backend="cuda", **options)
        for name in want:
            torch.testing.assert_close(got[name].cpu(), want[name], rtol=0, atol=TOLERANCE)
