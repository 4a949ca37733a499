"""One annotator at one run, as her page sees it: the journal, the questions, the state.

Nothing here knows of HTTP. Every public method may be called from any thread.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

from difal.annotate import agreement
from difal.annotate.answers import Answers
from difal.annotate.background import SETUP, Background
from difal.annotate.classes import Classes, assign_keys, looks
from difal.annotate.entries import entry_of
from difal.annotate.images import Images
from difal.annotate.journal import Entry, Journal
from difal.annotate.questions import Question, next_questions
from difal.config import Config
from difal.data import Data
from difal.errors import LabelError

AHEAD = 6  # questions that the page holds: the one shown and five more
POLL = 4.0  # seconds that a page's request for news waits at most
PAGE_GONE_AFTER = 7.0  # seconds without a word from a page, after which another may ask


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
        self.save_classes = save_classes
        assign_keys(self.start or (), self.keys if self.start else {})
        self.folder = config.run_folder() / "annotate"
        self.journal = Journal(self.folder / "journal.jsonl")
        self.images = Images(data.train)
        self.answers = Answers(self.start or ())
        self.answers.add(self.journal.entries)
        self.background = Background(self.folder, config, data, start, self.answers, log)
        self.changed = self.background.changed
        self.page, self.page_seen = "", 0.0
        self.browsers: dict[str, str | None] = {}  # by page

    def open(self) -> None:
        """Have the child process begin."""
        self.background.open()

    def close(self) -> None:
        """End the child process. Nothing has to be saved: all of it is."""
        self.background.close()
        self.journal.close()

    # -- pages

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
        self.background.notify()
        return self.state(page)

    def leave(self, page: str) -> dict:
        """A page is closed: another may ask at once."""
        with self.changed:
            if self.page == page:
                self.page = ""
        self.background.notify()
        return {}

    def wait(self, page: str, seen: int, seconds: float = POLL) -> dict:
        """The state, as soon as it is newer than `seen`; a page that waits takes the place of one that has gone."""
        with self.changed:
            self._claim(page, False)
            self.changed.wait_for(lambda: self.background.version > seen or self.background.closed, seconds)
            return self.state(page)

    def _claim(self, page: str, take: bool) -> None:
        gone = time.monotonic() - self.page_seen > PAGE_GONE_AFTER
        if take or gone or self.page in ("", page):
            self.page, self.page_seen = page, time.monotonic()

    def state(self, page: str) -> dict:
        """Everything the page shows but questions and pictures; JSON-able."""
        behind = self.background
        with self.changed:
            open_picks, of_round = len(behind.open_picks()), len(behind.rounds[-1]) if behind.rounds else 0
            own = [
                entry
                for entry in self.journal.entries
                if entry["type"] == "answer" and entry["annotator"] == self.annotator
            ]
            seconds = [entry["seconds"] for entry in own if entry["seconds"] is not None]
            typical = statistics.median(seconds[-50:]) if seconds else None
            rounds_left = max(0, self.config.rounds - len(behind.rounds))
            per_round = self.config.round_budget(len(self.data.train))
            left = open_picks + rounds_left * per_round
            return {
                "version": behind.version,
                "run": self.run_id,
                "name": self.data.name,
                "folder": str(self.config.run_folder()),
                "annotator": self.annotator,
                "owner": self.answers.owner,
                "second": self.answers.owner not in (None, self.annotator),
                "mine": self.page == page,
                "phase": behind.phase,
                "message": behind.message,
                "classes": [look.as_json() for look in looks(self.answers.classes, self.keys)],
                "images": list(self.data.train.ids),
                "encoded": behind.encoded,
                "round": max(0, len(behind.rounds) - 1),
                "rounds": self.config.rounds,
                "round_open": open_picks,
                "round_size": of_round,
                "answered": self.answers.count(),
                "skipped": self.answers.count_skipped(),
                "given": len(own),
                "volunteered": sum(entry["kind"] == "volunteered" for entry in own),
                "seconds": typical,
                "left": left,
                "seconds_left": None if typical is None else round(typical * left),
                "live": behind.live,
                "guessed": behind.guessed_by,
                "trained": behind.live_lines >= self.answers.lines,
                "agreement": agreement.summary(self.answers, self.annotator),
                "exported": behind.exported,
            }

    def next(self, have: Sequence[str]) -> list[dict]:
        """The questions that come after those that the page already has."""
        with self.changed:
            if self.background.phase == SETUP:
                return []
            repeats = 0.0 if any(one.startswith("repeat.") for one in have) else self.repeats
            rounds, spare = self.background.rounds, self.background.spare
            picks = rounds[-1] if rounds else []
            found = next_questions(self.answers, picks, spare, self.annotator, AHEAD + len(have), repeats)
            known = {".".join(one.split(".")[1:4]) for one in have}
            new = [one for one in found if self._place_id(one) not in known]
            return [self._question(one) for one in new[: max(0, AHEAD - len(have))]]

    def _place_id(self, question: Question) -> str:
        return ".".join(map(str, self.background.pixel(question.place)))

    def _question(self, one: Question) -> dict:
        name, row, column = one.place
        image, _, _ = self.background.pixel(one.place)
        number = f".{self.answers.lines}" if one.kind == "repeat" else ""
        guess = None
        if (known := self.background.guesses.get(one.place)) is not None:
            guess = {"class_id": self.answers.classes.resolve(known[0]), "chance": known[1]}
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
                    guess = self.background.guesses.get((self.data.train.ids[image], row, column))
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
            classes, entries, images = self.answers.classes.copy(), [], self.data.train.ids
            for one in sent:
                if one.get("id") in self.journal:
                    entries.append(one)
                    continue
                entry = entry_of(one, self.annotator, classes, images, self._size)
                if entry["type"] == "class":
                    classes.apply(entry)
                entries.append(entry)
            new = self.journal.append([entry for entry in entries if entry["id"] not in self.journal])
            round_was_open = bool(self.background.open_picks())
            self.answers.add(new)
            if new:
                about_classes = any(entry["type"] == "class" or self._is_of_class(entry) for entry in new)
                self.background.answered(round_was_open, about_classes)
        self.background.notify()
        return [entry["id"] for entry in entries]

    def _is_of_class(self, entry: Entry) -> bool:
        return entry["type"] == "retract" and self.answers.by_id.get(entry["of"], {}).get("type") == "class"

    def _size(self, image: int) -> tuple[int, int]:
        return self.background.known_size(image) or self.images.size(image)

    def set_up(self, names: Sequence[str]) -> None:
        """Take the class names that the page gives for a run that has none.

        Raises:
            LabelError: a name cannot be used, or the run has classes.
        """
        with self.changed:
            if self.start is not None or self.save_classes is None:
                raise LabelError("the run has its classes; add one, or rename one")
            classes = Classes()
            for name in names:
                change = {"op": "add", "name": name}
                classes.check(change)
                classes.apply(change)
            if len(classes.names) < 2:
                raise LabelError("name at least two classes: a model tells them apart")
            self.config = self.save_classes(classes.names)
            self.start = tuple(classes.names)
            self.data = dataclasses.replace(self.data, classes=self.start, colors=None)
            self.answers = Answers(self.start)
            self.answers.add(self.journal.entries)
            self.background.begin(self.config, self.data, self.start, self.answers)
        self.background.notify()

    def more_rounds(self, rounds: int) -> None:
        """Go on after the last round."""
        with self.changed:
            self.config = dataclasses.replace(self.config, rounds=self.config.rounds + rounds)
            self.background.more_rounds(self.config)
        self.background.notify()

    def export(self) -> dict:
        """Have everything written to RUN/export; the state's `exported` says when it is."""
        with self.changed:
            self.background.export()
        self.background.notify()
        return {}

    def try_again(self) -> None:
        """Start the child anew after it gave up."""
        with self.changed:
            self.background.try_again()
        self.background.notify()

    def answers_of(self, image: int) -> list[dict]:
        """The answered pixels of an image, for the page to draw and to edit."""
        with self.changed:
            name, found = self.data.train.ids[image], []
            for place in self.answers.by_place:
                entry = self.answers.current(place) if place[0] == name else None
                if entry is not None:
                    chosen = {"class_id": self.answers.class_of(entry), "reason": entry["reason"]}
                    found.append({"x": place[2], "y": place[1], "kind": entry["kind"], "entry": entry["id"], **chosen})
            return found

    def class_changes(self) -> list[dict]:
        """Changes of the classes that stand, newest last."""
        with self.changed:
            return [change for change in self.answers.changes if change["id"] not in self.answers.retracted]
