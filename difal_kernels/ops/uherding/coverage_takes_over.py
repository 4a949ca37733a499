"""What is picked once no candidate covers anything uncertain any more: by coverage of the whole pool."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..._words import counted
from ..maxherding.problem import Batch, Problem
from ..maxherding.result import TIE, Result


def coverage_takes_over(
    batch: Batch, results: Sequence[Result], run: Callable[[Batch], Sequence[Result]]
) -> list[Result]:
    """Choose the picks that gained nothing anew, by coverage with equal weights given those before; warn of it.

    Uncertainties that are zero everywhere, or at all points but a few, end so. Gains and coverage stay those of the
    uncertain part: what takes over adds nothing to them.
    """
    found = []
    for p, result in zip(batch.problems, results, strict=True):
        useful = _useful(result)
        if useful < p.budget:
            (rest,) = run(replace(batch, problems=(_rest(p, result.indices[:useful]),), batched=False))
            indices = torch.cat([result.indices[:useful], rest.indices.to(result.indices.device)])
            result = replace(result, indices=indices)
            if float(rest.gains[0]) > 0:  # else the pool itself is covered
                what = f"is covered after {counted(useful, 'pick')}" if bool(p.weights.any()) else "is zero everywhere"
                left = f"{p.budget - useful} of {p.budget} points are picked by coverage alone"
                warnings.warn(f"`uncertainty` {what}: {left}", stacklevel=3)
        found.append(result)
    return found


def _useful(result: Result) -> int:
    """How many picks, from the first on, gained something."""
    gains = result.gains
    if not len(gains):
        return 0
    useless = (gains <= TIE * gains[0].clamp(min=0)).nonzero()
    return int(useless[0]) if len(useless) else len(gains)


def _rest(p: Problem, picks: torch.Tensor) -> Problem:
    picks = picks.to(p.features.device)
    rows = p.features[:, picks].T if p.kernel == "precomputed" else p.features[picks]
    labeled = rows if p.labeled is None else torch.cat([p.labeled, rows])
    allowed = torch.arange(len(p.features)) if p.candidates is None else p.candidates
    allowed = allowed[~torch.isin(allowed, picks.cpu())]
    return replace(
        p,
        budget=p.budget - len(picks),
        labeled=labeled if len(labeled) else None,
        candidates=allowed,
        weights=torch.ones_like(p.weights),
    )
