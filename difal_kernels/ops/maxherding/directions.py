"""Rows of features that have no direction, or none that float64 arithmetic can tell, as the cosine needs."""

from __future__ import annotations

import warnings

import torch

SHORTEST = 1e-150  # the largest number of a float64 row: products of two rows are far from where float64 underflows
ROWS_AT_ONCE = 4096  # that are copied to be looked at
NAMED = 5  # rows in a message


def zero_rows(rows: torch.Tensor, name: str) -> torch.Tensor:
    """Find the rows that are all zeros: their cosine with anything, themselves included, counts as 0.

    Args:
        rows: (N, D) of any dtype.
        name: what messages call them.

    Returns:
        int64 row numbers, ascending, on the CPU.

    Raises:
        ValueError: a row that is not all zeros has no number of `SHORTEST`, so that its norm would be lost.

    Notes:
        Few rows of features begin with a 0, so that one number of each is read, and the others of those few.
    """
    left, begin, end = torch.nonzero(_short(rows[:, 0]))[:, 0], 1, 8
    while len(left) and begin < rows.shape[1]:
        left = torch.cat([some[_short(rows[some, begin:end]).all(1)] for some in left.split(ROWS_AT_ONCE)])
        begin, end = end, 8 * end
    if rows.dtype == torch.float64 and len(left):
        zero = torch.cat([~rows[some].any(1) for some in left.split(ROWS_AT_ONCE)])
        if not bool(zero.all()):
            row = int(left[~zero][0])
            raise ValueError(
                f"`{name}` must not be shorter than {SHORTEST:g} where kernel='cosine', got numbers up to "
                f"{float(rows[row].abs().max()):.3g} in row {row}: squares underflow; rescale it"
            )
    return left.cpu()


def warn_of_zero_rows(rows: torch.Tensor, name: str) -> None:
    """Warn of rows that are all zeros, which the cosine finds similar to nothing; raises as `zero_rows` does."""
    zeros = zero_rows(rows, name)
    if len(zeros):
        warnings.warn(f"`{name}`: {cosine_of(zeros.tolist())}", stacklevel=5)


def cosine_of(zeros: list) -> str:
    """Say of these rows, which are all zeros, what kernel="cosine" makes of them."""
    some = ", ".join(map(str, zeros[:NAMED])) + (f" and {len(zeros) - NAMED} more" if len(zeros) > NAMED else "")
    what, them = (f"row {some} is", "it") if len(zeros) == 1 else (f"rows {some} are", "them")
    return f"{what} all zeros, whose cosine with any row counts as 0: nothing covers {them}; drop {them}"


def _short(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.abs() < SHORTEST if numbers.dtype == torch.float64 else numbers == 0
