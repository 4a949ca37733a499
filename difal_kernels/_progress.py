"""Progress on standard error, by tqdm where it is installed, else a line every few seconds; or to a function."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ._checks import as_bool

Listener = Callable[[str], None]
EVERY = 2.0  # seconds between two lines
WITHOUT_GUESS = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # tqdm's format but for what it expects


def as_progress(value: Any) -> bool | Listener:
    """The argument `progress`: True, False, or a function of a line of text."""
    return value if callable(value) else as_bool(value, "progress")


class Progress:
    """Counts up to `total`; use as a context manager.

    Args:
        total: picks that will be made.
        label: what is done.
        enabled: True for standard error, False for nothing, or a function that gets each line.

    Attributes:
        left: tells how many seconds are left; None where all picks take about as long.
    """

    def __init__(self, total: int, label: str, enabled: bool | Listener):
        self.total, self.label = total, label
        self.listener: Listener | None = enabled if callable(enabled) else None
        self.enabled = bool(enabled)
        self.done, self.began, self.shown = 0, time.monotonic(), 0.0
        self.left: Callable[[], float] | None = None
        self.bar = None
        self._lock = threading.Lock()
        if enabled and self.listener is None:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=total, desc=label)

    def update(self, count: int) -> None:
        """Count that many more picks."""
        with self._lock:
            self.done += count
            if self.bar is not None:
                if self.left is not None:
                    self.bar.bar_format = WITHOUT_GUESS
                    self.bar.set_postfix_str(f"about {self._left():.0f} s left", refresh=False)
                self.bar.update(count)
            elif self.done == self.total or self._is_time():
                self._show(f"{self.label}: {self.done}/{self.total}, about {self._left():.0f} s left")

    def part(self, what: str, share: float) -> None:
        """Tell how much of a part that makes no picks meanwhile is done, and what is left of the whole."""
        with self._lock:
            if not self._is_time():
                return
            line = f"{what} {share:.0%}, about {self._left():.0f} s left"
            if self.bar is not None:
                self.shown = time.monotonic()
                self.bar.set_postfix_str(line)
            else:
                self._show(f"{self.label}: {self.done}/{self.total}, {line}")

    def _left(self) -> float:
        """Seconds: by `left` where somebody knows better than that each pick takes as long."""
        if self.left is not None and self.done < self.total:
            return self.left()
        return (time.monotonic() - self.began) * (self.total - self.done) / max(self.done, 1)

    def _is_time(self) -> bool:
        return self.enabled and time.monotonic() - self.shown > EVERY

    def _show(self, line: str) -> None:
        if not self.enabled:
            return
        self.shown = time.monotonic()
        if self.listener is not None:
            self.listener(line)
        else:
            print(line, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
