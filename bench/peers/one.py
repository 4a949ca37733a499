"""One library on one case, in this process alone: one.py LIBRARY FEATURES.npy LABELED.npy BUDGET BANDWIDTH OUT LIMIT.

Writes OUT.npy (the picks) and OUT.json: seconds of the call, and the growth of the peak resident size during the first.
A call on 2,000 rows comes before it; the fastest of three calls counts, of fewer where those take five seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import sys
import time
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
warnings.simplefilter("ignore")
WARM_UP_ROWS = 2_000
ENOUGH = 5  # seconds of all calls together, after which there is none more


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def main(name: str, features_at: str, labeled_at: str, budget: int, bandwidth: float, out: str, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import numpy as np
    from libraries import LIBRARIES

    function, _ = LIBRARIES[name]
    x, labeled = np.load(features_at), np.load(labeled_at)
    some = np.ascontiguousarray(x[:: max(1, len(x) // WARM_UP_ROWS)])
    function(some, 20, bandwidth, labeled[:0])  # compile, load, start threads, let the processor's clock rise
    with contextlib.suppress(AttributeError):  # what that has freed is not to be there already: glibc alone has this
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    runs: list[float] = []
    try:
        while not runs or (len(runs) < 3 and sum(runs) < ENOUGH):
            began = time.perf_counter()
            picks = function(x, budget, bandwidth, labeled)
            runs.append(time.perf_counter() - began)
            if len(runs) == 1:
                peak = status("VmHWM") - before
    except NotImplementedError as refusal:
        Path(out + ".json").write_text(json.dumps({"status": "refused", "why": str(refusal)}))
        return
    except (MemoryError, RuntimeError) as error:
        text = str(error) or type(error).__name__
        if not isinstance(error, MemoryError) and "alloc" not in text and "memory" not in text:
            raise
        Path(out + ".json").write_text(json.dumps({"status": "out of memory", "why": text.splitlines()[0][:200]}))
        return
    seconds = min(runs)
    np.save(out + ".npy", np.asarray(picks, dtype=np.int64))
    Path(out + ".json").write_text(
        json.dumps({"status": "ok", "seconds": seconds, "peak_bytes": peak, "runs": len(runs)})
    )


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6], int(sys.argv[7]))
