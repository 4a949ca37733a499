"""The child process of `difal label`: encodes, selects and trains, and draws what the model thinks.

Started as `python -m difal.annotate.worker SETTINGS.json`. It reads commands from standard input and writes events to
standard output, one JSON object a line. It may be killed at any moment: what it makes is in files that are whole or
absent. It ends when standard input does, that is, with the server.

Two threads work. One runs the rounds, which is the loop of `difal run` with the journal as the oracle. The other
answers what the page needs soon: a head trained on everything so far (the live head), guesses, predictions, spare
questions. Of each kind of command one is at work and at most one waits; a newer one takes the place of that.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from difal.acquisition import reads_noise
from difal.annotate.export import export
from difal.annotate.live import LiveModel
from difal.annotate.oracle import JournalOracle, note_classes
from difal.config import Config
from difal.encoders.lazy import LazyEncoder
from difal.errors import UserError
from difal.features.cache import images_done
from difal.features.compute import look, make_features
from difal.files import exclusive, read_json
from difal.run.directory import RunDirectory
from difal.run.loop import Loop
from difal.run.start import budget_line, open_run_data

WAVE = 4  # images that are encoded between two writes: spare questions are soon about them
NICENESS = 10  # the page and the server come first, once there is something to ask
AT_ONCE = {"predict": 2, "sketch": 4}  # images that are drawn before something more urgent may come in between
IDLE = 1.0  # seconds without a command, after which images are made ready to be shown


class Worker:
    """The two threads and their commands.

    Args:
        settings: `config`, `classes` (None while the page has not been given any).
        send: gets each event.
    """

    def __init__(self, settings: dict[str, Any], send: Callable[[dict], None]):
        self.config, self.send = Config(**settings["config"]), send
        self.has_classes = settings["classes"] is not None
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        self.load_encoder = LazyEncoder(self.config)
        self.run_dir = RunDirectory(self.config.run_folder())
        self.data = open_run_data(self.config, self.run_dir)
        self.feature_folder = Path(self.config.cache) if self.config.cache else self.run_dir.feature_folder()
        self.model = LiveModel(self.config, self.data, self.load_encoder, self.run_dir, self.feature_folder)
        self.soon: dict[str, Callable[..., dict]] = {
            "guess": self.model.guess,
            "spare": self.model.spare,
            "live": self.model.live,
            "sketch": self.model.sketch,
            "predict": self.model.predict,
            "export": partial(export, self.run_dir, self.data, self.model),
        }
        self.changed = threading.Condition()
        self.waiting: dict[str, dict] = {}
        self.rounds: int | None = None  # how many to do, once there is a command to go on
        self.busy = True  # with the pool's features or a round
        self.nice = False

    def start(self) -> None:
        if self.model.head is not None:  # of an earlier process, trained on we do not know how many of the lines
            self.send({"event": "live", "version": self.model.version, "lines": 0})
        for work in (self._run_rounds, self._run_soon, self._watch_encoding):
            threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def take(self, command: dict) -> None:
        """Accept a command. Pictures of several images may wait; else the newer command of a kind replaces."""
        with self.changed:
            if command["op"] == "advance":
                self.rounds = command["rounds"]
            elif command["op"] in AT_ONCE:
                before = self.waiting.get(command["op"], {"images": []})["images"]
                images = [*command["images"], *(image for image in before if image not in command["images"])]
                self.waiting[command["op"]] = {**command, "images": images}
            else:
                self.waiting[command["op"]] = command
            self.changed.notify_all()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            traceback.print_exc()
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.send({"event": "failed", "error": text, "mendable": isinstance(error, UserError)})
            os._exit(1)

    def _run_rounds(self) -> None:
        if not self.has_classes:
            self._give_way()  # nothing is asked before she has named them
        found = look(self.config, self.data, self.load_encoder, self.feature_folder, self._found)
        self._found(budget_line(self.config, len(self.data.train)))
        if self.config.labels is None:  # else the loop makes them, given the labels' pixels
            make_features(
                self.config,
                self.data,
                self.load_encoder,
                self.feature_folder,
                wave=WAVE,
                found=found,
                noise=reads_noise(self.config),
                maps=self.model.maps,
            )
        if not self.has_classes:
            return
        while True:
            with self.changed:
                self.busy = self.rounds is not None
                while (rounds := self.rounds) is None:
                    self.changed.wait()
                self.config.rounds, self.rounds, self.busy = rounds, None, True
            oracle = JournalOracle(self.run_dir.folder, self.data.classes)
            loop = Loop(self.config, self.run_dir, self.data, self.load_encoder, self._say, oracle, found)
            loop.begin(self.config, resume=self.run_dir.exists)
            note_classes(self.run_dir, self.data.classes)
            self._give_way()
            self.send({"event": "working"})
            status = loop.run()
            self.send({"event": status, "rounds": len(self.run_dir.rounds())})

    def _watch_encoding(self) -> None:
        images, before = len(self.data.train), -1
        while before < images:
            done = images_done(self.feature_folder / "pool")
            if done != before:
                self.send({"event": "encoded", "done": done, "of": images})
            before = done
            time.sleep(0.3)

    def _found(self, line: str) -> None:
        self.send({"event": "found", "line": line})

    def _say(self, line: str) -> None:
        self.send({"event": "said", "line": line})

    def _run_soon(self) -> None:
        patience = IDLE
        while True:
            with self.changed:
                asked = self.changed.wait_for(lambda: self.waiting, patience)
            patience = 0.0 if not asked and not self.busy and self.model.prepare() else IDLE
            if not asked:
                continue
            with self.changed:
                kind = next(kind for kind in self.soon if kind in self.waiting)  # the most urgent first
                command = self.waiting.pop(kind)
                most = AT_ONCE.get(kind)
                if most is not None and len(command["images"]) > most:
                    self.waiting[kind] = {**command, "images": command["images"][most:]}
                    command = {**command, "images": command["images"][:most]}
            try:
                answer = self.soon[kind](**{key: value for key, value in command.items() if key != "op"})
            except UserError as error:
                answer = {"error": str(error)}
            self.send({"event": kind, **answer})
            if answer.get("questions"):
                self._give_way()

    def _give_way(self) -> None:
        """Let other processes go first, from the first questions on."""
        with self.changed:
            if self.nice:
                return
            self.nice = True
        threads = Path("/proc/self/task")
        if not threads.is_dir():
            os.nice(NICENESS)
            return
        before = os.getpriority(os.PRIO_PROCESS, 0)
        for thread in threads.iterdir():  # here a thread is nice for itself and for those that it starts
            with suppress(OSError):  # it has ended
                os.setpriority(os.PRIO_PROCESS, int(thread.name), before + NICENESS)


def main() -> None:
    """Serve the process that started this one."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints, prints to the log
    lock = threading.Lock()

    def send(event: dict) -> None:
        with lock:
            events.write(json.dumps(event) + "\n")
            events.flush()

    settings = read_json(Path(sys.argv[1]))
    try:
        with exclusive(Path(settings["folder"]), wait=True):
            worker = Worker(settings, send)
            worker.start()
            send({"event": "ready"})
            for line in sys.stdin:
                worker.take(json.loads(line))
    except UserError as error:
        send({"event": "failed", "error": str(error), "mendable": True})
    os._exit(0)  # the other threads may be in the middle of something; all of it can be cut short


if __name__ == "__main__":
    main()
