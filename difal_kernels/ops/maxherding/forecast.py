"""How long a selection without the matrix takes: before it runs, and while it does.

Everything is counted in pairs of points, of which a plain sweep goes over N^2, and one rate turns that into seconds:
measured on a part of the pool before, and by the sweeps themselves as soon as there are any. The constants below are
ratios of times measured on two cores; they decide nothing but what is told.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from ..._progress import Progress
from .bandwidth import sample_rows
from .kernel_functions import alive_above, kernel_matrix
from .primitives import Device, Guessing, TiledGreedy
from .problem import Problem

REHEARSED = 2048  # points that tell how entries die
CALIBRATED = 12_288  # points that a sweep is timed on
CALIBRATED_NUMBERS = 1 << 23  # and fewer of many features, but 2048 at least
STEP_COST = 0.115  # of a sweep for each e-fold of the guesses that it proves: rows rise about ln(guesses) times
GATHER_COST, ENTRY_COST = 0.23, 29.0  # of a sweep that gathers: always, and in pairs for each entry
START_COST = 28.0  # pairs, for each entry gathered: the first gains
PICK_COST = 30.0  # and for each e-fold of the picks
GUESS_COST = 2.0  # pairs, for each of the N times (sampled rows + candidates tried)
CORRECTION_COST = 0.1  # of a sweep, for each wrong guess
WRONG = 0.04  # of the guesses
USUAL_GUESSES = 64  # before a sweep: by then the sample tells no more apart
GUESSING, SWEEP, PROVING, PICKING = "guessing picks", "pass over all pairs", "proving picks", "picking"
STEPS = (2, 4, 8, 16, 32, 64, 128)
DECAY = 0.5  # of what is alive after that many picks, as a power of the picks


@dataclass(frozen=True)
class Phase:
    """A part of the work, in pairs."""

    name: str
    pairs: float


@dataclass
class Plan:
    """The work that is expected, from `done` picks on.

    Args:
        n: points.
        budget: picks.
        room: alive entries that there is room for in a sweep that proves so many guesses.
        most: guesses of one sweep that there is room for.
        share_alive: of the pairs, after so many picks; estimated.
        share_swept: of the pairs, by a sweep after so many picks: near points alone may matter by then; estimated.
        guess_pairs: of one guess.
        relative: what a pair of a sweep costs, in units of one of 128 features: all else does not know D.
        first: guesses of the first sweep.
        slack: how much more room than alive entries is asked for.
    """

    n: int
    budget: int
    room: Callable[[int], float]
    most: int
    share_alive: Callable[[int], float]
    guess_pairs: float
    first: int = 2
    slack: float = 1.2
    relative: float = 1.0
    share_swept: Callable[[int], float] = lambda picks: 1.0

    def sweep_pairs(self, guesses: int, entries: float = 0.0, gathers: bool = False, share: float = 1.0) -> float:
        """Of one sweep over that share of the pairs that proves so many guesses, and gathers so many entries."""
        pairs = share * float(self.n) ** 2
        more = STEP_COST * math.log1p(guesses) * pairs
        more += GATHER_COST * pairs + ENTRY_COST * entries if gathers else 0.0
        return pairs + more / self.relative

    def picking_pairs(self, entries: float, done: int, until: int) -> float:
        """Of the picks from `done` on, from so many gathered entries whose first gains are known."""
        return entries * PICK_COST * math.log((until + 1) / (done + 1)) / self.relative

    def phases(self, done: int = 0) -> list[Phase]:
        """What is ahead, before any guess of the next sweep."""
        ahead: list[Phase] = []
        swept = done > 0
        while done < self.budget:
            most = min(self.budget - done, min(self.most, USUAL_GUESSES) if swept else self.first)
            guesses = next((g for g in range(most + 1) if self.fits(done + g, g)), None)
            gathers, until = guesses is not None, self.budget
            if not gathers and done > USUAL_GUESSES:  # some candidates alone: see `portions`
                guesses, gathers, until = 0, True, min(self.budget, 2 * done)
            guesses = most if guesses is None else guesses
            share = self.share_swept(done)
            done += guesses
            entries = min(self.alive(done), self.room(guesses) / self.slack) if gathers else 0.0
            ahead.append(Phase(GUESSING, guesses * self.guess_pairs))
            ahead.append(Phase(SWEEP, self.sweep_pairs(guesses, entries, gathers, share)))
            ahead.append(Phase(PROVING, guesses * WRONG * CORRECTION_COST * float(self.n) ** 2))
            swept = True
            if gathers:
                first_gains = entries * START_COST / self.relative
                ahead.append(Phase(PICKING, first_gains + self.picking_pairs(entries, done, until)))
                done = until
        return [phase for phase in ahead if phase.pairs > 0]

    def alive(self, picks: int) -> float:
        return self.share_alive(picks) * float(self.n) ** 2

    def fits(self, picks: int, guesses: int) -> bool:
        return self.alive(picks) * self.slack <= self.room(guesses)


@dataclass
class Forecast:
    """Seconds left of a selection, as it runs.

    Args:
        rate: pairs a second, as calibrated.
        clock: seconds.
    """

    rate: float
    clock: Callable[[], float] = time.monotonic
    ahead: list[Phase] = field(default_factory=list)
    now: Phase | None = None
    began: float = 0.0

    def expect(self, phases: list[Phase]) -> None:
        """What is ahead after the phase under way."""
        self.ahead = phases

    def begin(self, phase: Phase) -> None:
        """A phase begins; a phase of that name that was expected next is this one."""
        self.end()
        while self.ahead and self.ahead[0].name != phase.name and any(p.name == phase.name for p in self.ahead):
            self.ahead.pop(0)
        if self.ahead and self.ahead[0].name == phase.name:
            self.ahead.pop(0)
        self.now, self.began = phase, self.clock()

    def go_on(self, phase: Phase) -> None:
        """The phase under way is over, and this one belongs to it."""
        self.now, self.began = phase, self.clock()

    def end(self) -> None:
        """The phase under way is over; a sweep tells how fast this machine is."""
        if self.now is not None and self.now.name == SWEEP:
            self.rate = self.now.pairs / max(self.clock() - self.began, 1e-9)
        self.now = None

    def left(self, share: float) -> float:
        """Seconds, given the share that is done of the phase under way."""
        rate, here = self.rate, 0.0
        if self.now is not None:
            spent = self.clock() - self.began
            here = (1 - share) * self.now.pairs / rate
            if share > 0.02:  # the longer it runs, the more what it took so far counts
                measured = spent * (1 - share) / share
                trust = min(1.0, 5 * share)
                here += trust * (measured - here)
                if self.now.name == SWEEP and spent > 0:
                    rate = 1 / ((1 - trust) / rate + trust * spent / (share * self.now.pairs))
        return here + sum(phase.pairs for phase in self.ahead) / rate


class Silent:
    """Tells nobody anything: what `Teller` is asked to do."""

    entries = 0.0

    def expect(self, done: int, alive: float) -> None:
        """So many picks are proven, and so many entries alive: plan what is ahead."""

    def begin(self, name: str, pairs: float | None = None) -> None:
        """A phase begins: of as much work as was expected, unless that is known."""

    def guessed(self, count: int) -> None:
        """So many picks are guessed."""

    def sweep(self, guesses: int, gathers: bool, entries: Callable[[], float], share: Callable[[], float]) -> None:
        """A sweep begins that proves so many guesses; if it gathers, so many entries, over that share of the pairs."""

    def at(self, share: float) -> None:
        """So much of the phase is done."""

    def picks_from(self, done: int) -> None:
        """The bar counts on from so many picks in all, which are made from what was gathered."""


class Teller(Silent):
    """Tells a progress bar how far a selection is, and what is left.

    Args:
        bar: the progress bar.
        plan: the work as a whole.
        rate: pairs a second.
        clock: seconds.
    """

    def __init__(self, bar: Progress, plan: Plan, rate: float, clock: Callable[[], float] = time.monotonic):
        self.plan, self.forecast = plan, Forecast(rate, clock)
        self.listen(bar, plan.budget)
        self.share, self.entries = 0.0, 0.0
        self.counted_from: tuple[int, int] | None = None  # picks, in all and on the bar, when picking began

    def listen(self, bar: Progress, budget: int) -> None:
        """Tell this bar from now on, of so many picks in all."""
        self.bar, self.plan = bar, replace(self.plan, budget=budget)
        self.forecast.end()
        self.forecast.expect([])
        bar.left = self.left

    def left(self) -> float:
        """Seconds."""
        now = self.forecast.now
        if now is not None and now.name == PICKING and self.counted_from is not None:
            first, shown = self.counted_from
            done = first + self.bar.done - shown
            self.share = min(1.0, self.plan.picking_pairs(self.entries, first, done) / max(now.pairs, 1e-9))
        return self.forecast.left(self.share)

    def expect(self, done: int, alive: float) -> None:
        plan, told = self.plan, self.plan.alive(done)
        factor = alive / told if told > 0 and alive > 0 else 1.0
        self.forecast.end()
        self.forecast.expect(replace(plan, share_alive=lambda t: min(1.0, factor * plan.share_alive(t))).phases(done))

    def begin(self, name: str, pairs: float | None = None) -> None:
        expected = next((phase.pairs for phase in self.forecast.ahead if phase.name == name), 0.0)
        self.share, self.counted_from = 0.0, None
        self.forecast.begin(Phase(name, expected if pairs is None else pairs))
        self.bar.part(name, 0.0)

    def guessed(self, count: int) -> None:
        self.at(count / max(USUAL_GUESSES, count + 8))

    def sweep(self, guesses: int, gathers: bool, entries: Callable[[], float], share: Callable[[], float]) -> None:
        self.begin(SWEEP, self.plan.sweep_pairs(guesses, entries() if gathers else 0.0, gathers, share()))

    def at(self, share: float) -> None:
        self.share = share
        if self.forecast.now is not None:
            self.bar.part(self.forecast.now.name, share)

    def picks_from(self, done: int) -> None:
        self.counted_from, self.share = (done, self.bar.done), 0.0
        self.forecast.go_on(Phase(PICKING, self.plan.picking_pairs(self.entries, done, max(done, self.plan.budget))))


def plan_of(p: Problem, tiles: TiledGreedy, rules: Guessing, budget: int) -> Plan:
    """The work of a whole selection, by a rehearsal on few points."""
    n, rehearsed = len(p.features), rehearse(p)
    rules = rules.among(n)
    return Plan(
        n=n,
        budget=budget,
        room=tiles.room,
        most=tiles.max_guesses,
        share_alive=rehearsed.share_alive,
        share_swept=lambda picks: tiles.share_expected(rehearsed.points, rehearsed.coverage(picks)),
        guess_pairs=GUESS_COST * n * (min(n, rules.sample_rows) + min(n, rules.tried)),
        first=rules.first_guesses,
        slack=rules.slack,
        relative=0.3 + 0.7 * p.features.shape[1] / 128,
    )


def estimated_seconds(device: Device, p: Problem, limit: int) -> float:
    """Of a whole selection on the processor; takes some tenths of a second."""
    tiles = device.tiled_greedy(p, limit, p.budget)
    return sum(phase.pairs for phase in plan_of(p, tiles, device.guessing, p.budget).phases()) / calibrate(device, p)


def calibrate(device: Device, p: Problem, clock: Callable[[], float] = time.monotonic) -> float:
    """Pairs a second of a plain sweep, timed on a part of the pool."""
    n, d = p.features.shape
    some = sample_rows(n, min(n, CALIBRATED, max(2048, CALIBRATED_NUMBERS // d))).to(p.features.device)
    part = replace(p, features=p.features[some], weights=p.weights[some], labeled=None, candidates=None, budget=1)
    tiles, least = device.tiled_greedy(part, 4 * device.tiled_memory(part), 1), math.inf
    with tiles.working():
        tiles.guess(0)
        for _ in range(3):  # the first one touches fresh memory
            began = clock()
            tiles.sweep(0, False)
            least = min(least, clock() - began)
    return len(some) ** 2 / max(least, 1e-9)


@dataclass(frozen=True)
class Rehearsal:
    """A selection on few points.

    Args:
        points: which they are, of the pool.
        covered: their coverage after so many picks of their own, for some numbers of picks.
        alive: how large a share of their pairs is alive then.
    """

    points: torch.Tensor
    covered: dict[int, torch.Tensor]
    alive: dict[int, float]

    def coverage(self, picks: int) -> torch.Tensor:
        """After the most picks that were made, up to so many."""
        return self.covered[max(step for step in self.covered if step <= max(picks, 0))]

    def share_alive(self, picks: int) -> float:
        """How large a share of the pool's pairs is alive after so many picks."""
        known = [(1, 1.0), *self.alive.items()]
        for (a, low), (b, high) in itertools.pairwise(known):
            if picks <= b:
                part = math.log(max(picks, a) / a) / math.log(b / a)
                return low * (high / low) ** part
        last, alive = known[-1]
        return alive * (last / max(picks, last)) ** DECAY


def rehearse(p: Problem) -> Rehearsal:
    """Select from a small pool, to tell how entries die."""
    some = sample_rows(len(p.features), REHEARSED).to(p.features.device)
    x = p.features[some]
    kernel = kernel_matrix(x, x, p.kernel, p.bandwidth).float()
    covered = torch.zeros(len(some), device=x.device)
    if p.labeled is not None:
        for rows in p.labeled.split(1024):
            covered = torch.maximum(covered, kernel_matrix(x, rows, p.kernel, p.bandwidth).amax(1).float())
    made = Rehearsal(some, {0: covered.clone()}, {})
    gains = (kernel - covered[:, None]).clamp_(min=0).sum(0)
    for step in range(1, min(STEPS[-1], len(some)) + 1):
        best = int(gains.argmax())
        rows = (kernel[:, best] > covered).nonzero()[:, 0]
        low = covered[rows]
        covered[rows] = kernel[rows, best]
        taken = torch.minimum(kernel[rows], covered[rows, None]).sub_(low[:, None]).clamp_(min=0)
        gains -= taken.sum(0)
        if step in STEPS:
            open_ = alive_above(covered, p.kernel)
            alive = kernel > torch.minimum(open_[:, None], open_[None])
            made.alive[step] = max(float(alive.fill_diagonal_(False).sum()) / len(some) ** 2, 1e-9)
            made.covered[step] = covered.clone()
    return made
