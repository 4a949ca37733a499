"""Which tiles of the kernel matrix need not be made: points that are near each other are put side by side, and groups
of them are separated.

Between the centres c_a and c_b of two groups the points of either lie on their own side of two planes, as a rule. If no
point of a goes further along c_b - c_a than h_ab, seen from c_a, and none of b further along c_a - c_b than h_ba, no
two of their points are nearer to each other than -(h_ab + h_ba) / |c_a - c_b|, and no kernel value is above that of
this distance. The h of all pairs come from one product of the points with the centres.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from difal_kernels._precision import full_precision
from difal_kernels._workers import Workers

from ...bandwidth import sample_rows
from ...bounds import UNIT
from ...kernel_functions import KERNEL_FUNCTIONS
from ...problem import Problem
from .operands import PASS_ROWS, GemmOperands, cut, native

PIVOTS = 2048  # at most, that points are sorted by
GROUPS_A_PIVOT = 2
SEEN, EXPECTED = 8, 512  # points whose coverage tells that of a group, and groups that tell of all
LEAST = 1e-37  # what is above 0 stays above it in float32
ROUNDED = 1e-6  # more than float64 distances, and a float32 number, are wrong by, relatively


def near_order(features: torch.Tensor, kernel: str, group: int, workers: Workers) -> torch.Tensor:
    """Order the points so that near ones are side by side, for groups of that size: the point at each position, (N,).

    Each goes to the nearest of some pivots; these follow each other along a chain of nearest neighbours.
    """
    n = len(features)

    def seen(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.float() - center
        return torch.nn.functional.normalize(rows) if kernel == "cosine" else rows

    chosen = sample_rows(n, max(1, min(PIVOTS, n // (GROUPS_A_PIVOT * group))))
    center = torch.zeros(features.shape[1])
    if kernel != "cosine":
        center = features[chosen].float().mean(0)
    pivots = seen(features[chosen])
    pivots = pivots[_chain(pivots)]
    half = pivots.square().sum(1) / 2
    cell, nearness = torch.empty(n, dtype=torch.int32), torch.empty(n)

    def work(block: tuple[int, int], slot: int) -> None:
        rows = seen(features[slice(*block)])
        score, index = (rows @ pivots.T - half).max(1)
        cell[slice(*block)] = index
        nearness[slice(*block)] = score - rows.square().sum(1) / 2

    workers.run(work, cut(n, PASS_ROWS))
    by_nearness = nearness.argsort(descending=True, stable=True)
    return by_nearness[cell[by_nearness].argsort(stable=True)]


def _chain(points: torch.Tensor) -> list[int]:
    """Each point's nearest neighbour among those that are left, from the first on."""
    left = torch.zeros(len(points))
    sq_norms, at, chain = points.square().sum(1), 0, []
    for _ in range(len(points)):
        chain.append(at)
        left[at] = torch.inf
        at = int((sq_norms - 2 * (points @ points[at]) + left).argmin())
    return chain


def _mean_direction(rows: torch.Tensor) -> torch.Tensor:
    """Mean of the rows' directions as a unit vector, (D,) float64, whatever their lengths; 0 where they point nowhere.

    Of length 1 or 0 it is the same direction to all who divide by the length, which a shorter one need not be.
    """
    rows = rows.double()
    lengths = rows.norm(dim=1)
    mean = (1 / lengths.where(lengths > 0, torch.inf)) @ rows / len(rows)
    length = mean.norm()
    return mean / length if length > 1e-6 else torch.zeros_like(mean)


class Layout:
    """Points are where they are given, and nothing is known of which are near.

    Attributes:
        order: (N,) int64, the point at each position; None where positions are points.
    """

    order: torch.Tensor | None = None

    def separate(self, p: Problem, operands: GemmOperands, workers: Workers) -> None:
        """Find out what no kernel value between two groups is above; `operands` are in this order."""

    def sort(self, p: Problem) -> Problem:
        """The problem with its weights and candidates by position."""
        return p

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """The positions of these points."""
        return points

    def points(self, positions: torch.Tensor) -> torch.Tensor:
        """The points at these positions."""
        return positions

    def by_point(self, values: torch.Tensor) -> torch.Tensor:
        """(N,) values by position, by point."""
        return values

    def by_position(self, values: torch.Tensor) -> torch.Tensor:
        """(N,) values by point, by position."""
        return values

    def reached(self, rows: torch.Tensor, low: torch.Tensor) -> torch.Tensor | None:
        """Flags of the groups in which a kernel value with one of these positions may be above that one's `low`.

        None for all, here and below.
        """
        return None

    def reaching(self, columns: torch.Tensor, low: torch.Tensor) -> torch.Tensor | None:
        """Flags of the groups in which a kernel value with one of these positions may be above `low`, (N,), there."""
        return None

    def meets(self, begin: int, end: int, groups: torch.Tensor | None) -> bool:
        """Whether any of these positions is in a group of these flags."""
        return True

    def parts(self, size: int, low: torch.Tensor | None, usable: torch.Tensor | None, floor: torch.Tensor) -> Parts:
        """Which pairs of blocks of `size` positions hold what a sweep needs, and where; by position:

        low: (N,), what counts of a row is above it; None if nothing does.
        usable: (N,) bool, points whose column counts where it is above `floor`, (N,); None if none does.
        """
        count = -(-len(floor) // size)
        return Parts(np.ones((count, count), dtype=bool), np.broadcast_to(np.array([0, size]), (count, count, 2)), size)

    def share_expected(self, points: torch.Tensor, coverage: torch.Tensor) -> float:
        """See `primitives.TiledGreedy`."""
        return 1.0


class Parts(NamedTuple):
    """Of the tiles of two blocks of positions, what is needed.

    Attributes:
        needed: (blocks, blocks) bool: whether the tile is needed at all.
        sides: (blocks, blocks, 2): [i, j] is where the part begins and ends in block i, from its own first position on,
            of the tile with block j.
        size: positions of a block.
    """

    needed: np.ndarray
    sides: np.ndarray
    size: int

    def share(self) -> float:
        """Of all pairs."""
        lengths = (self.sides[:, :, 1] - self.sides[:, :, 0]) * self.needed
        return float((lengths * lengths.T).sum()) / (len(self.needed) * self.size) ** 2


class NearTogether(Layout):
    """Near points are side by side, in groups.

    Args:
        p: the problem, of a kernel that is a function of features.
        group: positions of a group; divides the tiles' height.
        workers: who looks for the order.

    Attributes:
        above: (groups, groups) float32, what no kernel value between the two is above; 1 or more for one with itself.
    """

    above: torch.Tensor

    def __init__(self, p: Problem, group: int, workers: Workers):
        self.group = group
        self.order = near_order(p.features, p.kernel, group, workers)
        self.positions = torch.empty_like(self.order)
        self.positions[self.order] = torch.arange(len(self.order))

    @staticmethod
    def nbytes(points: int, dimension: int, group: int) -> int:
        """Bytes of that: what stays, and twice as much while it is made."""
        groups = -(-points // group)
        return 24 * points + 12 * groups**2 + 24 * groups * dimension

    def sort(self, p: Problem) -> Problem:
        candidates = None if p.candidates is None else self.positions[p.candidates]
        return replace(p, weights=p.weights[self.order], candidates=candidates)

    def at(self, points: torch.Tensor) -> torch.Tensor:
        return self.positions[points]

    def points(self, positions: torch.Tensor) -> torch.Tensor:
        return self.order[positions]

    def by_point(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.positions]

    def by_position(self, values: torch.Tensor) -> torch.Tensor:
        return values[self.order]

    def reached(self, rows: torch.Tensor, low: torch.Tensor) -> torch.Tensor | None:
        groups, which = (rows // self.group).unique(return_inverse=True)
        least = torch.full((len(groups),), torch.inf, dtype=low.dtype).scatter_reduce_(0, which, low, "amin")
        return (self.above[groups] > least[:, None]).any(0)

    def reaching(self, columns: torch.Tensor, low: torch.Tensor) -> torch.Tensor | None:
        return (self.above[(columns // self.group).unique()] > self.lowest(low)).any(0)

    def meets(self, begin: int, end: int, groups: torch.Tensor | None) -> bool:
        return groups is None or bool(groups[begin // self.group : -(-end // self.group)].any())

    def pairs(self, low: torch.Tensor | None, usable: torch.Tensor | None, floor: torch.Tensor) -> torch.Tensor:
        """Flags of the pairs of groups that are needed, (groups, groups); see `parts`."""
        needed = torch.zeros(self.above.shape, dtype=torch.bool)
        if low is not None:
            needed |= self.above > self.lowest(low)[:, None]
        if usable is not None:
            needed |= (self.above > self.lowest(floor)[:, None]) & (self.lowest(~usable) == 0)
        return needed | needed.T

    def parts(self, size: int, low: torch.Tensor | None, usable: torch.Tensor | None, floor: torch.Tensor) -> Parts:
        count, per_block = -(-len(floor) // size), size // self.group
        needed = self.pairs(low, usable, floor).numpy()
        needed = np.pad(needed, [(0, count * per_block - len(needed))] * 2)
        rows = np.swapaxes(needed.reshape(count, per_block, count, per_block).any(axis=3), 1, 2)
        sides = np.stack([rows.argmax(2), per_block - rows[:, :, ::-1].argmax(2)], 2) * self.group
        sides[np.arange(count), np.arange(count)] = 0, size
        return Parts(rows.any(2) | np.eye(count, dtype=bool), sides, size)

    def share_expected(self, points: torch.Tensor, coverage: torch.Tensor) -> float:
        groups = len(self.above)
        coarse = max(1, min(groups, len(points) // SEEN))  # neighbouring groups, so that some point is in each of them
        of_point = self.at(points) // self.group * coarse // groups
        low = torch.full((coarse,), torch.inf).scatter_reduce_(0, of_point, coverage, "amin")
        some = torch.arange(0, groups, max(1, groups // EXPECTED))
        low, above = low[some * coarse // groups], self.above[some][:, some]
        return float(((above > low) | (above > low[:, None])).double().mean())

    def lowest(self, values: torch.Tensor) -> torch.Tensor:
        """The least of each group's values, (groups,), given (N,)."""
        parts = values.split(self.group)
        whole = torch.stack(parts[:-1]).amin(1) if len(parts) > 1 else values[:0]
        return torch.cat([whole, parts[-1].amin()[None]])

    def separate(self, p: Problem, operands: GemmOperands, workers: Workers) -> None:
        parts = cut(len(p.features), self.group)
        centers = self._centers(p, operands, parts, workers)
        products = operands.products_with(centers)
        sq_norms = torch.empty(len(centers))
        ready = products.prepare(centers, products.empty(len(centers)), sq_norms)
        # Of an inner product: of the rows themselves, of the products, and of the differences taken here.
        error = 1.01 * (products.rel_err + 16 * UNIT)
        norms = torch.ones(len(centers)) if p.kernel == "cosine" else sq_norms.sqrt()
        reach = torch.empty(len(parts), len(parts))  # [a, b]: how far group a goes from its centre towards that of b

        def work(a: int, slot: int) -> None:
            begin, end = parts[a]
            along = torch.empty(end - begin, len(centers))
            products.multiply(operands.covered_for(products, begin, end, 2 * slot), ready, along)
            largest = operands.sq_norms[begin:end].max().sqrt() if p.kernel != "cosine" else 1.0
            reach[a] = (along - along[:, a, None]).amax(0) + error * largest * (norms + norms[a])

        with full_precision():
            workers.run(work, range(len(parts)))
        self.above = self._kernel_above(p, operands, centers, reach)

    @staticmethod
    def _centers(p: Problem, operands: GemmOperands, parts: list[tuple[int, int]], workers: Workers) -> torch.Tensor:
        centers = torch.empty(len(parts), p.features.shape[1], dtype=native(p.features[:1]).dtype)

        def work(a: int, slot: int) -> None:
            rows = operands.take(*parts[a])
            centers[a] = _mean_direction(rows) if p.kernel == "cosine" else rows.to(centers.dtype).mean(0)

        workers.run(work, range(len(parts)))
        return centers

    @staticmethod
    def _kernel_above(p: Problem, operands: GemmOperands, centers: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        seen = centers.double()
        if p.kernel == "cosine":
            seen = torch.nn.functional.normalize(seen)
        else:
            seen = (seen - operands.frame.center.double()) / operands.frame.bandwidth
        sq_norms = seen.square().sum(1)
        above = torch.empty_like(reach)
        for begin, end in cut(len(centers), 256):
            sums = sq_norms[begin:end, None] + sq_norms
            distance = (sums - 2 * (seen[begin:end] @ seen.T) + 1e-12 * sums).clamp_(min=0).sqrt_()
            apart = -(reach[begin:end].double() + reach[:, begin:end].T.double()) / distance
            apart = apart.where(apart.isfinite(), 0.0)  # float32 cannot hold the rows, or what is between them
            square = ((1 - ROUNDED) * apart).clamp_(min=0).square_()
            if p.kernel == "cosine":
                value = 1 - square / 2
            else:
                value = KERNEL_FUNCTIONS[p.kernel].from_squared(square)
            above[begin:end] = (value * (1 + ROUNDED)).clamp_(min=LEAST)
        above.fill_diagonal_(1 + ROUNDED)
        return above
