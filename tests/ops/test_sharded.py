"""Sharded MaxHerding: the picks of one process at any number of ranks; a rank that is lost."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import process_group
from difal_kernels import maxherding
from difal_kernels.distributed import _integers, maxherding_sharded
from ops.sharded_worker import BUDGET, cases
from process_group import finish

WORKER = Path(__file__).with_name("sharded_worker.py")


def start(world, out, mode="solve", timeout=40):
    return process_group.start(world, [WORKER, out, mode], timeout)


def same_as_one_process(world, out):
    for name, pool, options in cases():
        expected = maxherding(pool, BUDGET, return_info=True, backend="reference", **options)
        alone = maxherding_sharded(pool, BUDGET, return_info=True, **options)
        for rank in range(world):
            found = np.load(out / f"{world}-{rank}.npz")
            assert found[f"{name}.indices"].tolist() == expected.indices.tolist(), (name, rank)
            assert found[f"{name}.gains"].tolist() == alone.gains.tolist(), (name, rank)  # to the last bit
            assert float(found[f"{name}.coverage"]) == alone.coverage


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case[0])
def test_alone(case):
    _, pool, options = case
    expected = maxherding(pool, BUDGET, return_info=True, backend="reference", **options)
    found = maxherding_sharded(pool, BUDGET, return_info=True, **options)
    assert found.indices.tolist() == expected.indices.tolist()
    scale = float(expected.gains[0])
    assert torch.allclose(found.gains, expected.gains, rtol=0, atol=1e-12 * scale)
    assert found.coverage == pytest.approx(expected.coverage, rel=1e-12, abs=1e-12 * scale)
    assert np.array_equal(found.bandwidth, float(expected.bandwidth), equal_nan=True)


@pytest.mark.parametrize("world", [2, 3])
def test_same_picks_at_any_number_of_ranks(world, tmp_path):
    for error, code in finish(start(world, tmp_path)):
        assert code == 0, error
    same_as_one_process(world, tmp_path)


def test_killed_rank_is_an_error_everywhere_and_a_second_try_finishes(tmp_path):
    (first, one), (_, killed), (third, three) = finish(start(3, tmp_path, "kill"))
    assert killed == -signal.SIGKILL
    assert one == three == 1
    for error in (first, third):
        assert "RankLostError" in error
        assert "start all ranks again with the same command" in error
    for error, code in finish(start(3, tmp_path)):
        assert code == 0, error
    same_as_one_process(3, tmp_path)


def test_rank_that_hangs_is_lost_after_the_timeout(tmp_path):
    ((error, code),) = finish(start(2, tmp_path, "stop", timeout=3), ranks=[0])
    assert code == 1
    assert "RankLostError" in error


@pytest.mark.parametrize(
    ("mode", "texts"), [("wrong", ["got nan", "rank 0: `features`"]), ("differ", ["`budget`"] * 2)]
)
def test_bad_input_on_one_rank_is_an_error_on_all(mode, texts, tmp_path):
    for (error, code), text in zip(finish(start(2, tmp_path, mode)), texts, strict=True):
        assert code == 1
        assert "ValueError" in error
        assert text in error


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kernel": "precomputed"}, ValueError, "`kernel`"),
        ({"budget": 9}, ValueError, "`budget`"),
        ({"features": torch.zeros(3)}, ValueError, "2-D"),
        ({"features": torch.zeros(0, 2)}, ValueError, "rows on all ranks"),
        ({"features": torch.zeros(3, 0)}, ValueError, "at least one column"),
        ({"weights": [1, -1, 1]}, TypeError, "`weights`"),
        ({"candidates": [3]}, ValueError, "`candidates`"),
        ({"bandwidth": 0.0}, ValueError, "`bandwidth`"),
    ],
)
def test_errors(change, error, text):
    with pytest.raises(error, match=text):
        maxherding_sharded(**{"features": torch.ones(3, 2), "budget": 1, **change})


def test_numpy_in_numpy_out_and_budget_zero():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert maxherding_sharded(x, 0).shape == (0,)
    assert isinstance(maxherding_sharded(x, 3), np.ndarray)


def test_sums_of_many_terms_do_not_depend_on_the_split():
    terms = torch.rand(50_001, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sums = [_integers(terms[b:e], 1.0) for b, e in ((0, 50_001), (0, 17_000), (17_000, 50_001))]
    for whole, one, other in zip(*sums, strict=True):
        assert whole.equal(one + other)
    exact = sum(int(float(t) * 2.0**80) for t in terms[:, 0])
    assert int(sums[0][0][0]) * 2**40 + int(sums[0][1][0]) == exact
