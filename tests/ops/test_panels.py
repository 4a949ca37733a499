"""What the float32 estimates rest on: bandwidths of any size, and products of full precision."""

import pytest
import torch

from difal_kernels import maxherding
from difal_kernels._workers import Workers
from difal_kernels.ops.maxherding.backends import cpu
from difal_kernels.ops.maxherding.backends.cpu import dense, products
from difal_kernels.ops.maxherding.backends.cpu.operands import full_precision
from difal_kernels.ops.maxherding.backends.cpu.products import Float32Products
from difal_kernels.ops.maxherding.problem import prepare

KERNELS = ("rbf", "laplace", "cauchy", "student_t", "rational_quadratic", "tophat")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [1e-40, 1e-38, 1e-20, 1e20, 5e37, 1e38, 1e45])
@pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
def test_a_bandwidth_whose_reciprocal_is_no_float32(kernel, scale):
    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(5, 6, generator=generator, dtype=torch.float64)
    x = centers[torch.randint(5, (40,), generator=generator)]
    x = (x + torch.randn(40, 6, generator=generator, dtype=torch.float64)) * scale
    for rows in (x, x.float()) if scale < 1e37 else (x,):
        for bandwidth in (10 * scale, 3 * scale):
            want = maxherding(rows, 15, kernel=kernel, bandwidth=bandwidth, backend="reference", return_info=True)
            got = maxherding(rows, 15, kernel=kernel, bandwidth=bandwidth, backend="cpu", return_info=True)
            assert torch.equal(got.indices, want.indices)
            torch.testing.assert_close(got.gains, want.gains, rtol=0, atol=1e-11)


@pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
@pytest.mark.parametrize("smallest", [0, float("inf")], ids=["16 bits", "float32"])
def test_the_matrix_equals_its_transpose_whatever_the_products_are(monkeypatch, two_threads, smallest):
    """A gain is summed down a column and lowered by rows; a GEMM may round (i, j) and (j, i) differently."""
    multiply = Float32Products.multiply

    def uneven(self, a, b, out):
        multiply(self, a, b, out)
        out[:, ::2] *= 1 + 2.0**-20
        out[::3] *= 1 - 2.0**-21

    monkeypatch.setattr(Float32Products, "multiply", uneven)
    monkeypatch.setattr(products, "integers_are_faster", lambda: False)
    monkeypatch.setattr(dense, "SHORT", smallest)
    x = torch.randn(700, 20, generator=torch.Generator().manual_seed(0))
    with Workers(2) as workers:
        selection = dense.DenseSelection(prepare(x, 3).problems[0], workers)
    matrix = selection.keep[-1]
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
