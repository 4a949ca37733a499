"""Were the picks greedy? Replays them in float64, with code of its own, on any number of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

TIE = 1e-12  # of the first gain: closer gains count as equal
BLOCK = 2**26  # kernel values at a time: 512 MB


@dataclass
class Verdict:
    greedy: int  # picks before the first that was not the best of its step
    coverage: float  # mean over all rows, labeled rows included
    repeated: int  # picks made before, or labeled


@dataclass
class Trace:
    """What became of some picks, one after another."""

    picks: np.ndarray
    greedy: int
    coverage: list[float]  # after each pick
    repeated: list[int]

    def verdict(self, picks: np.ndarray) -> Verdict | None:
        """Of the first of these picks; None of any others."""
        count = len(picks)
        if not 0 < count <= len(self.picks) or not np.array_equal(picks, self.picks[:count]):
            return None
        return Verdict(min(self.greedy, count), self.coverage[count - 1], self.repeated[count - 1])


class Replay:
    """One pool and bandwidth. Gains before any pick are kept, since they are most of the work."""

    def __init__(self, features: np.ndarray, bandwidth: float, labeled: np.ndarray) -> None:
        x = torch.from_numpy(features).double()
        self.x = (x - x.mean(0)) / bandwidth
        self.squares = (self.x * self.x).sum(1)
        self.rows = max(1, BLOCK // len(x))
        self.labeled = labeled
        self.covered = torch.zeros(len(x), dtype=torch.float64)
        if len(labeled):
            self.covered = self.kernel(torch.from_numpy(labeled)).amax(0)
        self.gains = torch.zeros(len(x), dtype=torch.float64)
        for block in torch.arange(len(x)).split(self.rows):
            self.gains += (self.kernel(block) - self.covered[block, None]).clamp_(min=0).sum(0)

    def kernel(self, rows: torch.Tensor) -> torch.Tensor:
        q = torch.mm(self.x[rows], self.x.T).mul_(-2).add_(self.squares).add_(self.squares[rows, None])
        return q.clamp_(min=0).neg_().exp_()

    def __call__(self, picks: np.ndarray) -> Trace:
        gains, covered = self.gains.clone(), self.covered.clone()
        allowed = torch.ones(len(covered), dtype=torch.bool)
        allowed[self.labeled] = False
        greedy, first, repeated, coverage = None, None, [0], []
        for step, pick in enumerate(picks.tolist()):
            best = float(gains[allowed].max()) if greedy is None else 0.0
            first = best if first is None else first
            repeated.append(repeated[-1] + (not allowed[pick]))
            if greedy is None and (not allowed[pick] or best - float(gains[pick]) > TIE * first):
                greedy = step
            allowed[pick] = False
            raised = torch.maximum(covered, self.kernel(torch.tensor([pick]))[0])
            for block in (raised > covered).nonzero()[:, 0].split(self.rows) if greedy is None else ():
                values = self.kernel(block)
                gains -= (values - covered[block, None]).clamp_(min=0).sum(0)
                gains += values.sub_(raised[block, None]).clamp_(min=0).sum(0)
            covered = raised
            coverage.append(float(covered.mean()))
        return Trace(picks, len(picks) if greedy is None else greedy, coverage, repeated[1:])
