"""What the float32 estimates rest on: bandwidths of any size, and products of full precision."""

import pytest
import torch

from difal_kernels import maxherding
from difal_kernels._precision import full_precision
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cpu.products import Float32Products
from difal_kernels.ops.maxherding.dense import DenseSelection
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES, SCALE_FREE
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs, use

CPU = BACKENDS["cpu"]


@pytest.mark.parametrize("kernel", [name for name in OF_FEATURES if name not in SCALE_FREE])
@pytest.mark.parametrize("scale", [1e-40, 1e-38, 1e-20, 1e20, 5e37, 1e38, 1e45])
@pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))
def test_a_bandwidth_whose_reciprocal_is_no_float32(kernel, scale):
    x = blobs(40, 6, dtype=torch.float64, clusters=5) * scale
    for rows in (x, x.float()) if scale < 1e37 else (x,):
        for bandwidth in (10 * scale, 3 * scale):
            want = maxherding(rows, 15, kernel=kernel, bandwidth=bandwidth, backend="reference", return_info=True)
            got = maxherding(rows, 15, kernel=kernel, bandwidth=bandwidth, backend="cpu", return_info=True)
            assert torch.equal(got.indices, want.indices)
            torch.testing.assert_close(got.gains, want.gains, rtol=0, atol=1e-11)


@pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))
@pytest.mark.parametrize("smallest", [0, float("inf")], ids=["16 bits", "float32"])
def test_the_matrix_equals_its_transpose_whatever_the_products_are(monkeypatch, two_threads, smallest):
    """A gain is summed down a column and lowered by rows; a GEMM may round (i, j) and (j, i) differently."""
    multiply = Float32Products.multiply

    def uneven(self, a, b, out):
        multiply(self, a, b, out)
        out[:, ::2] *= 1 + 2.0**-20
        out[::3] *= 1 - 2.0**-21

    monkeypatch.setattr(Float32Products, "multiply", uneven)
    use(monkeypatch, "cpu", integers=False, int16_min_entries=smallest)
    x = torch.randn(700, 20, generator=torch.Generator().manual_seed(0))
    matrix = DenseSelection(BACKENDS["cpu"], prepare(x, 3).problems).matrix.keep[-1]
    assert matrix.shape == (700, 700)
    assert matrix.dtype == (torch.int16 if smallest == 0 else torch.float32)
    assert torch.equal(matrix, matrix.T)


def setting():
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return getattr(matmul, "fp32_precision", None) or torch.get_float32_matmul_precision()


def test_full_precision_lasts_until_the_last_thread_has_left():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = setting()
        first, second = full_precision(), full_precision()
        first.__enter__()
        second.__enter__()
        inside = setting()
        assert inside != allowed
        first.__exit__(None, None, None)
        assert setting() == inside
        second.__exit__(None, None, None)
        assert setting() == allowed
    finally:
        torch.set_float32_matmul_precision(before)


HALVES = ("bf16", "fp16")


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("split_k", [True, False])
def test_reduced_precision_reductions_come_back_unchanged(name, reduced, split_k):
    """Later torch keeps two settings under the name of one, which reads as the first of them."""
    flags, attribute = torch.backends.cuda.matmul, f"allow_{name}_reduced_precision_reduction"
    if not hasattr(flags, f"{attribute}_split_k"):
        pytest.skip("this torch has one setting under the name")
    if reduced and not split_k:
        pytest.skip("torch does not take this pair")

    def pair():
        return getattr(flags, attribute), getattr(flags, f"{attribute}_split_k")

    before = pair()
    try:
        setattr(flags, attribute, (reduced, split_k))
        with full_precision(gpu=True):
            assert getattr(flags, attribute) is False
            with full_precision(gpu=True):
                pass
            assert getattr(flags, attribute) is False
        assert pair() == (reduced, split_k)
    finally:
        setattr(flags, attribute, before)
