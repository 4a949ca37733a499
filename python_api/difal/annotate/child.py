"""The server's end of the child process: it is started, given commands, and started again when it has died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from difal.files import write_json

MAY_DIE = 5  # times within `WITHIN` seconds, before it is left alone until somebody asks
WITHIN = 60.0


def pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    """Its standard input and output, which were opened as pipes."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process was started without pipes")
    return process.stdin, process.stdout


class Child:
    """A running `difal.annotate.worker`.

    Args:
        folder: where its settings and its log go.
        settings: see `difal.annotate.worker.Worker`; `folder` of the run besides.
        on_event: called in a thread with every event, and with {"event": "died"} when it has ended by itself.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], on_event: Callable[[dict], None]):
        self.folder, self.on_event = Path(folder), on_event
        self.settings = settings
        self.process: subprocess.Popen[str] | None = None
        self.deaths: list[float] = []
        self._lock = threading.Lock()
        self._closing = False

    def start(self) -> None:
        """Start the process, with the settings as they are now."""
        path = self.folder / "worker.json"
        write_json(path, self.settings)
        with open(self.folder / "worker.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "difal.annotate.worker", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "TQDM_DISABLE": "1"},
                text=True,
                encoding="utf-8",
            )
        with self._lock:
            self.process = process
        threading.Thread(target=self._listen, args=(process,), daemon=True, name="difal-child").start()

    def send(self, **command: Any) -> bool:
        """Give the process a command; False if it is not there to take it."""
        with self._lock:
            if self.process is None:
                return False
            try:
                stdin, _ = pipes(self.process)
                stdin.write(json.dumps(command) + "\n")
                stdin.flush()
            except (OSError, ValueError):  # it has just died
                return False
        return True

    def stop(self) -> None:
        """End the process; what it was at is taken up by the next."""
        with self._lock:
            process, self.process, self._closing = self.process, None, True
        if process is not None:
            process.kill()
            process.wait()
            pipes(process)[0].close()

    def restart(self, settings: dict[str, Any]) -> None:
        """Go on with other settings."""
        self.stop()
        self.settings, self._closing = settings, False
        self.deaths.clear()
        self.start()

    @property
    def gave_up(self) -> bool:
        return len(self.deaths) >= MAY_DIE

    def _listen(self, process: subprocess.Popen[str]) -> None:
        mendable = False
        with pipes(process)[1] as stdout:
            for line in stdout:
                try:
                    event = json.loads(line)
                except ValueError:  # cut short by its death
                    continue
                mendable = mendable or bool(event.get("mendable"))
                self.on_event(event)
        process.wait()
        with self._lock:
            if process is not self.process or self._closing:
                return
            self.process = None
        now = time.monotonic()
        self.deaths = [at for at in self.deaths if now - at < WITHIN] + [now]
        if mendable:  # something outside is wrong, and stays so until somebody mends it
            self.deaths = [now] * MAY_DIE
        self.on_event({"event": "died"})
        if not self.gave_up:
            self.start()
