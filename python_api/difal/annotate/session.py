"""One annotator at one run: the journal, the questions, the child process, and what the page is told.

Nothing here knows of HTTP. Every public method may be called from any thread.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from difal.annotate import agreement
from difal.annotate.answers import KINDS, REASONS, Answers
from difal.annotate.child import Child
from difal.annotate.classes import Classes, assign_keys, looks
from difal.annotate.images import Images
from difal.annotate.journal import Entry, Journal
from difal.annotate.questions import Question, next_questions
from difal.config import Config
from difal.data import Data
from difal.errors import LabelError
from difal.run.labels import Label, Place, read_labels

AHEAD = 6  # questions that the page holds: the one shown and five more
SPARE_LOW, SPARE_COUNT = 12, 24
TRAIN_AFTER_ANSWERS, TRAIN_AFTER_SECONDS = 8, 1.5
POLL = 4.0  # seconds that a page's request for news waits at most
PAGE_GONE_AFTER = 7.0  # seconds without a word from a page, after which another may ask
SETUP, ENCODING, WORKING, ASKING, DONE, FAILED = "setup", "encoding", "working", "asking", "done", "failed"


class Session:
    """See the module.

    Args:
        config: the run's settings.
        data: the pool; its class names are those that the run began with.
        start: those class names, or None while nobody has given any.
        annotator: who answers.
        keys: keys by class name, for classes that are not to have the next free one.
        repeats: share of questions that are asked a second time, unannounced.
        run_id: tells this run from others, in the page's store.
        save_classes: called with the classes that the page gave, before anything else is done with them.
        log: called with each line about the data, and with what stops the child process.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        start: Sequence[str] | None,
        *,
        annotator: str,
        run_id: str,
        keys: dict[str, str] | None = None,
        repeats: float = 0.0,
        save_classes: Callable[[list[str]], Config] | None = None,
        log: Callable[[str], None] = lambda line: None,
    ):
        self.config, self.data, self.start = config, data, None if start is None else tuple(start)
        self.annotator, self.keys, self.repeats, self.run_id = annotator, keys or {}, repeats, run_id
        self.save_classes, self.log = save_classes, log
        assign_keys(self.start or (), self.keys if self.start else {})
        self.folder = config.run_folder() / "annotate"
        self.journal = Journal(self.folder / "journal.jsonl")
        self.images = Images(data.train)
        self.index = {name: i for i, name in enumerate(data.train.ids)}
        self.changed = threading.Condition(threading.RLock())
        self.answers = Answers(self.start or ())
        self.answers.add(self.journal.entries)
        self.rounds: list[list[Label]] = []
        self.spare: list[Question] = []
        self.guesses: dict[Place, tuple[int, float]] = {}
        self.phase, self.message, self.version = (SETUP if self.start is None else ENCODING), "", 0
        self.encoded = 0
        self.live, self.live_lines, self.views = 0, 0, {}
        self.at_work: set[str] = set()  # commands that the child has not answered
        self.guessed: tuple = ()  # what guesses were last asked for
        self.guessed_by = 0  # counts the sets of guesses
        self.last_entry = time.monotonic()
        self.page, self.page_seen = "", 0.0
        self.browsers: dict[str, str | None] = {}  # by page
        self.exported: dict | None = None
        self._closed = False
        self.child = Child(self.folder, self._settings(), self._hear)

    # -- life

    def open(self) -> None:
        """Start the child and what keeps it busy."""
        self._read_rounds()
        self.child.start()  # it says when it is ready
        threading.Thread(target=self._pump, daemon=True, name="difal-pump").start()

    def close(self) -> None:
        """End the child. Nothing has to be saved: all of it is."""
        self._closed = True
        self.child.stop()
        self.journal.close()

    def _settings(self) -> dict[str, Any]:
        return {
            "folder": str(self.config.run_folder()),
            "config": self.config.to_dict(),
            "classes": None if self.start is None else list(self.start),
        }

    def _tell(self) -> None:
        """Wake whoever waits for news."""
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    # -- the child

    def _hear(self, event: dict) -> None:
        kind = event["event"]
        with self.changed:
            self.at_work.discard(kind)
            if kind == "encoded":
                self.encoded = event["done"]
            elif kind == "working" and self.phase != ENCODING:
                self.phase = WORKING
            elif kind in ("waiting", "done"):
                self._read_rounds()
                self.phase = DONE if kind == "done" else ASKING
                if kind == "waiting" and not self._open_picks():
                    self._advance()  # every pick had been answered as a spare question
            elif kind in ("said", "found"):
                self.message = event["line"]
                if kind == "found":
                    self.log(event["line"])
            elif kind == "spare":
                self.spare = [self._spare(*place) for place in event.get("questions", ())]
            elif kind == "live" and "error" not in event:
                self.live, self.live_lines = event["version"], event["lines"]
            elif kind == "guess":
                self.guessed_by += 1
                self.guesses = {
                    (self.data.train.ids[i], row, column): (one, chance)
                    for i, row, column, one, chance in event.get("guesses", ())
                }
            elif kind == "predict" and "error" not in event:
                self.views[event["image"]] = event["version"]
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
        self._tell()

    def _spare(self, image: int, row: int, column: int, height: int, width: int) -> Question:
        return Question("spare", (self.data.train.ids[image], row, column), height, width)

    def _advance(self) -> None:
        """Have the child go on with the rounds, if it can."""
        if self.start is not None and not (self.phase == ASKING and self._open_picks()):
            self.child.send(op="advance", rounds=self.config.rounds)

    def _send(self, **command: Any) -> None:
        """One command of a kind at a time: the next waits here until that is answered."""
        if command["op"] not in self.at_work and self.child.send(**command):
            self.at_work.add(command["op"])

    def _pump(self) -> None:
        while not self._closed:
            with self.changed:
                if self.phase not in (SETUP, FAILED):
                    self._ask_for_spare()
                    self._ask_for_training()
                    self._ask_for_guesses()
            time.sleep(0.2)

    def _ask_for_spare(self) -> None:
        open_spare = sum(self.answers.current(one.place) is None for one in self.spare)
        if self.phase != DONE and open_spare < SPARE_LOW and len(self._open_picks()) < SPARE_LOW:
            asked = {*self.answers.by_place, *(pick.place for picks in self.rounds for pick in picks)}
            self._send(op="spare", asked=[self._pixel(place) for place in asked], count=SPARE_COUNT)

    def _ask_for_training(self) -> None:
        new = self.answers.lines - self.live_lines
        rested = time.monotonic() - self.last_entry > TRAIN_AFTER_SECONDS
        if self.encoded == len(self.data.train) and new and (new >= TRAIN_AFTER_ANSWERS or rested):
            labels = [label for label in self.answers.labels() if label.class_id is not None]
            if labels:
                pixels = [[*self._pixel(label.place), label.class_id] for label in labels]
                classes = len(self.answers.classes.names)
                self._send(op="live", labels=pixels, classes=classes, lines=self.answers.lines)

    def _ask_for_guesses(self) -> None:
        wanted = [pick.place for pick in self._open_picks()] + [one.place for one in self.spare]
        key = (self.live, len(self.rounds), tuple(wanted[-1:]))
        if self.live and wanted and key != self.guessed:
            self.guessed = key
            self.at_work.discard("guess")
            self._send(op="guess", pixels=[self._pixel(place) for place in wanted])

    def _pixel(self, place: Place) -> list[int]:
        return [self.index[place[0]], place[1], place[2]]

    def _read_rounds(self) -> None:
        found, folder = [], self.config.run_folder() / "rounds"
        while (path := folder / f"{len(found):03d}" / "picks.jsonl").is_file():
            found.append(read_labels(path, self.data.classes))
        self.rounds = found

    def _open_picks(self) -> list[Label]:
        picks = self.rounds[-1] if self.rounds else []
        return [pick for pick in picks if self.answers.current(pick.place) is None]

    # -- the page

    def hello(self, page: str, take: bool, browser: str | None = None, alone: bool = False) -> dict:
        """A page says that it is there; whether it may ask is in `mine`.

        Args:
            page: its id.
            take: whether it is to ask instead of another page.
            browser: id of its browser.
            alone: whether no other page of that browser is at this run. If one of them asked before, it has crashed.
        """
        with self.changed:
            self.browsers[page] = browser
            crashed = alone and browser is not None and browser == self.browsers.get(self.page)
            self._claim(page, take or crashed)
        self._tell()
        return self.state(page)

    def leave(self, page: str) -> dict:
        """A page is closed: another may ask at once."""
        with self.changed:
            if self.page == page:
                self.page = ""
        self._tell()
        return {}

    def wait(self, page: str, seen: int, seconds: float = POLL) -> dict:
        """The state, as soon as it is newer than `seen`; a page that waits takes the place of one that has gone."""
        with self.changed:
            self._claim(page, False)
            self.changed.wait_for(lambda: self.version > seen or self._closed, seconds)
            return self.state(page)

    def _claim(self, page: str, take: bool) -> None:
        gone = time.monotonic() - self.page_seen > PAGE_GONE_AFTER
        if take or gone or self.page in ("", page):
            self.page, self.page_seen = page, time.monotonic()

    def state(self, page: str) -> dict:
        """Everything the page shows but questions and pictures; JSON-able."""
        with self.changed:
            open_picks, of_round = len(self._open_picks()), len(self.rounds[-1]) if self.rounds else 0
            own = [
                entry
                for entry in self.journal.entries
                if entry["type"] == "answer" and entry["annotator"] == self.annotator
            ]
            seconds = [entry["seconds"] for entry in own if entry["seconds"] is not None]
            typical = statistics.median(seconds[-50:]) if seconds else None
            rounds_left = max(0, self.config.rounds - len(self.rounds))
            per_round = self.config.round_budget(len(self.data.train))
            left = open_picks + rounds_left * per_round
            return {
                "version": self.version,
                "run": self.run_id,
                "name": self.data.name,
                "folder": str(self.config.run_folder()),
                "annotator": self.annotator,
                "owner": self.answers.owner,
                "second": self.answers.owner not in (None, self.annotator),
                "mine": self.page == page,
                "phase": self.phase,
                "message": self.message,
                "classes": [look.as_json() for look in looks(self.answers.classes, self.keys)],
                "images": list(self.data.train.ids),
                "encoded": self.encoded,
                "round": max(0, len(self.rounds) - 1),
                "rounds": self.config.rounds,
                "round_open": open_picks,
                "round_size": of_round,
                "answered": self.answers.count(),
                "given": len(own),
                "volunteered": sum(entry["kind"] == "volunteered" for entry in own),
                "seconds": typical,
                "left": left,
                "seconds_left": None if typical is None else round(typical * left),
                "live": self.live,
                "guessed": self.guessed_by,
                "trained": self.live_lines >= self.answers.lines,
                "agreement": agreement.summary(self.answers, self.annotator),
                "exported": self.exported,
            }

    def next(self, have: Sequence[str]) -> list[dict]:
        """The questions that come after those that the page already has."""
        with self.changed:
            if self.phase == SETUP:
                return []
            repeats = 0.0 if any(one.startswith("repeat.") for one in have) else self.repeats
            picks = self.rounds[-1] if self.rounds else []
            found = next_questions(self.answers, picks, self.spare, self.annotator, AHEAD + len(have), repeats)
            known = {".".join(one.split(".")[1:4]) for one in have}
            new = [one for one in found if self._place_id(one) not in known]
            return [self._question(one) for one in new[: max(0, AHEAD - len(have))]]

    def _place_id(self, question: Question) -> str:
        return ".".join(map(str, self._pixel(question.place)))

    def _question(self, one: Question) -> dict:
        name, row, column = one.place
        image, _, _ = self._pixel(one.place)
        number = f".{self.answers.lines}" if one.kind == "repeat" else ""
        guess = self.guesses.get(one.place)
        if guess is not None:
            guess = {"class_id": self.answers.classes.resolve(guess[0]), "chance": guess[1]}
        return {
            "id": f"{one.kind}.{self._place_id(one)}{number}",
            "kind": one.kind,
            "image": image,
            "name": name,
            "x": column,
            "y": row,
            "height": one.height,
            "width": one.width,
            "round": one.round,
            "rank": one.rank,
            "guess": guess,
        }

    def guesses_for(self, have: Sequence[str]) -> dict[str, dict]:
        """The live head's guess for each of the questions that a page holds."""
        found = {}
        with self.changed:
            for one in have:
                parts = one.split(".")
                if len(parts) < 4 or not all(part.isascii() and part.isdigit() for part in parts[1:4]):
                    continue
                image, row, column = map(int, parts[1:4])
                if image < len(self.data.train):
                    guess = self.guesses.get((self.data.train.ids[image], row, column))
                    if guess is not None:
                        found[one] = {"class_id": guess[0], "chance": guess[1]}
        return found

    def recent(self, count: int = 30) -> list[dict]:
        """The last answers of this annotator, oldest first, with their questions: a page that was opened anew goes back
        to them."""
        with self.changed:
            own = [
                entry
                for entry in self.journal.entries
                if entry["type"] == "answer"
                and entry["annotator"] == self.annotator
                and entry["kind"] not in ("volunteered", "known")
                and entry["id"] not in self.answers.retracted
            ]
            found = []
            for entry in own[-count:]:
                place = entry["image"], entry["y"], entry["x"]
                asked = Question(entry["kind"], place, entry["height"], entry["width"], entry["round"], entry["rank"])
                found.append({"question": self._question(asked), "entry": entry})
            return found

    def keep(self, sent: Sequence[dict]) -> list[str]:
        """Check what a page sent, write it to the journal, and say which ids are on the disk.

        Raises:
            LabelError: one of them cannot be used; then none is kept.
        """
        with self.changed:
            classes, entries = self.answers.classes.copy(), []
            for one in sent:
                entry = one if one.get("id") in self.journal else self._entry(one, classes)
                if entry["type"] == "class" and entry["id"] not in self.journal:
                    classes.apply(entry)
                entries.append(entry)
            new = self.journal.append([entry for entry in entries if entry["id"] not in self.journal])
            open_before = bool(self._open_picks())
            self.answers.add(new)
            if new:
                self.last_entry = time.monotonic()
            if open_before and not self._open_picks():
                self._advance()
            elif any(entry["type"] == "class" or self._is_of_class(entry) for entry in new):
                self.child.send(op="advance", rounds=self.config.rounds)  # which writes the names down
        self._tell()
        return [entry["id"] for entry in entries]

    def _is_of_class(self, entry: Entry) -> bool:
        return entry["type"] == "retract" and self.answers.by_id.get(entry["of"], {}).get("type") == "class"

    def _entry(self, sent: dict, classes: Classes) -> Entry:
        """A journal line out of what a page sent, every field checked."""
        kind = sent.get("type")
        entry: Entry = {
            "id": _text(sent, "id", 64),
            "type": kind,
            "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "annotator": self.annotator,
        }
        if kind in ("answer", "later"):
            image = _int(sent, "image", 0, len(self.data.train) - 1)
            height, width = self._size(image)
            entry |= {
                "kind": _choice(sent, "kind", KINDS),
                "image": self.data.train.ids[image],
                "x": _int(sent, "x", 0, width - 1),
                "y": _int(sent, "y", 0, height - 1),
                "height": height,
                "width": width,
            }
        if kind == "answer":
            entry |= self._answer(sent, classes)
        elif kind == "retract":
            entry["of"] = _text(sent, "of", 64)
        elif kind == "class":
            entry |= {key: sent[key] for key in ("op", "name", "class_id", "into") if key in sent}
            classes.check(entry)
        elif kind != "later":
            raise LabelError(f"type must be answer, retract, class or later, got {kind!r}")
        return entry

    def _answer(self, sent: dict, classes: Classes) -> dict:
        class_id, reason = sent.get("class_id"), sent.get("reason")
        if class_id is None:
            reason = _choice(sent, "reason", REASONS)
        else:
            class_id, reason = _int(sent, "class_id", 0, len(classes.names) - 1), None
        guess = sent.get("guess")
        return {
            "class_id": classes.resolve(class_id) if class_id is not None else None,
            "reason": reason,
            "seconds": _seconds(sent),
            "round": None if sent.get("round") is None else _int(sent, "round", 0, 10**6),
            "rank": None if sent.get("rank") is None else _int(sent, "rank", 0, 10**9),
            "guess": None if guess is None else _int(sent, "guess", 0, len(classes.names) - 1),
            "guess_seen": sent.get("guess_seen") is True,
            "overlay_seen": sent.get("overlay_seen") is True,
        }

    def _size(self, image: int) -> tuple[int, int]:
        name = self.data.train.ids[image]
        for known in (pick for picks in self.rounds for pick in picks):
            if known.image == name:
                return known.height, known.width
        for one in self.spare:
            if one.place[0] == name:
                return one.height, one.width
        return self.images.size(image)

    def set_up(self, names: Sequence[str]) -> None:
        """Take the class names that the page gives for a run that has none.

        Raises:
            LabelError: a name cannot be used, or the run has classes.
        """
        with self.changed:
            if self.start is not None:
                raise LabelError("the run has its classes; add one, or rename one")
            classes = Classes()
            for name in names:
                change = {"op": "add", "name": name}
                classes.check(change)
                classes.apply(change)
            if not classes.names:
                raise LabelError("name at least one class")
            self.config = self.save_classes(classes.names)
            self.start = tuple(classes.names)
            self.data = dataclasses.replace(self.data, classes=self.start, colors=None)
            self.answers = Answers(self.start)
            self.answers.add(self.journal.entries)
            self.phase = ENCODING
            self.at_work.clear()
            self.child.restart(self._settings())
        self._tell()

    def more_rounds(self, rounds: int) -> None:
        """Go on after the last round."""
        with self.changed:
            self.config = dataclasses.replace(self.config, rounds=self.config.rounds + rounds)
            self.child.settings = self._settings()
            if self.phase in (DONE, FAILED):
                self.phase = WORKING
            if self.child.gave_up:
                self.child.restart(self._settings())
            self._advance()
        self._tell()

    def export(self) -> dict:
        """Have everything written to RUN/export; the state's `exported` says when it is."""
        with self.changed:
            self.exported = None
            self._send(op="export", out=str(self.config.run_folder() / "export"))
        self._tell()
        return {}

    def try_again(self) -> None:
        """Start the child anew after it gave up."""
        with self.changed:
            if self.phase == FAILED:
                self.phase, self.message = ENCODING, ""
                self.child.restart(self._settings())
        self._tell()

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
            asked = self.live
            self.changed.wait_for(lambda: self.views.get(image, 0) >= asked or self._closed, seconds)
            version = self.views.get(image, 0)
        path = self.folder / "views" / f"{image}.{part}.png"
        return (path.read_bytes(), version) if version and path.is_file() else None

    def answers_of(self, image: int) -> list[dict]:
        """The answered pixels of an image, for the page to draw and to edit."""
        with self.changed:
            name, found = self.data.train.ids[image], []
            for place in self.answers.by_place:
                entry = self.answers.current(place) if place[0] == name else None
                if entry is not None:
                    said = {"class_id": self.answers.class_of(entry), "reason": entry["reason"]}
                    found.append({"x": place[2], "y": place[1], "kind": entry["kind"], "entry": entry["id"], **said})
            return found

    def class_changes(self) -> list[dict]:
        """Changes of the classes that stand, newest last."""
        with self.changed:
            return [change for change in self.answers.changes if change["id"] not in self.answers.retracted]


def _text(sent: dict, key: str, longest: int) -> str:
    value = sent.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise LabelError(f"{key} must be text of 1 to {longest} letters, got {repr(value)[:40]}")
    return value


def _int(sent: dict, key: str, low: int, high: int) -> int:
    value = sent.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise LabelError(f"{key} must be an integer from {low} to {high}, got {repr(value)[:40]}")
    return value


def _choice(sent: dict, key: str, choices: Sequence[str]) -> str:
    value = sent.get(key)
    if value not in choices:
        raise LabelError(f"{key} must be one of {', '.join(choices)}, got {repr(value)[:40]}")
    return value


def _seconds(sent: dict) -> float | None:
    value = sent.get("seconds")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise LabelError(f"seconds must be a number from 0 on, got {repr(value)[:40]}")
    return round(float(value), 3)
