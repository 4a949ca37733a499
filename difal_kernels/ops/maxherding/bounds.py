"""How far estimates may be from the truth: every constant of the error analysis that docs/exactness.md derives.

An estimate decides only who is compared in float64: a loose bound costs time, never a pick. A bound that is too tight
is a wrong pick, so tests/ops/test_bounds.py drives each rounding near its bound, and fails where one is halved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .kernel_functions import KERNEL_FUNCTIONS

UNIT = 2.0**-24  # u, the unit roundoff of float32
TOLERANCE = 2.0**-10  # largest relative error of a kernel value that is left to an estimate: chosen, any value is sound
STEPS = 65535  # of a 16-bit entry, from 0 to 1; kSteps of csrc


@dataclass(frozen=True, kw_only=True)
class Roundings:
    """What each stage loses, in units of u unless said otherwise.

    Attributes:
        row: of |a|, in a = (x - c) / h: the difference, 1 / h and the product are rounded.
        unit_row: of |a|, in a = x / |x|, rounded once.
        sq_norm: of s = |a|^2, stored as float32.
        sq_dist: of s_i + s_j, in that sum (1) and in subtracting 2 g from it (2, since |q| <= 2 (s_i + s_j)).
        product: of |a_i| |a_j|, in each of the D products and additions of a float32 GEMM.
        int16_sum: of |a_i| |a_j|, in a product of 16-bit rows besides one for each group: the two steps.
        tensor_core: of |a_i| |a_j|, in each product that a tensor core adds up, which does not round as IEEE says.
        split: of |a_i| |a_j|, in units of 2^-16: what is left out where float32 rows are sums of two bfloat16 numbers.
        evaluation: of k, in f(q), at a given q.
        coverage: of m, rounded to float32.
        value: of k, in a float64 kernel value rounded to float32.
        entry: of a step, in a kernel value, or in m, rounded to 16 bits.
        second_order: factor for products of roundings, and for float32 arithmetic on bounds.
    """

    row: float = 3
    unit_row: float = 1
    sq_norm: float = 1
    sq_dist: float = 3
    product: float = 1
    int16_sum: float = 2
    tensor_core: float = 3
    split: float = 2
    evaluation: float = 6
    coverage: float = 1
    value: float = 1
    entry: float = 0.52
    second_order: float = 1.01


ROUNDINGS = Roundings()


@dataclass(frozen=True, kw_only=True)
class ErrorModel:
    """The `ErrorModel` of csrc/include/difal/coverage_kernels.h: see `entry_bound`."""

    sq_dist_rel_err: float  # of a squared distance, in units of s_i + s_j
    relative: float  # of k
    absolute: float
    quantization_err: float = 0.0  # of k and m together, where they are stored in 16 bits
    tolerance: float = TOLERANCE

    def doubled(self) -> ErrorModel:
        """The model of an entry of which two estimates may be in use, from products of different shapes."""
        return ErrorModel(
            sq_dist_rel_err=2 * self.sq_dist_rel_err,
            relative=2 * self.relative,
            absolute=2 * self.absolute,
            quantization_err=self.quantization_err,
            tolerance=self.tolerance,
        )

    def native(self) -> dict[str, float]:
        """The arguments of csrc and of the Triton kernels."""
        return {
            "sq_dist_rel_err": self.sq_dist_rel_err,
            "relative": self.relative,
            "absolute": self.absolute,
            "tolerance": self.tolerance,
        }


def gemm_rel_err(dimension: int, r: Roundings = ROUNDINGS) -> float:
    """Of a float32 product of two rows, in units of |a_i| |a_j|, in any order of summation."""
    error = r.product * dimension * UNIT
    return error / (1 - error)


def int16_rel_err(sums: int, rounding: float, r: Roundings = ROUNDINGS) -> float:
    """The same of rows rounded to 16 bits, whose products are summed with `sums` roundings: one a group that is exact.

    `rounding` is the most that rounding moved any row, in units of its norm.
    """
    error = (sums + r.int16_sum) * UNIT
    return error / (1 - error) * (1 + rounding) ** 2 + 2 * rounding + rounding**2


def tensor_core_rel_err(dimension: int, chunk: int, r: Roundings = ROUNDINGS, products: int = 1) -> float:
    """The same of a tensor core's sums over `chunk` numbers at a time, added up in float32; docs/exactness.md.

    `products`: how many are made of each pair of numbers.
    """
    return (r.tensor_core * products * min(chunk, dimension) + r.product * -(-dimension // chunk)) * UNIT


def split_rel_err(dimension: int, chunk: int, r: Roundings = ROUNDINGS) -> float:
    """The same where rows are sums of two bfloat16 numbers, of whose four products the least is left out."""
    return tensor_core_rel_err(dimension, chunk, r, products=3) + r.split * 2.0**-16


def error_model(kernel: str, product_rel_err: float, stored_in_16_bits: bool = False, r: Roundings = ROUNDINGS):
    """Of kernel values made from products of rows that are wrong by at most `product_rel_err` |a_i| |a_j|."""
    cosine, tophat = kernel == "cosine", kernel == "tophat"
    sq_dist = r.second_order * (product_rel_err + (4 * r.row + r.sq_norm + r.sq_dist) * UNIT)
    unit_products = r.second_order * (product_rel_err + (2 * r.unit_row + r.coverage) * UNIT)
    return ErrorModel(
        sq_dist_rel_err=0.0 if cosine else sq_dist,
        relative=0.0 if tophat else (r.evaluation + r.coverage) * UNIT,  # 0 and 1 are float32 numbers
        absolute=unit_products if cosine else 0.0,
        quantization_err=quantization_err(r) if stored_in_16_bits and not tophat else 0.0,
    )


def precomputed_model(dtype: torch.dtype, r: Roundings = ROUNDINGS) -> ErrorModel:
    """Of a kernel matrix as given: float32 holds that of any type but float64 exactly."""
    relative = (r.value + r.coverage) * UNIT if dtype == torch.float64 else 0.0
    return ErrorModel(sq_dist_rel_err=0.0, relative=r.second_order * relative, absolute=0.0)


def quantization_err(r: Roundings = ROUNDINGS) -> float:
    """Of a kernel value and a coverage in 16 bits, together."""
    return 2 * r.entry / STEPS


def entry_bound(
    model: ErrorModel, kernel: str, k: torch.Tensor, sq_norms: torch.Tensor, r: Roundings = ROUNDINGS
) -> torch.Tensor:
    """The most that |k^ - k| + |m^ - m| can be of entries with estimates `k` and `sq_norms` s_i + s_j, float64.

    As csrc/include/difal/estimate.h and the Triton kernels compute it, for tests of them and of the constants.
    """
    k = k.double() + model.quantization_err
    estimated = model.sq_dist_rel_err * sq_norms.double() * KERNEL_FUNCTIONS[kernel].log_slope(k)
    near = estimated.clamp(max=model.tolerance) if KERNEL_FUNCTIONS[kernel].largest_slope else torch.zeros_like(k)
    return model.absolute + k * (model.relative + r.second_order * near) + model.quantization_err


def column_entry_error(
    model: ErrorModel, kernel: str, sq_norms: torch.Tensor, terms: int, r: Roundings = ROUNDINGS
) -> torch.Tensor:
    """The most of any entry of each column, (N,) float64, for k <= 1.

    `terms`: how many float32 numbers are summed at a time before they go to a float64 sum; 0 where all are float64.
    A sum of them is wrong by terms u, the weight and its product with a difference by three u more, rounded up to four.
    """
    slope = KERNEL_FUNCTIONS[kernel].largest_slope
    s = sq_norms.double()
    spread = torch.zeros_like(s)
    if slope:
        spread = (model.sq_dist_rel_err * slope * (s + s.max())).nan_to_num(torch.inf).clamp(max=model.tolerance)
    summing = r.second_order * (terms + 4) * UNIT if terms else 0.0
    return r.second_order**2 * spread + model.relative + model.absolute + summing


def float64_drift(additions: int, largest: float) -> float:
    """Of a float64 sum of `additions` numbers, none larger in all than `largest`, each rounded once before."""
    return 2.0**-52 * additions * largest


def exact_sum_unit(total: float) -> tuple[float, float]:
    """For sums of multiples of a power of two u, which are exact in any order: (u, the number that rounds to them).

    A sum of at most `total` is at most 2^51 u. Adding and subtracting 1.5 * 2^52 u rounds to a multiple of u.
    """
    if not total > 0:
        return 0.0, 0.0
    exponent = math.frexp(total)[1]
    return math.ldexp(1.0, exponent - 51), math.ldexp(1.5, exponent + 1)
