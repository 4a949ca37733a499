"""What `explain` says of memory is what the process takes, and a memory map is not read into memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from difal_kernels.ops.maxherding.backends import BACKENDS

CPU = BACKENDS["cpu"]

# A process of its own, one thread. Every case is run on some rows first, for what libraries take once.
MEASURE = """
import ctypes, json, re, threading
from dataclasses import replace
import numpy as np, torch
from difal_kernels import explain, kcenter_greedy, maxherding
from difal_kernels.ops.maxherding.backends import BACKENDS

MIB, CPU = 2**20, BACKENDS["cpu"]
DENSE = replace(CPU, path="dense", tuning=replace(CPU.tuning, panel_rows=(64, 128), tile_columns=64))
MATRIX_FREE = replace(CPU, path="matrix-free", guessing=replace(CPU.guessing, slack=1.02))

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def pool(n, d, dtype):
    '''A map of a file: points on six dimensions, so that distances tell apart.'''
    generator = torch.Generator().manual_seed(0)
    low, turn = 8 * torch.randn(n, 6, generator=generator), torch.randn(6, d, generator=generator)
    at = f"{dtype}-{d}"
    x = torch.from_file(at, shared=True, size=n * d, dtype=getattr(torch, dtype)).view(n, d)
    for begin in range(0, n, 500):
        rows = low[begin : begin + 500] @ turn
        x[begin : begin + 500] = rows.round().clamp(-127, 127) if dtype == "int8" else rows
    return x if dtype == "bfloat16" else np.memmap(at, dtype=dtype, mode="r", shape=(n, d))

def measure(x, budget, select=maxherding, **options):
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is not to be counted as there already
    before, peak, done = anonymous(), [0], threading.Event()

    def watch():
        while not done.wait(0.003):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    picks = select(x, budget, **options)
    done.set()
    watcher.join()
    return peak[0] - before, len(set(picks.tolist()))

torch.set_num_threads(1)
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages would round each buffer up to 2 MiB
for dtype in ("float16", "bfloat16", "int8"):
    for path, backend, n, d, budget, options in (
        ("dense", DENSE, 12_000, 2048 if dtype == "int8" else 1024, 20, {"candidates": np.arange(900)}),
        ("matrix-free", MATRIX_FREE, 12_000, 64, 200, {"memory_limit": 110 * MIB}),
    ):
        BACKENDS["cpu"] = backend
        x, options = pool(n, d, dtype), {**options, "bandwidth": 2000.0 if d > 64 else 250.0}
        measure(x[:2000], 20, **options)
        if path == "dense":
            workspace = re.search(r"dense, .*workspace ([\\d.]+) MiB of", explain(maxherding, x, budget, **options))
            said = float(workspace[1]) * MIB
            options["memory_limit"] = int(1.01 * said)
        else:
            said = options["memory_limit"]  # what `explain` names is the least; the rest is for alive entries
        took, picks = measure(x, budget, **options)
        print(json.dumps({"path": path, "dtype": dtype, "said": said, "took": took, "limit": options["memory_limit"],
                          "map": n * d * x.itemsize, "all_picks": picks == budget}))
        if path == "dense":
            measure(x[:2000], 20, select=kcenter_greedy)
            took, picks = measure(x, 20, select=kcenter_greedy)
            print(json.dumps({"path": "k-center", "dtype": dtype, "took": took, "map": n * d * x.itemsize}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    # What is freed goes back at once, so that what one step has used is not counted beside what the next one uses.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, done.stdout.splitlines())
    return {(row["path"], row["dtype"]): row for row in rows}


@pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what is resident")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
class TestWhatExplainSays:
    def test_is_what_the_matrix_takes_on_a_map_larger_than_the_limit(self, told, dtype):
        row = told["dense", dtype]
        assert row["map"] > row["limit"]
        assert 0.9 * row["said"] < row["took"] < 1.1 * row["said"], row
        assert row["all_picks"]

    def test_of_k_center_is_far_less_than_the_map(self, told, dtype):
        row = told["k-center", dtype]
        assert row["took"] < row["map"] / 2, row  # widened as a whole, they would take twice or four times the map

    def test_is_at_most_the_limit_without_the_matrix_and_most_of_it_where_much_may_matter(self, told, dtype):
        row = told["matrix-free", dtype]
        assert 0.6 * row["said"] < row["took"] < 1.1 * row["said"], row  # how much is left depends on the guesses
        assert row["all_picks"]
