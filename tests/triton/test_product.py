"""The one product of the GPU backends: its sums bit by bit, on tensor cores as bad as they may be, and kernel values.

Without a GPU the kernels are interpreted; a tensor core is then a model of one (`TensorCore`).
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from difal_kernels.ops import _triton
from difal_kernels.ops.maxherding import bounds
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.gpu.operands import (
    BAND,
    CHUNKS,
    STEPS,
    GpuOperands,
    aligned,
    packed_model,
    product_options,
    split,
    stages_on,
)
from difal_kernels.ops.maxherding.bounds import ROUNDINGS, UNIT, ErrorModel
from difal_kernels.ops.maxherding.kernel_functions import KERNEL_FUNCTIONS, kernel_matrix
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs

HALVES = (torch.bfloat16, torch.float16)


def halves_of(rows):
    """float32 rows as tensor cores get them, (N, 2 W) bfloat16."""
    n, d = rows.shape
    width = -(-d // CHUNKS[True]) * CHUNKS[True]
    out = torch.zeros(n, 2 * width, dtype=torch.bfloat16, device=rows.device)
    split(rows, out[:, :d], out[:, width : width + d])
    return out


def inner_products(x, y, chunk=None):
    """What `fill` makes of <x_i, y_j>, as float64: cosine's kernel function keeps what is positive, so in two parts."""
    from difal_kernels.ops.maxherding.backends.gpu import product_kernels

    raw = x.dtype in HALVES
    options = product_options(raw, stages_on(x.device))
    options["CHUNK"] = chunk or options["CHUNK"]
    turn = (lambda m: aligned(m, options["CHUNK"])) if raw else halves_of
    side = options["SIDE"]
    norms = torch.ones(max(len(x), len(y)), dtype=torch.float64, device=x.device)
    zeros = torch.zeros(len(norms), device=x.device)
    every = torch.arange(len(norms), device=x.device)
    model = packed_model(ErrorModel(sq_dist_rel_err=0.0, relative=0.0, absolute=np.inf), 1.0, x.device)
    tiles = -(-len(x) // side), -(-len(y) // side)
    unsure = torch.zeros(tiles, dtype=torch.int8, device=x.device)
    sides = []
    for a in (turn(x), turn(-x)):
        b, out = turn(y), torch.full((len(x), len(y)), torch.nan, device=x.device)
        with _triton.on(x.device):
            product_kernels.fill[(BAND, tiles[1], -(-tiles[0] // BAND))](
                a, b, out, out.stride(0), -(-x.shape[1] // options["CHUNK"]), every, every, len(x), len(y), zeros,
                zeros, norms.data_ptr(), model, unsure, 0, 0, KIND=KERNEL_FUNCTIONS["cosine"].code, **options,
            )  # fmt: skip
        sides.append(out.double().cpu())
    return sides[0] - sides[1]


def in_the_same_order(x, y):
    """The same in numpy: a dot is a product of matrices as the interpreter makes it, all else is float32 in order."""
    raw = x.dtype in HALVES
    chunk, step = CHUNKS[not raw], STEPS[not raw]
    a, b = ((aligned(m, chunk) if raw else halves_of(m)).float().numpy() for m in (x, y))
    width = -(-x.shape[1] // chunk) * chunk
    a, b = (np.pad(m[:, : m.shape[1]], ((0, 64 - len(m)), (0, (1 if raw else 2) * width - m.shape[1]))) for m in (a, b))
    total = np.zeros((64, 64), np.float32)
    for d in range(0, width, chunk):
        part = np.zeros((64, 64), np.float32)
        for k in range(d, d + chunk, step):
            for own, other in ((k, k),) if raw else ((k, width + k), (width + k, k), (k, k)):
                part = np.matmul(a[:, own : own + step], b[:, other : other + step].T) + part
        total = total + part
    return total[: len(x), : len(y)]


@dataclass(frozen=True)
class TensorCore:
    """How one sums, as far as it is known (docs/exactness.md): `products` at a time and the sum so far, aligned to the
    largest of them, `bits` kept after its leading one; cut off, and so is their sum, to 24 bits.

    `lowest`: the exponent of the smallest normal number; what is smaller is aligned as if it were as large.
    """

    bits: int
    products: int
    lowest: int

    def multiply(self, x, y, sums):
        """sums + x @ y of float64 arrays."""
        x_exponents, y_exponents = (np.maximum(np.frexp(v)[1] - 1, self.lowest) for v in (x, y))
        for k in range(0, x.shape[1], self.products):
            some = slice(k, k + self.products)
            terms = np.concatenate([sums[:, None], x[:, some, None] * y[None, some]], axis=1)
            exponents = np.concatenate(
                [np.frexp(sums)[1][:, None] - 1, x_exponents[:, some, None] + y_exponents[None, some]], axis=1
            )
            largest = np.where(terms == 0, -(2**20), exponents).max(1)
            sums = cut(terms, largest[:, None] - self.bits).sum(1)
            sums = cut(sums, np.frexp(sums)[1] - 24)
        return sums


def cut(values, exponents):
    """To multiples of these powers of two, towards zero."""
    unit = np.ldexp(1.0, np.maximum(exponents, -1000))
    return np.trunc(values / unit) * unit


WORST = TensorCore(bits=23, products=4, lowest=-126)  # of a V100, and of any that was measured
HALVES_ON_AN_A100 = TensorCore(bits=24, products=8, lowest=-14)


@pytest.fixture
def put_in(gpu, monkeypatch):
    """Put a tensor core in the interpreter's dot; a GPU has its own."""

    def put(core):
        if gpu:
            return
        from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

        def dot(self, a, b, d, *options):
            sums = core.multiply(*(v.data.astype(np.float64) for v in (a, b, d)))
            return TensorHandle(sums.astype(np.float32), d.dtype.scalar)

        monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)

    return put


@pytest.fixture
def cut_off(put_in):
    put_in(WORST)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("numbers", [3, 128, 400])
def test_sums_are_made_in_the_order_that_the_bound_assumes(device, gpu, dtype, numbers):
    x, y = normal(40, numbers).to(dtype), normal(50, numbers, seed=1).to(dtype)
    if not gpu:  # to the last bit: sums of CHUNK numbers from zero, and sums of those
        np.testing.assert_array_equal(inner_products(x, y).numpy(), in_the_same_order(x, y).astype(np.float64))
    whole = torch.randint(-8, 9, (2, 70, numbers), generator=torch.Generator().manual_seed(2)).to(dtype)
    got = inner_products(whole[0].to(device), whole[1].to(device))
    assert torch.equal(got, whole[0].double() @ whole[1].double().T)  # exact in any order


def lost(chunks):
    """Rows of half precision of which a tensor core loses all but one number of each of these chunks, or of the
    first."""
    size = 8 * CHUNKS[False]
    x = torch.full((2, size), 255 / 256 * 2.0**-11, dtype=torch.float64)
    y = torch.full((2, size), 2.0**-12, dtype=torch.float64)  # products just below 2^-23
    for row, places in enumerate((range(0, chunks * CHUNKS[False], CHUNKS[False]), range(1))):
        x[row, places], y[row, places] = 1.0, 1.0
    return x.bfloat16(), y.bfloat16()


def relative_error(got, x, y):
    x, y = x.double().cpu(), y.double().cpu()
    return ((got - x @ y.T).abs() / (x.norm(dim=1)[:, None] * y.norm(dim=1))).max()


def test_a_tensor_core_loses_no_more_than_is_charged_and_more_than_half(device, gpu, cut_off):
    x, y = (m.to(device) for m in lost(8))
    bound = bounds.tensor_core_rel_err(x.shape[1], CHUNKS[False])
    assert relative_error(inner_products(x, y), x, y) <= bound
    if not gpu:
        halved = replace(ROUNDINGS, tensor_core=ROUNDINGS.tensor_core / 2)
        assert relative_error(inner_products(x, y), x, y) > bounds.tensor_core_rel_err(
            x.shape[1], CHUNKS[False], halved
        )
        assert relative_error(inner_products(x, y, chunk=x.shape[1]), x, y) > 5 * bound  # one long sum


def test_squared_distances_of_numbers_below_float16s_normal_ones(device, gpu, put_in):
    """Such a number is aligned as if it were 2^-14, and so loses more than its share: not more than the other row's."""
    put_in(HALVES_ON_AN_A100)
    x = torch.zeros(4, CHUNKS[False], dtype=torch.float64)
    x[0], x[1] = 2.0**-24, 2.0**-10 * (1 + 1023 / 1024)
    x[1, 0] = 1
    x[2] = 2.0**-24 * torch.arange(1, 1 + CHUNKS[False])
    x[3] = x[1] * 2.0**-14
    x = x.half().to(device)
    exact = x.double() @ x.double().T
    error = (inner_products(x, x).to(device) - exact).abs()
    sq_norms = exact.diagonal()
    bound = bounds.tensor_core_rel_err(x.shape[1], CHUNKS[False])
    assert bool((2 * error <= bound * (sq_norms[:, None] + sq_norms)).all())
    if not gpu:
        assert float(error[0, 1]) > bound * float((sq_norms[0] * sq_norms[1]).sqrt())
        assert float(error[0, 2]) == 0  # nothing is normal: all are aligned alike


def split_rows():
    """float32 rows whose halves leave the most out, with low bits everywhere, and of mixed sizes."""
    worst = torch.full((1, 300), 1 + 2.0**-8 - 2.0**-17 - 2.0**-20)
    first = worst.clone()
    first[:, 1:] *= 2.0**-8
    mixed = normal(2, 300) * torch.logspace(-6, 2, 300)
    return torch.cat([worst, first, mixed, torch.nn.functional.normalize(normal(4, 300, seed=3), dim=1)])


def test_split_rows_lose_no_more_than_is_charged(device, cut_off):
    x = split_rows().to(device)
    assert relative_error(inner_products(x, x), x, x) <= bounds.split_rel_err(x.shape[1], CHUNKS[True])


def test_the_bounds_of_long_rows(device):
    x = torch.nn.functional.normalize(normal(4, 6144), dim=1).to(device)
    for dtype, most in ((torch.float32, 8e-5), (torch.bfloat16, 3e-5), (torch.float16, 3e-5)):
        own = GpuOperands(prepare(x.to(dtype), 2).problems[0], BACKENDS["triton"].tuning)
        assert own.raw == (dtype in HALVES)
        assert 2e-5 < own.error.sq_dist_rel_err < most
    assert bounds.gemm_rel_err(6144) > 4 * 8e-5  # which plain float32 products would have


KINDS = {
    "blobs": lambda: blobs(70, 40, dtype=torch.float64),
    "near duplicates": lambda: torch.cat([blobs(35, 40), blobs(35, 40) + 1e-3]).double(),
    "far away": lambda: blobs(70, 40, dtype=torch.float64) + 200,
}


FUNCTIONS = [name for name in KERNEL_FUNCTIONS if name != "precomputed"]
ELSEWHERE = [(kind, name) for kind in ("near duplicates", "far away") for name in ("rbf", "laplace", "cosine")]


@pytest.mark.parametrize(("kind", "kernel"), [*(("blobs", name) for name in FUNCTIONS), *ELSEWHERE])
def test_kernel_values_are_within_their_bounds(device, cut_off, kernel, kind):
    """Of all pairs, in both halves and on the diagonal, and of some rows and columns alone: the same within bounds."""
    for dtype in (torch.float32, torch.bfloat16) if kind == "blobs" else (torch.float32,):
        x = KINDS[kind]().to(dtype).to(device)
        (p,) = prepare(x, 2, kernel=kernel, bandwidth="median" if kernel == "cosine" else 9.0).problems
        own = GpuOperands(p, BACKENDS["triton"].tuning)
        want = kernel_matrix(p.features, p.features, p.kernel, p.bandwidth)
        bound = bounds.entry_bound(own.error, kernel, want, own.sq_norms[:, None] + own.sq_norms)
        bound = bound * (1 + 1e-3) + UNIT * want  # at the estimate, that is; and float64 rounded to float32
        with _triton.on(device):
            k = own.fill(torch.full((70, 70), torch.nan, device=device), own.every, own.every, mirrored=True)
            rows, columns = own.every[3:9], own.every[[60, 5, 3, 69]]
            some = own.fill(torch.full((6, 4), torch.nan, device=device), rows, columns)
        counted = want >= 1e-30
        assert torch.equal(k, k.T)
        assert bool(((k.clamp(min=0) - want).abs() <= bound)[counted].all())
        assert bool((k.diagonal() == want.diagonal().round()).all())
        assert bool(((some.clamp(min=0) - want[rows][:, columns]).abs() <= bound[rows][:, columns]).all())
