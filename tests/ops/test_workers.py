"""Threads that run torch on one core each, and what they leave behind."""

import threading

import numpy as np
import pytest
import torch

from difal_kernels._workers import Workers
from difal_kernels.ops.maxherding.backends.cpu.tiled import rounds


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_item_is_done_once(count):
    done, lock = [], threading.Lock()

    def work(item, slot):
        assert 0 <= slot < count
        with lock:
            done.append(item)

    with Workers(count) as workers:
        for size in (0, 1, 7, 100):
            done.clear()
            workers.run(work, range(size))
            assert sorted(done) == list(range(size))


def test_an_exception_comes_out_and_the_workers_go_on():
    def work(item, slot):
        if item == 3:
            raise ValueError("three")

    with Workers(2) as workers:
        with pytest.raises(ValueError, match="three"):
            workers.run(work, range(10))
        workers.run(lambda item, slot: None, range(10))


def test_torch_keeps_its_number_of_threads():
    before = torch.get_num_threads()
    inside = []
    with Workers(3) as workers:
        workers.run(lambda item, slot: inside.append(torch.get_num_threads()), range(3))
        assert torch.get_num_threads() == before
    assert inside == [1, 1, 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13])
def test_rounds_hold_each_pair_once_and_no_block_twice(count):
    pairs = []
    for one_round in rounds(np.ones((count, count), dtype=bool)):
        blocks = [b for pair in one_round for b in set(pair)]
        assert len(blocks) == len(set(blocks))
        pairs += one_round
    assert sorted(pairs) == [(i, j) for i in range(count) for j in range(i + 1)]
