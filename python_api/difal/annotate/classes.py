"""The classes of a run that is being annotated: names, keys, colours, and their changes midway.

A class keeps its id for ever. A new one gets the next free id; renaming changes the name alone; merging sends the
answers of one class to another, and the merged id stays reserved. Each change is a line of the journal and can be
undone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from difal.data.base import IGNORE, PALETTE, distinct_colors
from difal.errors import ConfigError, LabelError

# Keys of the page that do something else; none of them can stand for a class.
COMMANDS = {
    " ": "confirm the model's guess",
    "Backspace": "take the last answer back",
    "ArrowLeft": "back to the answer before",
    "ArrowRight": "forward again",
    ".": "ask this one later",
    ",": "can't tell",
    "-": "no class fits",
    "?": "help",
    "/": "search for a class",
    "o": "prediction over the image",
    "u": "uncertainty",
    "h": "hide it while held",
    "i": "all images",
    "b": "brightness and contrast",
    "m": "light or dark",
    "PageUp": "closer",
    "PageDown": "farther",
    "Home": "the whole image",
    "Escape": "close",
    "Enter": "choose",
    "Tab": "next control",
}
KEYS = "1234567890" + "".join(letter for letter in "qwertyasdfgzxcvnjklp" if letter not in COMMANDS)
NO_CLASS = -1  # where the answers of a class go whose adding was taken back
PATTERNS = ("solid", "diagonal", "dots", "horizontal", "vertical", "cross", "back-diagonal", "grid")


@dataclass
class Classes:
    """Names by id; `merged[id]` is the class that the answers of `id` go to."""

    names: list[str] = field(default_factory=list)
    merged: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Classes:
        return Classes(list(self.names), dict(self.merged))

    @property
    def open(self) -> list[int]:
        """The ids that can be given as an answer."""
        return [i for i in range(len(self.names)) if i not in self.merged]

    def resolve(self, class_id: int | None) -> int | None:
        """Where answers of a class go now."""
        while class_id in self.merged:
            class_id = self.merged[class_id]
        return None if class_id == NO_CLASS else class_id

    def parts(self) -> dict[int, int]:
        """Each merged class and the open one that it is part of now."""
        return {i: into for i in self.merged if (into := self.resolve(i)) is not None}

    def check(self, change: dict) -> None:
        """Raise LabelError for a change that cannot be made to these classes."""
        operation, names = change.get("op"), {self.names[i] for i in self.open}
        if operation in ("add", "rename"):
            name = change.get("name")
            if not isinstance(name, str) or not name.strip() or len(name) > 100 or not name.isprintable():
                raise LabelError(f"a class needs a name of 1 to 100 letters, got {name!r}")
            if "," in name or name != name.strip():
                raise LabelError(f"a class name holds no comma and no blank at its ends, got {name!r}")
            if name in names:
                raise LabelError(f"there is a class {name!r} already")
            if operation == "add" and len(self.names) >= IGNORE:
                raise LabelError(f"there can be at most {IGNORE} classes")
        if operation in ("rename", "merge"):
            self._check_id(change.get("class_id"))
        if operation == "merge":
            self._check_id(change.get("into"))
            if change["into"] == change["class_id"]:
                raise LabelError("a class cannot be merged into itself")
        if operation not in ("add", "rename", "merge"):
            raise LabelError(f"a class change is add, rename or merge, got {operation!r}")

    def _check_id(self, class_id) -> None:
        if isinstance(class_id, bool) or not isinstance(class_id, int) or class_id not in self.open:
            raise LabelError(f"there is no open class {class_id!r}; the ids are {', '.join(map(str, self.open))}")

    def apply(self, change: dict) -> None:
        """Make a change that `check` has passed. One that no longer can be made (after an undo) is left out."""
        try:
            self.check(change)
        except LabelError:
            if change.get("op") != "add":
                return
            self.names.append(_free_name(str(change.get("name")), self.names))
            return
        if change["op"] == "add":
            self.names.append(change["name"])
        elif change["op"] == "rename":
            self.names[change["class_id"]] = change["name"]
        else:
            self.merged[change["class_id"]] = change["into"]

    def as_json(self) -> dict:
        return {"names": self.names, "merged": {str(key): value for key, value in self.merged.items()}}


def fold(start: Sequence[str], changes: Sequence[dict], undone: set[str]) -> Classes:
    """The classes after the changes, less those whose ids were undone; an id that was handed out stays reserved."""
    classes = Classes(list(start))
    for change in changes:
        if change["id"] not in undone:
            classes.apply(change)
        elif change["op"] == "add":
            classes.names.append(_free_name(f"({change['name']}, taken back)", classes.names))
            classes.merged[len(classes.names) - 1] = NO_CLASS
    return classes


def _free_name(name: str, taken: Sequence[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name} {number}", number + 1
    return free


def assign_keys(names: Sequence[str], asked: dict[str, str] | None = None) -> dict[int, str]:
    """A key for each class id, as long as there are any; the rest are found by the search box.

    Args:
        names: class names.
        asked: keys that the user chose, by class name.

    Raises:
        ConfigError: a chosen key is a command's or another class's, or the name is no class's.
    """
    asked = asked or {}
    keys: dict[int, str] = {}
    for name, key in asked.items():
        if name not in names:
            raise ConfigError(f"`--keys` names {name!r}, which is no class; the classes are {', '.join(names)}")
        if key in COMMANDS:
            raise ConfigError(f"`--keys {name}={key}`: that key is a command ({COMMANDS[key]}); choose another")
        if len(key) != 1 or not key.isprintable() or key != key.lower():
            raise ConfigError(f"`--keys {name}={key}`: a key is one lower-case letter, digit or sign")
        if key in keys.values():
            raise ConfigError(f"`--keys {name}={key}`: two classes have that key; choose another")
        keys[list(names).index(name)] = key
    free = [key for key in KEYS if key not in keys.values()]
    for class_id in range(len(names)):
        if class_id not in keys and free:
            keys[class_id] = free.pop(0)
    return keys


@dataclass(frozen=True)
class Look:
    """How a class is shown: colour, pattern and name, so that nobody depends on the colour."""

    class_id: int
    name: str
    key: str | None
    color: str
    pattern: str
    merged: int | None

    def as_json(self) -> dict:
        return dataclasses.asdict(self)


def looks(classes: Classes, asked: dict[str, str] | None = None) -> list[Look]:
    """Every class id with its looks. A key belongs to an id and so stays when another class is merged away."""
    asked = {name: key for name, key in (asked or {}).items() if name in classes.names}  # renamed since
    keys = assign_keys(classes.names, asked)
    colors = distinct_colors(len(classes.names))
    return [
        Look(
            i,
            name,
            None if i in classes.merged else keys.get(i),
            "#{:02X}{:02X}{:02X}".format(*colors[i]),
            PATTERNS[(i // len(PALETTE) + i) % len(PATTERNS)],
            classes.merged.get(i),
        )
        for i, name in enumerate(classes.names)
    ]
