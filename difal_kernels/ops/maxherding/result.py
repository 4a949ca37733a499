"""What backends return, and what the user gets."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..._checks import back_converter
from .problem import Batch
from .sampling import SampledCoverage

TIE = 1e-12  # gains closer than this, in units of the first gain, are equal: the lowest index wins


@dataclass(frozen=True)
class Result:
    """A backend's answer to one problem."""

    indices: torch.Tensor  # (budget,) int64 into the pool, in pick order
    gains: torch.Tensor  # (budget,) float64
    coverage: float
    contested_picks: int  # picks at which more than one candidate was compared in float64


class Selection(NamedTuple):
    """The answer of `maxherding(..., return_info=True)`; with a batch, each field has a leading dimension B.

    Attributes:
        indices: (budget,) int64, in pick order.
        gains: (budget,) float64, the rise of C(S) at each pick.
        coverage: C(S) at the end, labeled points included.
        bandwidth: the kernel's bandwidth in feature units; NaN for kernels that have none.
        contested_picks: picks at which several candidates were too close for estimates and were compared in float64.
        backend: what ran.
        sampled: the `SampledCoverage` of a selection with `sample_rows`, whose gains are of the rows that it was chosen
            by, and whose coverage is an estimate; None for an exact one.
    """

    indices: Any
    gains: Any
    coverage: Any
    bandwidth: Any
    contested_picks: Any
    backend: str
    sampled: SampledCoverage | None = None

    @property
    def settled(self) -> Any:
        """The old name of `contested_picks`, for one release."""
        warnings.warn("`Selection.settled` is now `contested_picks`", DeprecationWarning, stacklevel=2)
        return self.contested_picks


def answer(
    features: Any, batch: Batch, results: Sequence[Result], widths: Sequence[float | None], backend: str, info: bool
) -> Any:
    """Indices alone, or a `Selection`, in the library and on the device of `features`."""
    back = back_converter(features)
    widths = [math.nan if width is None else width for width in widths]
    if not batch.batched:
        (result,), (width,) = results, widths
        if not info:
            return back(result.indices)
        return Selection(
            back(result.indices), back(result.gains), result.coverage, width, result.contested_picks, backend
        )
    indices = back(torch.stack([r.indices for r in results]))
    if not info:
        return indices
    return Selection(
        indices,
        back(torch.stack([r.gains for r in results])),
        back(torch.tensor([r.coverage for r in results], dtype=torch.float64)),
        back(torch.tensor(widths, dtype=torch.float64)),
        back(torch.tensor([r.contested_picks for r in results])),
        backend,
    )
