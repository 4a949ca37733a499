"""A run's answers do not depend on how many cores it has."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from api.fakes import outcome
from difal.threads import in_order, one_thread

TESTS = Path(__file__).resolve().parents[1]
# argv: folder, threads
DRIVER = """
import sys
from pathlib import Path
import torch
from api.fakes import tiny_config, tiny_data
from difal.run.loop import run

folder, threads = Path(sys.argv[1]), int(sys.argv[2])
assert torch.get_num_threads() == threads
options = {"acquisition": "two-stage-edald", "local": 20, "candidates": 300}
config = tiny_config(folder, encoder="tiny", rounds=3, threads=threads, batch=threads, **options)
run(config, data=tiny_data(train=3, test=2, size=64), log=len)
"""


def test_the_number_of_threads_changes_no_bit(tmp_path):
    """Nor does `batch`: picks, scores, heads and metrics, and the cache under them."""
    command = [sys.executable, "-c", DRIVER]
    for threads in ("1", "2"):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": threads}
        done = subprocess.run([*command, str(tmp_path / threads), threads], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = outcome(tmp_path / "1"), outcome(tmp_path / "2")
    assert len(one) == 12
    assert one == two
    arrays = [path.relative_to(tmp_path / "1") for path in tmp_path.glob("1/cache/pool/*.npy")]
    assert len(arrays) == 9
    for name in arrays:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_items_are_worked_on_side_by_side_and_come_in_order():
    together = threading.Barrier(3, timeout=20)

    def work(item):
        if item < 3:
            together.wait()  # passes only if three are at it at once
        time.sleep(0.01 * (item % 3))
        return item, torch.get_num_threads()

    assert list(in_order(work, range(8))) == [(item, 1) for item in range(8)]
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_little_is_made_ahead_and_errors_come_in_turn():
    begun = []

    def work(item):
        begun.append(item)
        if item == 2:
            raise ValueError("item 2")
        return item

    found = in_order(work, range(100))
    assert next(found) == 0
    assert len(begun) <= 4
    assert next(found) == 1
    with pytest.raises(ValueError, match="item 2"):
        next(found)
    assert len(begun) < 10


@pytest.mark.usefixtures("three_threads")
def test_one_thread_is_for_a_while():
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
