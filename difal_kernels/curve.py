"""How many samples to choose: coverage after each pick of one MaxHerding selection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._checks import as_bool, as_float, as_int, as_numbers
from .ops.maxherding import MaxHerding

ROUNDING = 1e-12  # of the coverage: a target missed by no more than this is reached
FIRST_PORTION = 64  # picks made before the first look at the target


@dataclass(frozen=True)
class Target:
    """When a selection has picked enough.

    Attributes:
        until: coverage, from 0 to 1, at which it stops; None for no such limit.
        until_gain: it stops before the first pick that raises coverage by less than this; None for no such limit.
    """

    until: float | None = None
    until_gain: float | None = None

    def __post_init__(self) -> None:
        for name in ("until", "until_gain"):
            value = getattr(self, name)
            if value is not None and not 0 < as_float(value, name) <= 1:
                raise ValueError(f"`{name}` must be above 0 and at most 1, got {value}")

    def __bool__(self) -> bool:
        return self.until is not None or self.until_gain is not None

    def budget(self, before: float, gains: np.ndarray) -> int | None:
        """The fewest of these picks that are enough, or None if more are needed.

        Args:
            before: coverage before the first pick.
            gains: (n,) float64, what each pick adds to it.
        """
        counts = []
        if self.until is not None:
            covered = before + np.concatenate([[0.0], np.cumsum(gains)])
            reached = np.flatnonzero(covered >= self.until - ROUNDING)
            counts += reached[:1].tolist()
        if self.until_gain is not None:
            counts += np.flatnonzero(gains < self.until_gain)[:1].tolist()
        return min(counts) if counts else None


@dataclass(frozen=True)
class CoverageCurve:
    """The answer of `coverage_curve`.

    Coverage is the weighted mean, over the pool, of a sample's similarity to the most similar sample that is labeled
    or picked: from 0 to 1, and equal to C(S) of `maxherding` where no weights were given.

    Attributes:
        indices: (budget,) int64, in pick order, in the library of the features.
        gains: (budget,) float64 numpy.ndarray, the rise of coverage at each pick.
        coverage: (budget + 1,) float64 numpy.ndarray: before the first pick, and after each.
        reached: whether the target was reached; True where there was none.
    """

    indices: Any
    gains: np.ndarray
    coverage: np.ndarray
    reached: bool

    def budget_for(self, coverage: float) -> int | None:
        """The fewest picks with at least this coverage; None if all of these picks are too few.

        Args:
            coverage: above 0, at most 1.

        Raises:
            TypeError, ValueError: `coverage` is no number, or out of range.
        """
        as_float(coverage, "coverage")
        try:
            target = Target(until=coverage)
        except ValueError as error:
            raise ValueError(str(error).replace("`until`", "`coverage`")) from None
        return target.budget(float(self.coverage[0]), self.gains)

    def plot(self, path: str | Path) -> None:
        """Draw coverage against the number of picks.

        Args:
            path: a file name whose ending matplotlib knows, such as .png or .svg.

        Raises:
            ImportError: matplotlib is not installed.
        """
        plot_coverage(self.coverage, path)


def plot_coverage(coverage: np.ndarray, path: str | Path) -> None:
    """Draw coverage before the first pick and after each, (budget + 1,), with some round shares marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: it may open windows
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    axis.plot(np.arange(len(coverage)), coverage, color="#2060c0")
    for share in (0.5, 0.8, 0.9, 0.95, 0.99):
        reached = np.flatnonzero(coverage >= share)
        if len(reached) and reached[0] > 0:
            axis.plot(reached[0], coverage[reached[0]], "o", color="#2060c0", markersize=4)
            axis.annotate(
                f"{share:.0%}: {reached[0]:,}", (reached[0], coverage[reached[0]]), (5, -11), textcoords="offset points"
            )
    axis.set(xlabel="samples picked", ylabel="coverage", ylim=(min(0.0, float(coverage[0])), 1.02))
    axis.grid(True, alpha=0.3)
    figure.savefig(path, dpi=120)


def coverage_curve(
    features: Any,
    budget: int | None = None,
    *,
    until: float | None = None,
    until_gain: float | None = None,
    labeled: Any = None,
    candidates: Any = None,
    weights: Any = None,
    kernel: str = "rbf",
    bandwidth: Any = "median",
    memory_limit: int | str | None = None,
    progress: bool = False,
) -> CoverageCurve:
    """Measure coverage against the number of picks, from one exact MaxHerding selection.

    The picks of a smaller budget are the beginning of those of a larger one, so one selection holds the answer for
    every budget up to its own.

    Args:
        features: (N, D) as for `maxherding`, on the CPU.
        budget: most picks to make; by default as many as there are candidates.
        until: stop at the smallest budget whose coverage is at least this, above 0 and at most 1.
        until_gain: stop before the first pick that raises coverage by less than this.
        labeled, candidates, weights, kernel, bandwidth, memory_limit: as for `maxherding`.
        progress: show a progress bar on standard error.

    Returns:
        A `CoverageCurve` of the picks made. With `until` or `until_gain`, `len(curve.indices)` is the smallest budget
        that meets either, and `curve.reached` is False where all `budget` picks are too few.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `MaxHerding`; also for a wrong `until` or `until_gain`.
            Raised before any work.

    Notes:
        Finding the smallest budget costs at most half as many picks again as it has, and a pick costs little beside
        the passes over the features that come first.

    Example:
        >>> import torch
        >>> from difal_kernels import coverage_curve
        >>> line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
        >>> curve = coverage_curve(line, bandwidth=4.0, until=0.9)
        >>> curve.indices
        tensor([1, 4])
        >>> curve.coverage.round(3)
        array([0.   , 0.481, 0.96 ])
    """
    target, as_bool_progress = Target(until, until_gain), as_bool(progress, "progress")
    if budget is not None:
        budget = as_int(budget, "budget", low=0)
    herding = MaxHerding(
        features,
        labeled=labeled,
        candidates=candidates,
        weights=weights,
        kernel=kernel,
        bandwidth=bandwidth,
        memory_limit=memory_limit,
    )
    if budget is None:
        budget = herding.remaining
    elif budget > herding.remaining:
        raise ValueError(f"`budget` must be at most the number of candidates, {herding.remaining}, got {budget}")
    unit = mean_weight(weights)
    before, found = herding.coverage / unit, None
    while found is None:
        done = len(herding.indices)
        found = target.budget(before, as_array(herding.gains) / unit) if target else None
        if found is not None or done == budget:
            break
        portion = budget - done if not target else min(budget - done, max(FIRST_PORTION, done // 2))
        herding.select(portion, progress=as_bool_progress)
    count = len(herding.indices) if found is None else found
    gains = as_array(herding.gains)[:count] / unit
    covered = before + np.concatenate([[0.0], np.cumsum(gains)])
    return CoverageCurve(herding.indices[:count], gains, covered, found is not None or not target)


def mean_weight(weights: Any) -> float:
    """The mean of weights that `maxherding` has accepted; 1 where there are none, or all are 0."""
    if weights is None:
        return 1.0
    return float(as_numbers(weights, "weights", "numbers").mean()) or 1.0


def as_array(values: Any) -> np.ndarray:
    return values.numpy() if isinstance(values, torch.Tensor) else values
