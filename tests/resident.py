"""What a script takes of memory in a process of its own: anonymous resident bytes, without memory maps."""

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")
STEP = 0.003  # seconds between two looks

needs_status = pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell what is resident")


def anonymous() -> int:
    """Bytes of this process."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """Within it, the most that is resident beyond what was before: `took`, in bytes."""

    def __enter__(self) -> "Peak":
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not to be counted as there already
        self.before, self.took, self.done = anonymous(), 0, threading.Event()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(STEP):
            self.took = max(self.took, anonymous() - self.before)

    def __exit__(self, *raised) -> None:
        self.done.set()
        self.watcher.join()


def said_by(script: str, folder: Path, *arguments: str) -> str:
    """The last line of a script that runs in `folder`, and may import what tests import."""
    paths = [str(Path(__file__).parent), *sys.path]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{script}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
