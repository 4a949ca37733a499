"""What the user sees on standard error meanwhile."""

from __future__ import annotations

import sys
import time


class Reporter:
    """Lines about the work under way: one that is written over on a terminal, else one every few seconds.

    Args:
        quiet: write nothing.
    """

    EVERY = 0.2  # seconds between two on a terminal
    EVERY_LOGGED = 10.0  # and in a file

    def __init__(self, quiet: bool):
        self.quiet, self.on_terminal = quiet, sys.stderr.isatty()
        self._shown, self._width = 0.0, 0

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self._clear()
            print(text, file=sys.stderr, flush=True)

    def passing(self, text: str) -> None:
        """A line that the next one replaces; left out if the last was a moment ago."""
        now = time.monotonic()
        if self.quiet or now - self._shown < (self.EVERY if self.on_terminal else self.EVERY_LOGGED):
            return
        self._shown = now
        if not self.on_terminal:
            print(text, file=sys.stderr, flush=True)
            return
        self._clear()
        print(f"\r{text}", end="", file=sys.stderr, flush=True)
        self._width = len(text)

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
