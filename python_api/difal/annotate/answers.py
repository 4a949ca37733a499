"""What the journal says: the answer of every pixel, the classes, and the state of each round at any line.

`Answers` folds the journal's lines one by one. Everything that the run learns is a function of the journal's order
and of the rounds' picks, so that it does not matter when a process was killed or how long training took.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from difal.annotate.classes import Classes, fold
from difal.annotate.journal import Entry
from difal.run.labels import Label, Place

NO_CLASS_FITS, CANNOT_TELL = "none", "unsure"
REASONS = (NO_CLASS_FITS, CANNOT_TELL)
# How a pixel came to be asked. `round`: a pick of the run. `spare`: chosen by coverage to fill a wait. `volunteered`:
# clicked where she wanted. `repeat`: asked before, to see whether she agrees with herself. `second`: asked of another
# annotator. `settle`: two annotators disagreed. `known`: filled into to_label.* by hand.
KINDS = ("round", "spare", "volunteered", "repeat", "second", "settle", "known")
ASIDE = ("repeat", "second")  # these measure agreement; they never change the pixel's label


@dataclass
class Answers:
    """The journal up to some line.

    Args:
        start: class names before any change.
    """

    start: Sequence[str] = ()
    by_place: dict[Place, list[Entry]] = field(default_factory=dict)
    by_id: dict[str, Entry] = field(default_factory=dict)
    changes: list[Entry] = field(default_factory=list)
    retracted: set[str] = field(default_factory=set)
    skipped: dict[Place, int] = field(default_factory=dict)
    owner: str | None = None
    lines: int = 0

    def __post_init__(self) -> None:
        self.classes = Classes(list(self.start))

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        self.lines += 1
        self.by_id[entry["id"]] = entry
        if entry["type"] == "answer":
            self.by_place.setdefault(place_of(entry), []).append(entry)
            if self.owner is None and entry["kind"] != "known":
                self.owner = entry["annotator"]
        elif entry["type"] == "retract":
            self.retracted.add(entry["of"])
            if self.by_id.get(entry["of"], {}).get("type") == "class":
                self.classes = fold(self.start, self.changes, self.retracted)
        elif entry["type"] == "class":
            self.changes.append(entry)
            self.classes.apply(entry)
        elif entry["type"] == "later":
            self.skipped[place_of(entry)] = self.lines

    def standing(self, place: Place) -> list[Entry]:
        """The answers of a pixel that were not taken back and whose class still exists, oldest first."""
        return [entry for entry in self.by_place.get(place, ()) if self._stands(entry)]

    def _stands(self, entry: Entry) -> bool:
        if entry["id"] in self.retracted:
            return False
        return entry["class_id"] is None or self.classes.resolve(entry["class_id"]) is not None

    def current(self, place: Place) -> Entry | None:
        """The answer that counts: the one that settled a disagreement, else the owner's last, else the last."""
        counting = [entry for entry in self.standing(place) if entry["kind"] not in ASIDE]
        for wanted in (
            lambda entry: entry["kind"] == "settle",
            lambda entry: entry["annotator"] == self.owner,
            lambda entry: True,
        ):
            if found := [entry for entry in counting if wanted(entry)]:
                return found[-1]
        return None

    def class_of(self, entry: Entry) -> int | None:
        """The class that an answer means now."""
        return self.classes.resolve(entry["class_id"])

    def outcome(self, entry: Entry) -> int | str:
        """The class, or the reason why there is none: what two answers are compared by."""
        class_id = self.class_of(entry)
        return entry["reason"] if class_id is None else class_id

    def filled(self, pick: Label) -> Label | None:
        """The pick with its answer, None if it has none."""
        entry = self.current(pick.place)
        return None if entry is None else self._with_answer(pick, entry)

    def _with_answer(self, pick: Label, entry: Entry) -> Label:
        class_id = self.class_of(entry)
        return dataclasses.replace(
            pick,
            class_id=class_id,
            class_name=None if class_id is None else self.classes.names[class_id],
            annotator=entry["annotator"],
            seconds=entry["seconds"],
            skipped=class_id is None,
        )

    def labels(self) -> list[Label]:
        """Every answered pixel, in the order in which the pixels were first answered."""
        found = []
        for place, entries in self.by_place.items():
            if (entry := self.current(place)) is not None:
                found.append(self._with_answer(label_of(entries[0], entry["kind"]), entry))
        return found

    def count(self) -> int:
        """Pixels that have an answer."""
        return sum(self.current(place) is not None for place in self.by_place)

    def count_skipped(self) -> int:
        """Pixels whose answer is that there is no class, or that it cannot be told."""
        found = (self.current(place) for place in self.by_place)
        return sum(entry is not None and self.class_of(entry) is None for entry in found)


def place_of(entry: Entry) -> Place:
    return entry["image"], entry["y"], entry["x"]


def label_of(entry: Entry, kind: str) -> Label:
    """An unanswered label for an answer's pixel."""
    return Label(
        id=f"{kind}-{entry['id']}",
        image=entry["image"],
        x=entry["x"],
        y=entry["y"],
        height=entry["height"],
        width=entry["width"],
        round=-1 if entry.get("round") is None else entry["round"],
        rank=-1 if entry.get("rank") is None else entry["rank"],
    )


@dataclass(frozen=True)
class Closed:
    """A round as it stood when its last pick was answered."""

    labels: list[Label]
    corrected: list[Label]  # earlier rounds' labels that have changed since they were last trained on
    classes: Classes


def close_round(
    entries: Sequence[Entry], start: Sequence[str], rounds: Sequence[Sequence[Label]], trained: Sequence[Label]
) -> Closed | None:
    """The last of `rounds` as of the journal line that answered its last pick; None if some pick has no answer yet.

    A round cannot close before the one before it.

    Args:
        entries: the journal.
        start: class names before any change.
        rounds: the picks of every round so far.
        trained: the labels that earlier heads were trained on, as they then were.
    """
    answers, at = Answers(start), 0
    for picks in rounds:
        open_ = {pick.place for pick in picks if answers.current(pick.place) is None}
        while open_:
            if at == len(entries):
                return None
            answers.add([entries[at]])
            entry, at = entries[at], at + 1
            if entry["type"] in ("retract", "class"):  # these may open and close any pixel
                open_ = {pick.place for pick in picks if answers.current(pick.place) is None}
            elif entry["type"] == "answer" and answers.current(place_of(entry)) is not None:
                open_.discard(place_of(entry))
    labels = [label for pick in rounds[-1] if (label := answers.filled(pick)) is not None]  # every one of them
    corrected = []
    for before in trained:
        now = answers.filled(before) or dataclasses.replace(before, class_id=None, class_name=None, skipped=True)
        if (now.class_id, now.skipped) != (before.class_id, before.skipped):
            corrected.append(now)
    return Closed(labels, corrected, answers.classes.copy())
