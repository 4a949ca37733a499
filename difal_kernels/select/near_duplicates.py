"""Near-duplicates: of samples that are more similar than a threshold, keep the first."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..ops.maxherding.backends.cpu.operands import full_precision
from ..ops.maxherding.kernel_functions import kernel_matrix, kernel_of_scaled_square

BLOCK = 2048  # rows that are compared together with those kept so far
UNIT = 2.0**-24  # float32's unit roundoff


def drop_near_duplicates(
    features: torch.Tensor,
    threshold: float,
    kernel: str,
    bandwidth: float | None,
    order: torch.Tensor,
    always: int = 0,
    others: torch.Tensor | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> torch.Tensor:
    """Keep a sample unless it is as similar as `threshold` to one that is kept already.

    So no two that are kept are that similar, and each that is dropped is that similar to one that is kept. float32
    products find the pairs that may be, float64 decides those that rounding could turn.

    Args:
        features: (N, D), finite.
        threshold: similarity, in (0, 1].
        kernel, bandwidth: what similarity is; see `maxherding`. Not "precomputed".
        order: (n,) int64 rows in the order in which they are looked at; the others are left out.
        always: how many of the first of `order` are kept whatever they are similar to.
        others: (L, D) features of samples that are no rows and kept already.
        report: called with the number of rows done.

    Returns:
        Rows that are kept, int64 in ascending order.

    Notes:
        One product of the rows with those kept, in memory linear in D.
    """
    near = _Near(features, threshold, kernel, bandwidth)
    kept, count = torch.empty(len(order), dtype=torch.int64), 0
    for start in range(0, len(order), BLOCK):
        rows = order[start : start + BLOCK]
        block = near.prepare(features[rows])
        dropped = torch.zeros(len(rows), dtype=torch.bool)
        forced = max(0, min(always - start, len(rows)))
        if others is not None:
            for begin in range(0, len(others), BLOCK):
                dropped |= near.any_of(block, near.prepare(others[begin : begin + BLOCK]), dropped)
        for begin in range(0, count, BLOCK):
            earlier = kept[begin : min(begin + BLOCK, count)]
            dropped |= near.any_of(block, near.prepare(features[earlier]), dropped)
        dropped[:forced] = False
        near.within(block, dropped, forced)
        new = rows[~dropped]
        kept[count : count + len(new)] = new
        count += len(new)
        report(min(start + BLOCK, len(order)))
    return kept[:count].sort().values


class _Block:
    def __init__(self, exact: torch.Tensor, rows: torch.Tensor, squares: torch.Tensor):
        self.exact, self.rows, self.squares = exact, rows, squares


class _Near:
    """Which pairs of rows are similar."""

    def __init__(self, features: torch.Tensor, threshold: float, kernel: str, bandwidth: float | None):
        self.threshold, self.kernel, self.bandwidth = threshold, kernel, bandwidth
        self.is_cosine = kernel == "cosine"
        some = features[:: max(1, len(features) // 256)][:256].double()
        self.center = torch.zeros_like(some[0]) if self.is_cosine else some.mean(0)
        # Similar where the squared distance, in units of the bandwidth, is at most this; for unit vectors 2 - 2 cos.
        self.reach = 2 - 2 * threshold if self.is_cosine else _reach(kernel, threshold)
        d = features.shape[1]
        self.error = 4 * (d + 8) * UNIT  # of |a|^2 + |b|^2

    def prepare(self, exact: torch.Tensor) -> _Block:
        rows = exact.double() - self.center
        if self.is_cosine:
            norms = rows.norm(dim=1, keepdim=True)
            rows = torch.where(norms > 0, rows / norms, 0.0)
        else:
            rows = rows / self.bandwidth
        rows = rows.float()
        return _Block(exact, rows, rows.square().sum(1))

    def distances(self, a: _Block, b: _Block) -> torch.Tensor:
        """Squared distances, but for rounding."""
        with full_precision():
            return torch.addmm(a.squares[:, None] + b.squares, a.rows, b.rows.T, alpha=-2)

    def margin(self, a: _Block, b: _Block) -> torch.Tensor:
        """How wrong those of each row of a may be."""
        return self.error * (a.squares + b.squares.max()) + 1e-30

    def exactly(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return kernel_matrix(a, b, self.kernel, self.bandwidth) >= self.threshold

    def any_of(self, a: _Block, b: _Block, known: torch.Tensor) -> torch.Tensor:
        """Which rows of a are similar to some row of b; those of `known` need no answer."""
        nearest, margin = self.distances(a, b).amin(1), self.margin(a, b)
        sure = nearest + margin < self.reach
        # Written so that what overflows float32, and is NaN then, is left to float64.
        for i in (~sure & ~known & ~(nearest - margin > self.reach)).nonzero()[:, 0].tolist():
            sure[i] = self.exactly(a.exact[i : i + 1], b.exact).any()
        return sure

    def within(self, block: _Block, dropped: torch.Tensor, forced: int) -> None:
        """Drop those that are similar to an earlier row of the same block that is kept; in place."""
        distances, margin = self.distances(block, block), self.margin(block, block)
        maybe = (~(distances - margin[:, None] > self.reach)).tril_(-1)
        maybe[:, dropped] = False
        for i in (maybe.any(1) & ~dropped).nonzero()[:, 0].tolist():
            if i < forced:
                continue
            earlier = maybe[i].nonzero()[:, 0]
            earlier = earlier[~dropped[earlier]]
            if len(earlier):
                dropped[i] = bool(self.exactly(block.exact[i : i + 1], block.exact[earlier]).any())


def _reach(kernel: str, threshold: float) -> float:
    """The largest (r/h)^2 of which the kernel is at least `threshold`, by bisection."""

    def value(q: float) -> float:
        return float(kernel_of_scaled_square(torch.tensor([q], dtype=torch.float64), kernel)[0])

    low, high = 0.0, 1.0
    while value(high) >= threshold:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) >= threshold else (low, middle)
    return high
