"""From a backend's results to what the user gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..._checks import back_converter
from .problem import Batch
from .result import Result, Selection


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
        return Selection(back(result.indices), back(result.gains), result.coverage, width, result.settled, backend)
    indices = back(torch.stack([r.indices for r in results]))
    if not info:
        return indices
    return Selection(
        indices,
        back(torch.stack([r.gains for r in results])),
        back(torch.tensor([r.coverage for r in results], dtype=torch.float64)),
        back(torch.tensor(widths, dtype=torch.float64)),
        back(torch.tensor([r.settled for r in results])),
        backend,
    )
