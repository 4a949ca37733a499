"""What the child process is given to do for a session, and what is known of it: rounds, heads, spare questions.

Nothing here knows of pages. Every public method may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from difal.annotate.answers import Answers
from difal.annotate.child import Child
from difal.annotate.questions import Question
from difal.config import Config
from difal.data import Data
from difal.run.directory import RunDirectory
from difal.run.labels import Label, Place

SPARE_LOW, SPARE_COUNT = 12, 24
TRAIN_AFTER_ANSWERS, TRAIN_AFTER_SECONDS = 8, 1.5
SKETCHES_AHEAD = 16  # images that are sketched at once
SETUP, ENCODING, WORKING, ASKING, DONE, FAILED = "setup", "encoding", "working", "asking", "done", "failed"


class Background:
    """Keeps the child process busy with a run.

    Args:
        folder: where the child's files go.
        config: the run's settings.
        data: the pool.
        start: class names that the run began with, or None while nobody has given any.
        answers: the journal so far; whoever adds to it holds `changed` and calls `answered`.
        log: called with each line about the data, and with what stops the child process.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        data: Data,
        start: Sequence[str] | None,
        answers: Answers,
        log: Callable[[str], None],
    ):
        self.folder, self.changed, self.log = folder, threading.Condition(threading.RLock()), log
        self._set(config, data, start, answers)
        self.rounds: list[list[Label]] = []  # the picks of each
        self.spare: list[Question] = []
        self.guesses: dict[Place, tuple[int, float]] = {}
        self.phase, self.message, self.version = (SETUP if start is None else ENCODING), "", 0
        self.encoded = 0
        self.live, self.live_lines = 0, 0  # the live head's version, and the lines of the journal that made it
        self.views: dict[int, int] = {}  # by image, the version of the head whose prediction is drawn
        self.sketches: dict[int, int] = {}  # the same of small pictures
        self.exact: dict[int, int] = {}  # the same of those in which the head saw every pixel
        self.at_work: set[str] = set()  # commands that the child has not answered
        self.guessed: tuple = ()  # what guesses were last asked for
        self.guessed_by = 0  # counts the sets of guesses
        self.last_entry = time.monotonic()
        self.exported: dict | None = None
        self.closed = False
        self.child = Child(self.folder, self._settings(), self._on_event)

    def _set(self, config: Config, data: Data, start: Sequence[str] | None, answers: Answers) -> None:
        self.config, self.data, self.answers = config, data, answers
        self.start = None if start is None else tuple(start)
        self.index = {name: i for i, name in enumerate(data.train.ids)}

    # -- life

    def open(self) -> None:
        """Start the child and what keeps it busy."""
        self.read_rounds()
        self.child.start()  # it says when it is ready
        threading.Thread(target=self._pump, daemon=True, name="difal-pump").start()

    def close(self) -> None:
        """End the child. Nothing has to be saved: all of it is."""
        self.closed = True
        self.child.stop()

    def begin(self, config: Config, data: Data, start: Sequence[str], answers: Answers) -> None:
        """Go on with classes, where there were none."""
        self._set(config, data, start, answers)
        self.phase = ENCODING
        self._restart()

    def more_rounds(self, config: Config) -> None:
        """Go on after the last round, with settings that ask for more of them."""
        self.config = config
        self.child.settings = self._settings()
        if self.phase in (DONE, FAILED):
            self.phase = WORKING
        if self.child.gave_up:
            self._restart()
        self._advance()

    def try_again(self) -> None:
        """Start the child anew after it gave up."""
        if self.phase == FAILED:
            self.phase, self.message = ENCODING, ""
            self._restart()

    def _restart(self) -> None:
        self.at_work.clear()
        self.child.restart(self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            "folder": str(self.config.run_folder()),
            "config": self.config.to_dict(),
            "classes": None if self.start is None else list(self.start),
        }

    def notify(self) -> None:
        """Wake whoever waits for news."""
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    # -- what the child says

    def _on_event(self, event: dict) -> None:
        kind = event["event"]
        with self.changed:
            self.at_work.discard(kind)
            if kind == "encoded":
                self.encoded = event["done"]
            elif kind == "working" and self.phase != ENCODING:
                self.phase = WORKING
            elif kind in ("waiting", "done"):
                self.read_rounds()
                self.phase = DONE if kind == "done" else ASKING
                if kind == "waiting" and not self.open_picks():
                    self._advance()  # every pick had been answered as a spare question
            elif kind in ("said", "found"):
                self.message = event["line"]
                if kind == "found":
                    self.log(event["line"])
            elif kind == "spare":
                self.spare = [self._spare(*place) for place in event.get("questions", ())]
            elif kind == "live" and "error" not in event:
                self.live, self.live_lines = event["version"], max(self.live_lines, event["lines"])
            elif kind == "guess":
                self.guessed_by += 1
                self.guesses = {
                    (self.data.train.ids[i], row, column): (one, chance)
                    for i, row, column, one, chance in event.get("guesses", ())
                }
            elif kind == "predict" and "error" not in event:
                self.views.update(dict.fromkeys(event["images"], event["version"]))
            elif kind == "sketch" and "error" not in event:
                self.sketches.update(dict.fromkeys(event["images"], event["version"]))
                self.exact.update(dict.fromkeys(event["exact"], event["version"]))
            elif kind == "export":
                self.exported = event
            elif kind == "failed":
                self.message = event["error"]
                self.log(f"difal: error: {event['error']}")
            elif kind == "died":
                self.at_work.clear()
                if self.child.gave_up:
                    self.phase = FAILED
                elif self.phase != SETUP:
                    self.phase = ENCODING if self.encoded < len(self.data.train) else WORKING
            elif kind == "ready":
                self._advance()
            if "error" in event and kind != "failed":
                self.message = event["error"]
        self.notify()

    def _spare(self, image: int, row: int, column: int, height: int, width: int) -> Question:
        return Question("spare", (self.data.train.ids[image], row, column), height, width)

    def read_rounds(self) -> None:
        """Read the picks of every round so far."""
        self.rounds = [entry.picks() for entry in RunDirectory(self.config.run_folder()).rounds()]

    # -- what it is given to do

    def answered(self, round_was_open: bool, classes_changed: bool) -> None:
        """The journal has grown.

        Args:
            round_was_open: whether picks were unanswered before.
            classes_changed: whether it is about the classes.
        """
        self.last_entry = time.monotonic()
        if round_was_open and not self.open_picks():
            self._advance()
        elif classes_changed:
            self.child.send(op="advance", rounds=self.config.rounds)  # which writes the names down

    def _advance(self) -> None:
        """Have the child go on with the rounds, if it can."""
        if self.start is not None and not (self.phase == ASKING and self.open_picks()):
            self.child.send(op="advance", rounds=self.config.rounds)

    def _send(self, **command: Any) -> None:
        """One command of a kind at a time: the next waits here until that is answered."""
        if command["op"] not in self.at_work and self.child.send(**command):
            self.at_work.add(command["op"])

    def _pump(self) -> None:
        while not self.closed:
            with self.changed:
                if self.phase not in (SETUP, FAILED):
                    self._ask_for_spare()
                    self._ask_for_training()
                    self._ask_for_guesses()
            time.sleep(0.2)

    def _ask_for_spare(self) -> None:
        open_spare = sum(self.answers.current(one.place) is None for one in self.spare)
        if self.phase != DONE and open_spare < SPARE_LOW and len(self.open_picks()) < SPARE_LOW:
            asked = {*self.answers.by_place, *(pick.place for picks in self.rounds for pick in picks)}
            self._send(op="spare", asked=[self.pixel(place) for place in asked], count=SPARE_COUNT)

    def _ask_for_training(self) -> None:
        new = self.answers.lines - self.live_lines
        rested = time.monotonic() - self.last_entry > TRAIN_AFTER_SECONDS
        if self.encoded == len(self.data.train) and new and (new >= TRAIN_AFTER_ANSWERS or rested):
            labels = [label for label in self.answers.labels() if label.class_id is not None]
            if labels:
                pixels = [[*self.pixel(label.place), label.class_id] for label in labels]
                classes = len(self.answers.classes.names)
                self._send(op="live", labels=pixels, classes=classes, lines=self.answers.lines)

    def _ask_for_guesses(self) -> None:
        wanted = [pick.place for pick in self.open_picks()] + [one.place for one in self.spare]
        key = (self.live, len(self.rounds), tuple(wanted[-1:]))
        if self.live and wanted and key != self.guessed:
            self.guessed = key
            self.at_work.discard("guess")
            self._send(op="guess", pixels=[self.pixel(place) for place in wanted])

    def export(self) -> None:
        """Have everything written to RUN/export; `exported` says when it is."""
        self.exported = None
        self._send(op="export", out=str(self.config.run_folder() / "export"))

    # -- what is known

    def pixel(self, place: Place) -> list[int]:
        """Image number, row and column."""
        return [self.index[place[0]], place[1], place[2]]

    def open_picks(self) -> list[Label]:
        """The current round's picks without an answer."""
        picks = self.rounds[-1] if self.rounds else []
        return [pick for pick in picks if self.answers.current(pick.place) is None]

    def known_size(self, image: int) -> tuple[int, int] | None:
        """(height, width) of an image that something was asked of; None for any other."""
        name = self.data.train.ids[image]
        for known in (pick for picks in self.rounds for pick in picks):
            if known.image == name:
                return known.height, known.width
        for one in self.spare:
            if one.place[0] == name:
                return one.height, one.width
        return None

    def view(self, image: int, part: str, seconds: float = 20.0) -> tuple[bytes, int] | None:
        """A picture of what the live head thinks of an image: its PNG and the head's version; None without a head.

        Args:
            image: number of the image.
            part: "classes" or "unsure".
            seconds: how long to wait for it.
        """
        with self.changed:
            if self.live and self.views.get(image, 0) < self.live:
                self.child.send(op="predict", images=[image])
            return self._picture(image, part, self.views, seconds)

    def sketch(self, image: int, seconds: float = 20.0) -> tuple[bytes, int, bool] | None:
        """A small picture of the prediction that is there soon: PNG, version, and whether it is the prediction itself.

        Args:
            image: number of the image.
            seconds: how long to wait for it.
        """
        with self.changed:
            if self.live and self.views.get(image, 0) >= self.live:
                found = self._picture(image, "classes", self.views, seconds)
                return None if found is None else (*found, True)
            if self.live and self.sketches.get(image, 0) < self.live:
                some = range(image, min(image + SKETCHES_AHEAD, len(self.data.train)))
                wanted = [one for one in some if self.sketches.get(one, 0) < self.live]
                self.child.send(op="sketch", images=wanted)
            found = self._picture(image, "sketch", self.sketches, seconds)
            return None if found is None else (*found, self.exact.get(image) == found[1])

    def _picture(self, image: int, part: str, drawn: dict[int, int], seconds: float) -> tuple[bytes, int] | None:
        asked = self.live
        self.changed.wait_for(lambda: drawn.get(image, 0) >= asked or self.closed, seconds)
        version = drawn.get(image, 0)
        path = self.folder / "views" / f"{image}.{part}.png"
        return (path.read_bytes(), version) if version and path.is_file() else None
