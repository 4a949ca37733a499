"""Shared by the tests of selection: pools, backends with sizes of their own, and what it means to agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from difal_kernels import maxherding
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.guessing import Guesser
from difal_kernels.ops.maxherding.kernel_functions import kernel_matrix
from difal_kernels.ops.maxherding.matrix_free import MatrixFreeSelection

# For guesses from few rows, so that some are wrong, at sizes that the reference can check.
FEW_ROWS = {"watched_points": 60, "sample_rows": 40, "first_rows": 80, "tried": 8, "first_tried": 8, "next_tried": 8}


def blobs(n=200, d=24, seed=0, dtype=torch.float32, clusters=12, spread=1.0):
    """Points around some centres."""
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(clusters, d, generator=generator)
    which = torch.randint(clusters, (n,), generator=generator)
    return (centers[which] + spread * torch.randn(n, d, generator=generator)).to(dtype)


def moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def use(monkeypatch: pytest.MonkeyPatch, name: str, path: str | None = None, guessing=None, **tuning: Any) -> None:
    """Put a backend with this path, these rules for guessing and this tuning in the place of `name`."""
    own = BACKENDS[name]
    rules = replace(own.guessing, **(guessing or {}))
    monkeypatch.setitem(
        BACKENDS, name, replace(own, path=path or own.path, guessing=rules, tuning=replace(own.tuning, **tuning))
    )


def assert_sums_are_right(tiles: Any, first: int) -> None:
    """The gains of the last sweep at each step from `first` on, against float64: within the bound that is charged."""
    p = tiles.p
    k = kernel_matrix(p.features, p.features, p.kernel, p.bandwidth)
    for t in range(first, tiles.guesses() + 1):
        gains, alive = tiles.gains(t)
        exact = (p.weights[:, None] * (k - tiles.coverage(t)[:, None]).clamp(min=0)).sum(0)
        bound = tiles.entry_error * alive + tiles.drift(float(gains.max()))
        assert bool(((gains - exact).abs() <= bound + 1e-12).all()), (t, float((gains - exact).abs().max()))


def watch_corrections(monkeypatch: pytest.MonkeyPatch, tiled: type) -> list[int]:
    """Check the sums after each correction that this class of tiles makes; the steps of those, as they come."""
    replace, corrected = tiled.replace, []

    def checked(self, t, points, moved):
        rows = replace(self, t, points, moved)
        assert_sums_are_right(self, t)
        corrected.append(t)
        return rows

    monkeypatch.setattr(tiled, "replace", checked)
    return corrected


def watch_proofs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each sweep that had guesses to prove, how many there were and how many picks it proved."""
    prove, proofs = MatrixFreeSelection.prove, []

    def watched(self, done):
        guesses = self.tiles.guesses() - done
        whole = prove(self, done)
        proofs.append((guesses, len(self.picks) - done))
        assert whole == (proofs[-1][0] == proofs[-1][1])
        assert self.tiles.guesses() == len(self.picks)
        return whole

    monkeypatch.setattr(MatrixFreeSelection, "prove", watched)
    return proofs


def guess_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any candidate is as good a guess as the best."""
    generator = torch.Generator().manual_seed(0)

    def anyone(self, estimate, open_):
        choices = open_.nonzero()[:, 0]
        return int(choices[torch.randint(len(choices), (), generator=generator)])

    monkeypatch.setattr(Guesser, "best_of_sample", anyone)


def guess_badly(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[int], bool]) -> None:
    """Guess the candidate that is estimated lowest at the steps of which `is_bad` says so."""
    best = Guesser.best_of_sample

    def spoiled(self, estimate, open_):
        j = best(self, estimate, open_)
        others = open_.clone()
        others[j] = False
        return int(torch.where(others, estimate, torch.inf).argmin()) if is_bad(self.tiles.guesses()) else j

    monkeypatch.setattr(Guesser, "best_of_sample", spoiled)


def assert_agree(got: Any, want: Any) -> None:
    """The same picks; gains and coverage to rounding in float64."""
    assert torch.equal(got.indices.cpu(), want.indices)
    first = (float(want.gains.flatten()[0]) if want.gains.numel() else 0) or 1.0
    torch.testing.assert_close(got.gains.cpu() / first, want.gains / first, rtol=0, atol=1e-11)
    coverage = torch.as_tensor(got.coverage).double().cpu()
    torch.testing.assert_close(coverage, torch.as_tensor(want.coverage).double(), rtol=1e-12, atol=0)


def assert_same(backend: str, features: torch.Tensor, budget: int, *, device=None, repeats=1, **options: Any) -> Any:
    """The picks of `backend` are those of the reference on the CPU, and of every further run."""
    device = features.device if device is None else device
    want = maxherding(features, budget, backend="reference", return_info=True, **options)
    there = {name: moved(value, device) for name, value in options.items()}
    for _ in range(repeats):
        got = maxherding(features.to(device), budget, backend=backend, return_info=True, **there)
        assert got.indices.device.type == device.type
        assert got.backend == backend
        assert_agree(got, want)
    return got
