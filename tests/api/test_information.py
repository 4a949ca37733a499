"""The greedy choice by Fisher information, against matrices made anew at every step."""

import numpy as np
import pytest
import torch

from difal.acquisition import information
from difal.acquisition.information import Axes, impurity, most_informative


def by_definition(rows, information, importance, free, labeled, labeled_information, budget, penalty):
    """trace(M^-1 F) from scratch for every candidate of every step."""
    share = importance / importance.sum()
    wanted = np.einsum("n,nd,ne->de", share, rows, rows)
    matrix = penalty * np.eye(rows.shape[1]) + np.einsum("n,nd,ne->de", labeled_information, labeled, labeled)

    def variance(matrix):
        return np.trace(np.linalg.solve(matrix, wanted))

    first, free, chosen, gains = variance(matrix), free.copy(), [], []
    for _ in range(budget):
        before = variance(matrix)
        after = [
            variance(matrix + information[i] * np.outer(rows[i], rows[i])) if free[i] else np.inf
            for i in range(len(rows))
        ]
        best = int(np.argmin(after))
        chosen.append(best)
        gains.append((before - after[best]) / first)
        free[best] = False
        matrix = matrix + information[best] * np.outer(rows[best], rows[best])
    return chosen, gains


@pytest.mark.parametrize("labels", [0, 7])
def test_choices_are_those_of_the_definition(labels):
    rng = np.random.default_rng(labels)
    rows, labeled = rng.normal(size=(60, 8)) * np.linspace(3, 0.2, 8), rng.normal(size=(labels, 8))
    information, importance = rng.random(60) * (rng.random(60) < 0.8), rng.random(60)
    free, known = rng.random(60) < 0.7, rng.random(labels)
    given = (rows, information, importance, free, labeled, known)
    wanted, gains = by_definition(*given, 20, 0.5)
    chosen, found = most_informative(*map(torch.from_numpy, given), 20, 0.5)
    assert chosen.tolist() == wanted
    np.testing.assert_allclose(found, gains, rtol=1e-9, atol=1e-12)
    assert 0 < found.sum() < 1


def test_rows_of_no_information_are_chosen_last_and_the_first_of_equals_first():
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    none = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    information = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    ones = torch.ones(4, dtype=torch.float64)
    chosen, gains = most_informative(rows, information, ones, ones.bool(), *none, 4, 1.0)
    assert chosen.tolist() == [1, 2, 0, 3]
    assert gains[3] == 0
    chosen, gains = most_informative(rows, 0 * ones, 0 * ones, ones.bool(), *none, 3, 1.0)  # nothing is uncertain
    assert chosen.tolist() == [0, 1, 2]
    assert not gains.any()


@pytest.mark.parametrize(("at", "name"), [(0, "rows"), (1, "information"), (4, "labeled")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(at, name, value):
    given = [torch.ones(4, 2), *(torch.ones(4, dtype=torch.float64) for _ in range(2)), torch.ones(4).bool()]
    given += [torch.ones(1, 2), torch.ones(1, dtype=torch.float64)]
    most_informative(*given, 1, 1.0)
    given[at].view(-1)[-1] = value
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        most_informative(*given, 1, 1.0)


def test_impurity():
    torch.testing.assert_close(
        impurity(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])),
        torch.tensor([0.0, 0.5, 0.375], dtype=torch.float64),
    )


def test_axes_keep_what_varies():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(500, 5)) @ rng.normal(size=(5, 40)) + 0.01 * rng.normal(size=(500, 40))).astype(np.float32)
    rows[:, 3] = 7.0  # a constant says nothing
    standard = (rows - rows.mean(0)) / np.where(rows.std(0) > 1e-3, rows.std(0), np.inf)
    whole = Axes(rows, 40)(rows)
    np.testing.assert_allclose(whole.numpy(), standard, atol=1e-4)
    few = Axes(rows, 5)
    found = few(rows, np.arange(100, 300))
    assert found.shape == (200, 5)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(  # distances stay, what is left out is noise
        torch.cdist(found, found).numpy(), torch.cdist(whole[100:300], whole[100:300]).numpy(), rtol=0.02, atol=0.02
    )
    assert torch.equal(found, Axes(rows, 5)(rows, slice(100, 300)))
    assert few(rows[:0]).shape == (0, 5)
    assert Axes(rows[:3], 5)(rows).shape == (500, 3)  # three rows span no more
    assert torch.isfinite(Axes(rows[:1], 5)(rows)).all()


@pytest.mark.parametrize("factor", [1e-45, 1e-25, 1e25, 1e38])
def test_axes_do_not_depend_on_the_unit_of_the_features(factor):
    """Of which sums, differences and squares may be beyond float32; a power of two changes no bit."""
    rows = np.random.default_rng(1).normal(size=(50, 6)).clip(-3, 3).astype(np.float32)
    rows[:, 2] = 1.5
    for count in (6, 3):
        wanted = Axes(rows, count)(rows)
        assert wanted.abs().max() > 1
        assert torch.equal(Axes(rows * np.float32(2.0**80), count)(rows * np.float32(2.0**80)), wanted)
        if factor > 1e-40:
            scaled = rows * np.float32(factor)
            torch.testing.assert_close(Axes(scaled, count)(scaled), wanted, atol=1e-5, rtol=1e-4)
    two = np.array([[factor], [0.0]], np.float32)
    assert Axes(two, 1)(two).tolist() == [[1.0], [-1.0]]


def test_single_precision_and_a_pool_of_many_parts_choose_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    rows, labeled = rng.normal(size=(300, 12)) * np.linspace(3, 0.2, 12), rng.normal(size=(9, 12))
    weights = (rng.random(300), rng.random(300), rng.random(300) < 0.7)
    given = *map(torch.from_numpy, (rows, *weights, labeled, rng.random(9))), 120, 0.5
    wanted, gains = most_informative(*given)
    monkeypatch.setattr(information, "CHUNK", 7)
    monkeypatch.setattr(information, "AFRESH", 16)
    chosen, found = most_informative(given[0].float(), *given[1:4], given[4].float(), *given[5:])
    assert chosen.tolist() == wanted.tolist()
    np.testing.assert_allclose(found, gains, rtol=1e-4, atol=1e-6)
