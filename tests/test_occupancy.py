"""Warps of a kernel on a multiprocessor, as bench/compile_cuda.py and bench/compile_triton.py print them."""

import pytest

from occupancy import resident_warps


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "warps"),
    [
        (384, 168, 20504, 12),
        (256, 40, 8192, 48),
        (256, 49, 0, 32),
        (256, 26, 0, 64),
        (64, 37, 1024, 48),
        (64, 37, 49152, 8),
        (64, 167, 57600, 6),
        (512, 32, 0, 64),
        (32, 62, 0, 32),
        (256, 255, 196608, 8),
    ],
)
def test_the_numbers_of_nvidias_own_calculator(threads, registers, shared, warps):
    """These are what cuda_occupancy.h of CUDA 13.0 says for compute capability 9.0."""
    assert resident_warps(threads, registers, shared) == warps
