"""A progress bar on standard error: tqdm's where it is installed, else a plain line every few seconds."""

from __future__ import annotations

import sys
import threading
import time


class Progress:
    """Counts up to `total`; use as a context manager. Does nothing if not `enabled`."""

    def __init__(self, total: int, label: str, enabled: bool):
        self.total, self.label, self.enabled = total, label, enabled
        self.done, self.began, self.shown = 0, time.monotonic(), 0.0
        self.bar = None
        self._lock = threading.Lock()
        if enabled:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=total, desc=label)

    def update(self, count: int) -> None:
        with self._lock:
            self._update(count)

    def _update(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif self.enabled and (time.monotonic() - self.shown > 2 or self.done == self.total):
            self.shown = time.monotonic()
            left = (self.shown - self.began) * (self.total - self.done) / max(self.done, 1)
            print(f"{self.label}: {self.done}/{self.total}, about {left:.0f} s left", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
