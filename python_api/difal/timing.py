"""Seconds and memory per stage of a run."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes; 0 where the system does not report it."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class StageClock:
    """Adds up the seconds spent in named stages, and notes the peak memory seen at the end of each.

    Example:
        >>> clock, totals = StageClock(), {}
        >>> with clock("reading"):
        ...     pass
        >>> clock.add_to(totals)
        >>> list(totals), totals["reading"]["seconds"] < 1
        (['reading'], True)
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        with self.lock:
            self.seconds[stage] += seconds

    def take(self) -> dict[str, float]:
        """What was measured since the last call."""
        with self.lock:
            measured = dict(self.seconds)
            self.seconds.clear()
        return measured

    def add_to(self, totals: dict[str, dict], workers: int = 1) -> None:
        """Move what was measured since the last call into `totals`: {stage: {"seconds", "peak_bytes"}}.

        With several `workers` measuring side by side a stage gets their mean, so that stages add up to wall time.
        """
        for stage, seconds in self.take().items():
            entry = totals.setdefault(stage, {"seconds": 0.0, "peak_bytes": 0})
            entry["seconds"] = round(entry["seconds"] + seconds / workers, 3)
            entry["peak_bytes"] = max(entry["peak_bytes"], peak_memory())
