"""What `explain` says of memory is what the process takes, and a memory map is not read into memory."""

import json

import numpy as np
import pytest

from difal_kernels.ops.maxherding.backends import BACKENDS
from resident import needs_status, said_by

CPU = BACKENDS["cpu"]

MEASURE = """
import json, re
import numpy as np, torch
from difal_kernels import explain, maxherding
from resident import Peak

torch.set_num_threads(1)
pool = np.load("pool.npy", mmap_mode="r")
options = {"bandwidth": 2500.0}
maxherding(np.array(pool[:700, :300]), 10)  # what libraries take once
said = explain(maxherding, pool, 20, **options)
workspace = float(re.search(r"workspace ([\\d.]+) MiB", said)[1]) * 2**20
options["memory_limit"] = int(1.01 * workspace)
with Peak() as peak:
    picks = maxherding(pool, 20, **options)
print(json.dumps({"path": "dense" in said, "map": pool.nbytes, "limit": options["memory_limit"],
                  "said": workspace, "took": peak.took, "picks": len(set(picks.tolist()))}))
"""


@pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable()))
@needs_status
@pytest.mark.parametrize("dtype", ["float16"])
def test_what_explain_says_is_what_it_takes_on_a_map_larger_than_the_limit(tmp_path, dtype):
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(6, 16384)).astype(np.float32)  # points on six dimensions, so that distances tell apart
    np.save(tmp_path / "pool.npy", (8 * rng.normal(size=(1500, 6)).astype(np.float32) @ turn).astype(dtype))
    told = json.loads(said_by(MEASURE, tmp_path))
    assert told["path"]
    assert told["map"] > told["limit"]
    assert told["took"] < 1.1 * told["said"], told
    assert told["took"] > 0.7 * told["said"], told  # slices of 16-bit integers take half of what is counted for float32
    assert told["picks"] == 20
