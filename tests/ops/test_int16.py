"""Products in 16-bit integers: within their bound, exact where they must be, and used where they are worth it."""

import numpy as np
import pytest
import torch

from difal_kernels import maxherding
from difal_kernels._native import load
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu.operands import GemmOperands
from difal_kernels.ops.maxherding.backends.cpu.products import Float32Products, Frame, Int16Products
from difal_kernels.ops.maxherding.backends.cpu.tuning import CpuTuning
from difal_kernels.ops.maxherding.problem import prepare
from instruction_sets import run_under
from int16_layout import integers_and_steps
from selection import use

CPU = BACKENDS["cpu"]
pytestmark = pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))


def rows(kind, n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    if kind == "one large number":
        x[torch.arange(n), torch.randint(d, (n,), generator=generator)] *= 1e4
    if kind == "one group":
        x[:, 32:] *= 1e-3
    if kind == "all as large":
        x = x.sign()
    if kind == "of many sizes":
        x *= 10.0 ** torch.randint(-12, 12, (n, 1), generator=generator)
    if kind == "some zero":
        x[::3] = 0
    return x


def multiplied(a, b):
    """Products of all rows of a with those of b, and how far they may be off."""
    frame = Frame(torch.zeros(a.shape[1], dtype=a.dtype), 1.0)
    error = max(Int16Products.rounding_of(frame, a), Int16Products.rounding_of(frame, b))
    arithmetic = Int16Products(frame, a.shape[1], error)
    left, right = (arithmetic.prepare(x, arithmetic.empty(len(x))) for x in (a, b))
    out = torch.full((len(a), len(b) + 3), 7.0)
    arithmetic.multiply(left, right, out[:, : len(b)])
    assert (out[:, len(b) :] == 7).all()  # nothing is written beside it
    turned = torch.empty(len(b), len(a))
    arithmetic.multiply(right, left, turned)
    assert torch.equal(turned.T, out[:, : len(b)])
    return out[:, : len(b)].double(), arithmetic.rel_err * a.double().norm(dim=1)[:, None] * b.double().norm(dim=1)


KINDS = ("ordinary", "one large number", "one group", "all as large", "of many sizes", "some zero")
SHAPES = ((1, 1, 1), (5, 17, 3), (16, 48, 32), (17, 50, 33), (67, 31, 200), (30, 113, 769), (5, 50, 2100))


def check(kind, shape, dtype):
    n, m, d = shape
    a, b = rows(kind, n, d, 1).to(dtype), rows(kind, m, d, 2).to(dtype)
    got, bound = multiplied(a, b)
    off = (got - a.float().double() @ b.float().double().T).abs()
    assert (off <= bound * (1 + 1e-12)).all(), (kind, shape, dtype, float((off / bound).max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_within_their_bound(kind, shape, dtype):
    check(kind, shape, dtype)


def layouts(a, b):
    """Products, and what they must be to the last bit where integers are summed exactly: for a row, or a group."""
    frame, d = Frame(torch.zeros(a.shape[1]), 1.0), a.shape[1]
    arithmetic = Int16Products(frame, d, 0.0)
    left, right = (arithmetic.prepare(x, arithmetic.empty(len(x))) for x in (a, b))
    out = torch.empty(len(a), len(b))
    arithmetic.multiply(left, right, out)
    (x, x_steps), (y, y_steps) = (
        [v[: len(of)].numpy() for v in integers_and_steps(block, d)] for block, of in ((left, a), (right, b))
    )
    if load("_cpu").int16_in_tiles(d):
        high, rest = np.divmod(x @ y.T, 65536)
        total = (high.astype(np.float32).astype(np.float64) * 65536 + rest).astype(np.float32)
    else:
        total = np.zeros((len(a), len(b)), dtype=np.float32)
        for begin in range(0, x.shape[1], 32):
            total += (x[:, begin : begin + 32] @ y[:, begin : begin + 32].T).astype(np.float32)
    return out.numpy(), total * (x_steps[:, None] * y_steps), x, x_steps


def check_integers(kind, shape):
    n, m, d = shape
    a = rows(kind, n, d, 1)
    got, want, q, steps = layouts(a, rows(kind, m, d, 2))
    np.testing.assert_array_equal(got, want)
    off = np.abs(q[:, :d] * steps[:, None].astype(np.float64) - a.numpy())
    assert (off <= 0.51 * steps[:, None]).all()  # these are the rows
    assert not q[:, d:].any()
    assert np.abs(q).max() <= 32767


def check_picks():
    """Selections that rest on integers, whatever multiplies them, against the reference."""
    with pytest.MonkeyPatch.context() as patch:
        use(patch, "cpu", integers=True, integers_min_multiplications=0)
        x = rows("ordinary", 500, 70)
        for kernel, options in (("rbf", {}), ("laplace", {}), ("cosine", {}), ("rbf", {"labeled": x[:7] * 1.1})):
            want = maxherding(x, 40, kernel=kernel, backend="reference", **options)
            assert torch.equal(maxherding(x, 40, kernel=kernel, backend="cpu", **options), want), kernel


def check_all():
    for kind in KINDS:
        for shape in SHAPES:
            check(kind, shape, torch.float32)
            check_integers(kind, shape)
    check_integers("ordinary", (18, 530, 1025))
    check_integers("all as large", (3, 4, 32768))
    check_integers("ordinary", (2, 3, 33000))
    check_picks()


@pytest.mark.parametrize("isa", ["generic", "vnni", "amx", "tiles"])
def test_any_processor(isa):
    """The loops for other processors, as far as this one has them, and the model of tiles: bounds, integers, picks."""
    run_under(isa, "import test_int16 as t\nt.check_all()")


def test_the_largest_bytes_do_not_leave_int32():
    """Rows of 32,768 equal numbers, the longest laid out in tiles: the sums of bytes are the largest there are."""
    a = torch.ones(2, 32768)
    got, want, q, _ = layouts(a, torch.cat([a, -a]))
    np.testing.assert_array_equal(got, want)
    assert np.abs(q).max() >= (32760 if load("_cpu").int16_in_tiles(32768) else 8000)
    np.testing.assert_allclose(got, np.array([[1, 1, -1, -1]] * 2) * 32768.0, rtol=1e-4)


def test_tiles_have_the_smaller_error():
    """No step is made coarser for the sake of a group of 32, and a sum is rounded once."""
    script = (
        "import test_int16 as t, torch\n"
        "p, x = t.Int16Products, t.rows('all as large', 9, 512) + 0.001 * t.rows('ordinary', 9, 512)\n"
        "frame = t.Frame(torch.zeros(512), 1.0)\n"
        "print(p.rounding_of(frame, x), p(frame, 512, 0.0).rel_err)"
    )
    found = {isa: [float(word) for word in run_under(isa, script).split()] for isa in ("generic", "tiles")}
    assert found["tiles"][0] < found["generic"][0] / 3
    assert found["tiles"][1] < found["generic"][1] / 4


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_at_the_edge_of_the_range(sign):
    """Groups of 32 equal numbers are as large as a sum in int32 can hold; one number more would leave the range."""
    a = torch.full((4, 32 * 7), 3.0)
    got, _ = multiplied(a, sign * a)
    torch.testing.assert_close(got, torch.full_like(got, sign * 9.0 * 32 * 7), rtol=4e-5, atol=0)
    spike = torch.zeros(4, 32)
    spike[:, 5] = 1e-7
    got, _ = multiplied(spike, sign * spike)
    torch.testing.assert_close(got, torch.full_like(got, sign * 1e-14), rtol=1e-4, atol=0)


def test_the_rounding_is_that_of_the_worst_row():
    frame = Frame(torch.zeros(64), 1.0)
    x = torch.ones(20, 64)
    assert Int16Products.rounding_of(frame, x) < 1e-4
    x[13, 1:] = 1e-5  # 32767 steps reach the first number, and a third of one the others
    assert 1e-5 < Int16Products.rounding_of(frame, x) < 2e-4
    x[17, 0] = float("inf")
    assert Int16Products.rounding_of(frame, x) == float("inf")
    x[17, 0] = float("nan")
    assert Int16Products.rounding_of(frame, x) == float("inf")
    assert Int16Products.rounding_of(frame, torch.full((3, 64), 1e-25)) == float("inf")
    assert Int16Products.rounding_of(frame, torch.full((3, 64), 1e20)) == float("inf")
    assert Int16Products.rounding_of(frame, torch.zeros(3, 64)) == 0


def test_steps_whose_product_float32_can_hardly_hold():
    """Norms near 1e-15: integers are refused, or their products are as good as any, denormal numbers flushed or not."""
    x = rows("ordinary", 8, 32).double()
    x /= x.norm(dim=1, keepdim=True)
    torch.set_flush_denormal(True)
    try:
        for size in (1.02e-15, 1.2e-15, 5e-15, 1.1e-14, 2e-14):
            a = (x * size).float()
            if Int16Products.rounding_of(Frame(torch.zeros(32), 1.0), a) < 1:
                got, bound = multiplied(a, a)
                assert ((got - a.double() @ a.double().T).abs() <= bound).all(), size
    finally:
        torch.set_flush_denormal(False)
    assert Int16Products.rounding_of(Frame(torch.zeros(32), 1.0), a) < 1e-4  # the last size is not refused


def chosen(x, faster=True, least=0, uncertain=1e-3, **options):
    tuning = CpuTuning(integers=faster, integers_min_multiplications=least, integers_max_uncertain=uncertain)
    return type(GemmOperands(prepare(x, 3, **options).problems[0], [64, 64], tuning=tuning).products)


def test_where_integers_are_chosen():
    x, least = rows("ordinary", 400, 64), 400 * 400 * 64
    assert chosen(x, least=least) is Int16Products
    assert chosen(x, least=least, faster=False) is Float32Products
    assert chosen(x[:300], least=least) is Float32Products  # too little work
    assert chosen(rows("ordinary", 800, 32), least=least) is Float32Products  # too few numbers a row
    for kernel in ("laplace", "cosine", "tophat"):
        options = {} if kernel == "cosine" else {"bandwidth": 8.0}
        assert chosen(x, least=least, kernel=kernel, **options) is Int16Products


def test_where_they_would_say_too_little():
    x = rows("ordinary", 400, 64)
    far = x.clone()
    far[7] = 1e25
    assert chosen(far, bandwidth=10.0) is Float32Products
    # A bandwidth at which float32 still tells most entries, and integers none.
    assert chosen(x, bandwidth=1.2) is Float32Products
    pairs = torch.cat([x[:1] + 1e-2 * rows("ordinary", 200, 64), x[:200]])
    assert chosen(pairs, kernel="laplace", bandwidth=10.0) is Float32Products
    # A row without a rounding is refused whatever may be uncertain.
    assert chosen(far, uncertain=1.0, bandwidth=10.0) is Float32Products
    assert chosen(x, uncertain=1.0, bandwidth=1.2) is Int16Products


def test_parts_begin_where_blocks_do():
    arithmetic = Int16Products(Frame(torch.zeros(5), 1.0), 5, 0.0)
    prepared = arithmetic.prepare(rows("ordinary", 50, 5), arithmetic.empty(50))
    assert torch.equal(arithmetic.part(prepared, 16, 33), prepared[1:3])
    with pytest.raises(ValueError, match="`begin` must be a multiple of 16, got 8"):
        arithmetic.part(prepared, 8, 24)


def test_labeled_rows_that_round_worse_than_the_pool(monkeypatch):
    use(monkeypatch, "cpu", integers=True, integers_min_multiplications=0)
    x, labeled = rows("ordinary", 400, 64), rows("one large number", 30, 64, 3) * 0.01
    made = GemmOperands(prepare(x, 3).problems[0], [64, 64], tuning=BACKENDS["cpu"].tuning)
    assert isinstance(made.products_with(x[:50]), Int16Products)
    assert isinstance(made.products_with(labeled), Float32Products)
    want = maxherding(x, 30, labeled=labeled, backend="reference", return_info=True)
    got = maxherding(x, 30, labeled=labeled, backend="cpu", return_info=True)
    assert torch.equal(got.indices, want.indices)
    assert got.coverage == pytest.approx(want.coverage, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"labeled": slice(0, 40)}, {"candidates": slice(3, 900)}])
def test_a_pool_that_is_small_beside_its_matrix_is_rounded_once(options, monkeypatch, two_threads):
    use(monkeypatch, "cpu", integers=True, integers_min_features=1)
    prepared, prepare_rows = [], Int16Products.prepare

    def counted(self, features, *rest):
        prepared.append(len(features))
        return prepare_rows(self, features, *rest)

    monkeypatch.setattr(Int16Products, "prepare", counted)
    x = rows("ordinary", 2503, 20)
    made = {"labeled": lambda s: x[s] + 0.1, "candidates": lambda s: torch.arange(s.start, s.stop)}
    options = {name: made[name](value) for name, value in options.items()}
    want = maxherding(x, 25, backend="reference", return_info=True, **options)
    got = maxherding(x, 25, backend="cpu", return_info=True, **options)
    assert torch.equal(got.indices, want.indices)
    torch.testing.assert_close(got.gains, want.gains, rtol=0, atol=1e-12)
    assert "candidates" in options or sum(prepared) == 2503 + len(options.get("labeled", ()))


def test_the_processor_is_asked():
    assert CpuTuning().integers_are_faster() == load("_cpu").has_vnni()
    code = "from difal_kernels._native import load; print(load('_cpu').has_vnni())"
    assert run_under("avx2", code).strip() == "False"
