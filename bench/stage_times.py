"""Processor seconds by stage of a `difal run` on one thread: on a machine that does nothing else, its wall time.

    python bench/stage_times.py --data CAMVID --limit 40 --acquisition two-stage-edald --rounds 1 --out runs/timed

Takes the options of `difal run`. Stages of the pool and of the test set are given by image, unless `--cache` names
features that were made before, those of the rounds by round.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and (len(sys.argv) == 1 or {"-h", "--help"} & set(sys.argv)):
    print(f"usage: stage_times.py --out FOLDER [options of difal run]\n\n{__doc__}")
    raise SystemExit(0)

import time
from unittest.mock import patch

from difal import cli, timing
from difal.run.directory import RunDirectory


class Clock:
    """Stands in for the module `time` where stages are timed."""

    perf_counter = staticmethod(time.process_time)


def main(arguments: Sequence[str]) -> int:
    with patch.object(timing, "time", Clock):
        status = cli.main(["run", *arguments, "--threads", "1"])
    if status:
        return status
    out = Path(arguments[list(arguments).index("--out") + 1])
    run_dir = RunDirectory(out)
    facts, rounds = run_dir.facts(), run_dir.rounds()
    if "--cache" not in arguments:
        for part, count in (("pool", facts["images"]), ("test", facts["test_images"])):
            for stage, entry in facts["feature_stages"].get(part, {}).items():
                print(f"{part}, {stage}: {entry['seconds'] / count:.3f} s an image")
    stages: dict[str, list[float]] = {}
    for entry in rounds:
        for stage, found in entry.stages().items():
            stages.setdefault(stage, []).append(found["seconds"])
    for stage, seconds in stages.items():
        print(f"{stage}: {sum(seconds) / len(rounds):.2f} s a round, at most {max(seconds):.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
