"""The error analysis: no rounding is larger than `bounds` says, each can be more than half of it, and kernel values of
every function, dtype and product are within the bound of an entry."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from difal_kernels._native import load
from difal_kernels._precision import full_precision
from difal_kernels.ops.maxherding import bounds
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu.greedy import make_native
from difal_kernels.ops.maxherding.backends.cpu.products import Float32Products, Frame, Int16Products
from difal_kernels.ops.maxherding.backends.gpu.operands import split as halve
from difal_kernels.ops.maxherding.bounds import ROUNDINGS, UNIT, ErrorModel
from difal_kernels.ops.maxherding.kernel_functions import KERNEL_FUNCTIONS, OF_FEATURES, kernel_matrix
from difal_kernels.ops.maxherding.problem import Problem
from int16_layout import integers_and_steps
from selection import blobs

CPU = BACKENDS["cpu"]
pytestmark = pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))
FAR = 1 + 1e-9  # float64 itself rounds


def numbers(*shape, seed=0):
    """Numbers from 1 to 2, most of them near 1, where a rounding is largest beside the number."""
    return 1 + torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 8


def bandwidths():
    """Those of which the float32 reciprocal is too small by nearly u, or too large."""
    h = 1 - (2 * torch.arange(1, 4000, dtype=torch.float64) + 1) * 2.0**-24
    order = ((1 / h).float().double() * h - 1).argsort()
    return h[torch.cat([order[:3], order[-3:]])].tolist()


def prepared(x, center, h, kind=Float32Products):
    frame = Frame(center, h)
    products = kind(frame, x.shape[1]) if kind is Float32Products else kind(frame, x.shape[1], 0.0)
    sq_norms = torch.empty(len(x), dtype=torch.float32)
    return products, products.prepare(x, products.empty(len(x)), sq_norms), sq_norms


# Each stage: the largest error, over what the roundings `r` allow it.


def row(r):
    x = numbers(200_000, 1).float() * torch.tensor([1.0, -0.7])[torch.arange(200_000) % 2][:, None]
    worst = 0.0
    for h in bandwidths():
        for center in (0.0, 2.0**-25 * 1.01, 0.3):
            c = torch.tensor([center], dtype=torch.float32)
            _, a, _ = prepared(x, c, h)
            true = (x.double() - c.double()) / h
            worst = max(worst, float(((a.double() - true) / true).abs().max()))
    return worst / (r.row * UNIT)


def unit_row(r):
    x = numbers(50_000, 2).float()
    _, a, _ = prepared(x, None, 1.0)
    true = x.double() / x.double().norm(dim=1, keepdim=True)
    return float((a.double() - true).norm(dim=1).max()) / (r.unit_row * UNIT)


def sq_norm(r):
    x = numbers(50_000, 1).float()
    _, a, s = prepared(x, torch.zeros(1), 1.0)
    true = a.double().square().sum(1)
    return float(((s.double() - true) / true).abs().max()) / (r.sq_norm * UNIT)


def sq_dist(r):
    """s_i + s_j, and 2 g off that, as every backend writes it: two float32 operations."""
    generator = torch.Generator().manual_seed(0)
    s_i, share = numbers(500_000).float(), torch.rand(500_000, generator=generator, dtype=torch.float64)
    s_j = (s_i * share).float()
    g = -(s_i.double() * s_j.double()).sqrt().float()
    got = ((s_i + s_j) - 2 * g).double()
    total = s_i.double() + s_j.double()
    return float(((got - (total - 2 * g.double())).abs() / total).max()) / (r.sq_dist * UNIT)


def product(r):
    worst = 0.0
    for d in (1, 2, 7, 300):
        a, b = numbers(400, d, seed=1).float(), numbers(400, d, seed=2).float()
        out = torch.empty(400, 400)
        with full_precision():
            Float32Products(Frame(None, 1.0), d).multiply(a, b, out)
        off = (out.double() - a.double() @ b.double().T).abs() / (
            a.double().norm(dim=1)[:, None] * b.double().norm(dim=1)
        )
        worst = max(worst, float(off.max()) / bounds.gemm_rel_err(d, r))
    return worst


def int16_sum(r):
    worst = 0.0
    for d in (2, 31, 200):
        x, y = (numbers(320, d, seed=seed).float() for seed in (1, 2))
        products, a, _ = prepared(x, torch.zeros(d), 1.0, Int16Products)
        b = prepared(y, torch.zeros(d), 1.0, Int16Products)[1]
        out = torch.empty(320, 320)
        products.multiply(a, b, out)
        (q, s), (p, t) = ([v.double() for v in integers_and_steps(block, d)] for block in (a, b))
        true = (q @ p.T) * s[:, None] * t
        norms = (q.norm(dim=1) * s)[:, None] * (p.norm(dim=1) * t)
        bound = bounds.int16_rel_err(load("_cpu").int16_roundings(d), 0.0, r)
        worst = max(worst, float(((out.double() - true).abs() / norms).max()) / bound)
    return worst


def split(r):
    """Two bfloat16 numbers for one of float32, and three products of theirs."""
    x = torch.cat([numbers(2000, 1), 1 + 2.0**-8 - torch.arange(1, 64)[:, None] * 2.0**-20]).float()
    high, low = torch.empty(2, *x.shape, dtype=torch.bfloat16)
    halve(x, high, low)
    x, high, low = x.double(), high.double(), low.double()
    made = high @ high.T + high @ low.T + low @ high.T
    return float(((made - x @ x.T).abs() / (x @ x.T)).max()) / (r.second_order * r.split * 2.0**-16)


def native_values(kernel, products, sq_norms, error, features=None, bandwidth=1.0):
    """What csrc makes of inner products of point 0 with all others: entries 1 to N - 1 of row 0."""
    n = len(sq_norms)
    features = torch.arange(n, dtype=torch.float32)[:, None].contiguous() if features is None else features
    p = Problem(features, 1, None, None, torch.ones(n, dtype=torch.float64), kernel, bandwidth)
    native, _keep = make_native("TiledGreedy", p, features, sq_norms, error, 1)
    line = torch.zeros(1, -(-n // 32) * 32, dtype=torch.float32)
    line[0, :n] = products
    rows = torch.zeros(1, dtype=torch.int64)
    native.kernel_rows(rows.data_ptr(), 1, 0, n, line.data_ptr(), line.shape[1])
    return line[0, 1:n].double()


def exactly(kernel, q):
    """f(q) in float64."""
    return kernel_matrix(torch.zeros(1, 1, dtype=torch.float64), q.sqrt()[:, None], kernel, 1.0)[0]


def evaluation(r):
    """f at a squared distance that is known exactly; laplace's beyond has its root's error in the slope."""
    worst, sure = 0.0, ErrorModel(sq_dist_rel_err=0.0, relative=0.0, absolute=0.0)
    for kernel, function in KERNEL_FUNCTIONS.items():
        if function.largest_slope == 0:  # not a smooth function of the squared distance
            continue
        most = 4.0 if kernel == "laplace" else 60.0
        q = torch.rand(300_000, generator=torch.Generator().manual_seed(0)) * most
        q[0] = 0.0
        got, true = native_values(kernel, torch.zeros(len(q)), q, sure), exactly(kernel, q[1:].double())
        worst = max(worst, float(((got - true) / true).abs().max()))
    return worst / (r.evaluation * UNIT)


def coverage(r):
    m = numbers(50_000) / 2
    return float(((m.float().double() - m) / m).max()) / (r.coverage * UNIT)


def value(r):
    return coverage(r) * r.coverage / r.value


def entry(r):
    """A kernel value to 16 bits and back, in float32, as csrc writes it."""
    k = torch.rand(500_000, generator=torch.Generator().manual_seed(0)).numpy()
    steps = np.float32(bounds.STEPS)
    back = (k * steps + np.float32(0.5)).astype(np.int32).astype(np.float32) * (np.float32(1) / steps)
    return float(np.abs(back.astype(np.float64) - k).max()) * bounds.STEPS / r.entry


def opposite(h):
    """Numbers whose distance to their own opposite is the most wrong in float32 and units of h, and how wrong it is."""
    x = (1 + torch.arange(400_000, dtype=torch.float64) * 2.0**-23).float()[:, None]
    _, a, s = prepared(x, torch.zeros(1), h)
    q = (s + s) + 2 * (a[:, 0] * a[:, 0])  # a product of single numbers is rounded once
    true = (2 * x[:, 0].double() / h) ** 2
    wrong = (q.double() - true).abs() / (2 * s.double())
    worst = wrong.argsort(descending=True)[:64]
    return x[worst, 0], float(wrong[worst[0]])


def second_order(r):
    """All stages of a squared distance at once."""
    allowed = bounds.error_model("cauchy", bounds.gemm_rel_err(1, r), r=r).sq_dist_rel_err
    return max(opposite(h)[1] for h in bandwidths()) / allowed


STAGES = (row, unit_row, sq_norm, sq_dist, product, int16_sum, split, evaluation, coverage, value, entry, second_order)


def test_every_rounding_has_a_stage():
    """A tensor core's sums are driven where its kernels run: tests/triton/test_product.py."""
    assert {stage.__name__ for stage in STAGES} == {field.name for field in fields(ROUNDINGS)} - {"tensor_core"}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_rounding_is_within_its_bound_and_half_of_it_is_too_little(stage):
    assert stage(ROUNDINGS) <= FAR
    halved = replace(ROUNDINGS, **{stage.__name__: getattr(ROUNDINGS, stage.__name__) / 2})
    assert stage(halved) > FAR


def adversarial(kind, dtype):
    x = {
        "blobs": lambda: blobs(160, 40, dtype=torch.float64),
        "far from the origin": lambda: blobs(160, 40, dtype=torch.float64) + 200,
        "near duplicates": lambda: torch.cat([blobs(80, 40), blobs(80, 40) + 1e-3]).double(),
        "one large number": lambda: blobs(160, 40, dtype=torch.float64) * torch.logspace(0, 2, 40, dtype=torch.float64),
        "opposite numbers": lambda: (opposite(bandwidths()[0])[0].double() * torch.tensor([[1.0], [-1.0]])).view(-1, 1),
        "signs": lambda: blobs(160, 40, dtype=torch.float64).sign() * (1 + 2.0**-12),
    }[kind]()
    return x.to(dtype)


KINDS = ("blobs", "far from the origin", "near duplicates", "one large number", "opposite numbers", "signs")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("integers", [False, True], ids=["float32", "int16"])
@pytest.mark.parametrize("kernel", OF_FEATURES)
def test_the_bound_of_an_entry(kernel, integers, kind, dtype):
    given = adversarial(kind, dtype)
    x = given if dtype == torch.float64 else given.float()
    n, d = x.shape
    for h in (bandwidths()[0], 6.0) if kernel != "cosine" else (1.0,):
        center = None if kernel == "cosine" else x.mean(0)
        frame = Frame(center, h)
        if integers:
            products = Int16Products(frame, d, Int16Products.rounding_of(frame, x))
            if not products.rounding < 0.25:
                continue
        else:
            products = Float32Products(frame, d)
        sq_norms = torch.empty(n, dtype=torch.float32)
        rows = products.prepare(x, products.empty(n), sq_norms)
        if integers and kernel != "cosine":
            Int16Products.rounding_of(frame, x, sq_norms)
        out = torch.empty(n, n)
        with full_precision():
            products.multiply(products.part(rows, 0, n), rows, out)
        model = bounds.error_model(kernel, products.rel_err)
        got = native_values(kernel, out[0], sq_norms, model, x, h)
        want = kernel_matrix(given[:1], given[1:], kernel, h)[0]
        counted = want >= 1e-30  # below, a value counts as 0
        bound = bounds.entry_bound(model, kernel, got.clamp(min=0), sq_norms[0].double() + sq_norms[1:].double())
        off = (got.clamp(min=0) - want).abs()[counted]
        assert bool((off <= bound[counted] * FAR).all()), float((off / bound[counted]).max())
