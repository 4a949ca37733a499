"""Cases in a process of their own, each with a time limit: one that hangs or dies costs itself and no other."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

START = 60.0  # seconds that a process may take before its first case, and between two


def supervise(start: Callable[[list[str]], list[str]], limits: dict[str, float], until: float) -> Iterator[dict]:
    """Yield what the processes say, and a row for every case, whatever became of it.

    Args:
        start: the command that runs the cases of these names in order. It prints lines of JSON: {"begin": name} before
            a case, its row {"case": name, ...} after it, and others, which are passed on; what is no JSON is printed.
        limits: seconds that each case may take.
        until: the `time.monotonic()` after which no case is begun that may end later.
    """
    left = list(limits)
    while left:
        for name in [name for name in left if time.monotonic() + limits[name] > until]:
            left.remove(name)
            yield {"case": name, "left_out": f"it may take {limits[name]:.0f} s, which are not left"}
        if left:
            yield from _one_process(start(left), left, limits, until)


def _one_process(command: list[str], left: list[str], limits: dict[str, float], until: float) -> Iterator[dict]:
    """Runs cases until one is stopped, will not fit or ends the process; takes those that are done off `left`."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines))
    reader.start()
    running, deadline, began = None, time.monotonic() + START, False
    try:
        while left:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                name = running or left[0]
                left.remove(name)
                yield {"case": name, "error": f"stopped after {limits[name] if running else START:.0f} s"}
                return
            message = _parsed(line)
            if line is None:  # the process has ended: well, if it had done a case and does not like to go on
                if running or not began:
                    name = running or left[0]
                    left.remove(name)
                    yield {"case": name, "error": f"the process ended with status {process.wait()}"}
                return
            if message is None:
                print(line, end="", flush=True)
            elif "begin" in message:
                running, began = message["begin"], True
                if time.monotonic() + limits[running] > until:
                    return  # too late for this one; perhaps not for a shorter one
                deadline = time.monotonic() + limits[running]
                yield message
            elif "case" in message:
                left.remove(message["case"])
                running, deadline = None, time.monotonic() + START
                yield message
            else:
                yield message
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(stream, lines: queue.SimpleQueue) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _parsed(line: str | None) -> dict | None:
    try:
        message = json.loads(line or "")
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
