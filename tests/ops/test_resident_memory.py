"""What `explain` says of memory is what the process takes, and a memory map is not read into memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from difal_kernels.ops.maxherding.backends import BACKENDS

CPU = BACKENDS["cpu"]

MEASURE = """
import ctypes, json, re, threading
import numpy as np, torch
from difal_kernels import explain, maxherding

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

torch.set_num_threads(1)
pool = np.load("pool.npy", mmap_mode="r")
options = {"bandwidth": 2500.0}
maxherding(np.array(pool[:700, :300]), 10)  # what libraries take once
said = explain(maxherding, pool, 20, **options)
workspace = float(re.search(r"workspace ([\\d.]+) MiB", said)[1]) * 2**20
options["memory_limit"] = int(1.01 * workspace)
ctypes.CDLL(None).malloc_trim(0)  # what was freed is not to be counted as there already
before, peak, done = anonymous(), [0], threading.Event()

def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
picks = maxherding(pool, 20, **options)
done.set()
watcher.join()
print(json.dumps({"path": "dense" in said, "map": pool.nbytes, "limit": options["memory_limit"],
                  "said": workspace, "took": peak[0] - before, "picks": len(set(picks.tolist()))}))
"""


@pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what is resident")
@pytest.mark.parametrize("dtype", ["float16"])
def test_what_explain_says_is_what_it_takes_on_a_map_larger_than_the_limit(tmp_path, dtype):
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(6, 16384)).astype(np.float32)  # points on six dimensions, so that distances tell apart
    np.save(tmp_path / "pool.npy", (8 * rng.normal(size=(1500, 6)).astype(np.float32) @ turn).astype(dtype))
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["path"]
    assert told["map"] > told["limit"]
    assert told["took"] < 1.1 * told["said"], told
    assert told["took"] > 0.7 * told["said"], told  # slices of 16-bit integers take half of what is counted for float32
    assert told["picks"] == 20
