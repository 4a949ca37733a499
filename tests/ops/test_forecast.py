"""What a selection without the matrix tells of the time it takes, before it runs and while it does. No clock runs."""

import math
import re
from dataclasses import replace

import pytest
import torch

from difal_kernels import explain, maxherding
from difal_kernels._progress import Progress
from difal_kernels.ops.maxherding import forecast
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.forecast import Plan, Teller, rehearse
from difal_kernels.ops.maxherding.kernel_functions import kernel_matrix
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs, use

CPU = BACKENDS["cpu"]
compiled = pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))


def plan(room=1e9, budget=10_000, n=100_000):
    """Of a pool where one in t + 1 pairs is alive after t picks."""
    return Plan(n, budget, lambda guesses: room, 64, lambda picks: 1 / (picks + 1), guess_pairs=3e8)


class Clock:
    """Stands still unless it is told otherwise."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_plan_ends_with_picks_from_what_is_gathered():
    whole = plan(room=1e12).phases()
    assert [p.name for p in whole] == [forecast.SWEEP, forecast.PICKING]
    usual = plan(room=1e9).phases()
    assert [p.name for p in usual].count(forecast.SWEEP) == 2
    assert usual[-1].name == forecast.PICKING
    tight = plan(room=1e7).phases()  # in portions: each needs a sweep
    assert [p.name for p in tight].count(forecast.SWEEP) > 3
    assert [p.name for p in tight].count(forecast.PICKING) > 1


def test_a_plan_knows_that_later_sweeps_go_over_few_pairs():
    near = replace(plan(room=1e9), share_swept=lambda picks: 1.0 if picks < 2 else 0.05)
    sweeps, whole = ([p.pairs for p in some.phases() if p.name == forecast.SWEEP] for some in (near, plan(room=1e9)))
    assert len(sweeps) == len(whole) > 1
    assert sweeps[0] == whole[0]
    assert sweeps[-1] < whole[-1]


@pytest.mark.parametrize("wrong", [0.4, 1.0, 2.5])
def test_the_time_left_is_right_after_a_tenth_however_wrong_the_calibration(wrong):
    """Every pair takes as long; the rate that was calibrated is wrong by this factor."""
    clock, rate, work = Clock(), 1e9, plan()
    whole = sum(p.pairs for p in work.phases()) / rate
    teller = Teller(Progress(10_000, "", False), work, wrong * rate, clock)
    teller.expect(0, work.alive(0))
    assert teller.left() == pytest.approx(whole / wrong, rel=1e-6)
    spent, checked = 0.0, 0
    for phase in work.phases():
        teller.begin(phase.name)
        for step in range(1, 101):
            clock.now += phase.pairs / rate / 100
            spent += phase.pairs / rate / 100
            teller.at(step / 100)
            if phase.name == forecast.PICKING:
                continue  # tells by the picks
            if 0.1 * whole <= spent <= 0.9 * whole:
                assert teller.left() == pytest.approx(whole - spent, rel=0.3)
                checked += 1
    assert checked > 50


def test_first_gains_are_not_taken_for_picks():
    work, rate = plan(), 1e9
    teller = Teller(Progress(10_000, "", False), work, rate, Clock())
    teller.expect(100, work.alive(100))
    teller.begin(forecast.PICKING)
    before = teller.left()
    teller.entries, teller.bar.done = 1e8, 100  # what is picked by now was proven by sweeps
    assert teller.left() == before > 1


def test_picks_take_less_and_less_time():
    bar, work, clock, rate = Progress(10_000, "", False), plan(), Clock(), 1e9
    teller = Teller(bar, work, rate, clock)
    teller.expect(0, work.alive(0))
    teller.begin(forecast.PICKING)
    teller.entries = 1e8
    teller.picks_from(100)
    whole, told = work.picking_pairs(1e8, 100, 10_000) / rate, []
    for made in (0, 300, 600, 5000):
        bar.done, spent = made, work.picking_pairs(1e8, 100, 100 + made) / rate
        clock.now = 100 + spent
        told.append(teller.left())
        assert told[-1] == pytest.approx(whole - spent, rel=1e-6)
    assert told[0] - told[1] > 1.5 * (told[1] - told[2]) > 0


def test_a_rehearsal_counts_what_is_alive():
    x = blobs(300, 6)
    (p,) = prepare(x, 5).problems
    share, picks = rehearse(p).share_alive, maxherding(x, 16, backend="reference")
    kernel = kernel_matrix(x, x, "rbf", p.bandwidth)
    for t in (2, 16):
        covered = kernel[:, picks[:t]].amax(1)
        covered = covered.where(covered < 1, torch.inf)
        alive = (kernel > torch.minimum(covered[:, None], covered[None])).double().fill_diagonal_(0)
        assert share(t) == pytest.approx(float(alive.mean()), rel=1e-3)
    assert share(0) == 1.0
    assert share(2) > share(5) > share(16) > share(10_000) > 0


@compiled
def test_explain_tells_the_seconds_of_a_selection_without_the_matrix(monkeypatch):
    x = blobs(400, 8)
    assert "seconds" not in explain(maxherding, x, 20)
    use(monkeypatch, "cpu", "matrix-free")
    monkeypatch.setattr(forecast, "calibrate", lambda device, p: 1e3)
    said = explain(maxherding, x, 20)
    told = float(re.search(r"about ([\d,.]+) seconds \(an estimate\)", said)[1].replace(",", ""))
    (p,) = prepare(x, 20).problems
    tiles = CPU.tiled_greedy(p, 1 << 30, 20)
    work = forecast.plan_of(p, tiles, CPU.guessing, 20).phases()
    assert told == pytest.approx(sum(phase.pairs for phase in work) / 1e3, rel=0.06)  # two digits


@compiled
@pytest.mark.parametrize("path", ["dense", "matrix-free"])
def test_progress_may_be_a_function(monkeypatch, path):
    use(monkeypatch, "cpu", path)
    monkeypatch.setattr("difal_kernels._progress.EVERY", 0.0)
    lines = []
    x = blobs(400, 8)
    picks = maxherding(x, 30, progress=lines.append)
    assert torch.equal(picks, maxherding(x, 30, backend="reference"))
    assert lines[-1] == "maxherding: 30/30, about 0 s left"
    assert all(re.fullmatch(r"maxherding: \d+/30, (.+ \d+%, )?about \d+ s left", line) for line in lines)
    if path == "matrix-free":
        assert any(forecast.SWEEP in line for line in lines)
    with pytest.raises(TypeError, match="`progress`"):
        maxherding(x, 3, progress="yes")
    assert not math.isnan(forecast.estimated_seconds(CPU, prepare(x, 3).problems[0], 1 << 30))
