"""Label files: one pixel a line (JSONL), and the same as a table (CSV) and as Label Studio tasks.

Each line is an object with the fields of `Label`. A person fills in `class_id` or `class_name`, or sets `skipped`
to true where no class fits; everything else stays as written.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from difal.errors import LabelError
from difal.files import digest, write_text
from difal.run import label_studio, tables

Place = tuple[str, int, int]  # image, row, column


@dataclass
class Label:
    """One pixel and its answer. (x, y) is (column, row), from 0, in an image of `height` x `width` pixels."""

    id: str
    image: str
    x: int
    y: int
    height: int
    width: int
    round: int
    rank: int
    score: float | None = None
    class_id: int | None = None
    class_name: str | None = None
    annotator: str | None = None
    seconds: float | None = None
    skipped: bool = False

    @property
    def answered(self) -> bool:
        return self.skipped or self.class_id is not None

    @property
    def place(self) -> Place:
        return self.image, self.y, self.x


FIELDS = tuple(field.name for field in dataclasses.fields(Label))
NEEDED = ("image", "x", "y")
NUMBERS = ("x", "y", "height", "width", "round", "rank", "score", "class_id", "seconds")
# What spreadsheets and people write for true and false.
YES = ("true", "yes", "y", "x", "1", "1.0", "wahr", "ja", "vrai", "oui", "verdadero", "vero")
NO = ("false", "no", "n", "0", "0.0", "falsch", "nein", "faux", "non", "falso", "")


def to_jsonl(labels: Sequence[Label]) -> str:
    return "".join(json.dumps(dataclasses.asdict(label), ensure_ascii=False) + "\n" for label in labels)


def labels_digest(labels: Sequence[Label]) -> str:
    """A digest of the pixels and their classes, skipped ones aside: what a head is trained on."""
    return digest([[*label.place, label.class_id] for label in labels if label.class_id is not None])


def unlabeled(labels: Sequence[Label], classes: Sequence[str], merged: Collection[int] = ()) -> list[str]:
    """The classes, but those merged into others, of which there is no label: a head never predicts them."""
    present = {label.class_id for label in labels}
    return [name for i, name in enumerate(classes) if i not in present and i not in merged]


def what_is_missing(labels: Sequence[Label], classes: Sequence[str], merged: Collection[int] = ()) -> list[str]:
    """Lines about what a head cannot have learnt from these labels: classes without any, or all labels of one class."""
    named = {label.class_id for label in labels if label.class_id is not None}
    absent = unlabeled(labels, classes, merged)
    if len(named) == 1 and absent:
        return [f"all labels are {classes[named.pop()]}, which is all that is predicted"]
    return [f"no label yet of {not_predicted(absent)}"] if named and absent else []


def not_predicted(names: Sequence[str]) -> str:
    return f"{', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not predicted"


def write_label_file(path: Path, labels: Sequence[Label]) -> None:
    write_text(path, to_jsonl(labels))


def to_csv(labels: Sequence[Label]) -> str:
    return tables.to_csv([dataclasses.asdict(label) for label in labels], FIELDS)


def to_label_studio(labels: Sequence[Label], prefix: str = "") -> str:
    """Label Studio tasks; `prefix` comes before an image's name in its address."""
    return label_studio.to_tasks([dataclasses.asdict(label) for label in labels], prefix)


def label_studio_point(label: Label) -> dict:
    """A pixel's middle as Label Studio's key point, with its class if it has one."""
    return label_studio.point(dataclasses.asdict(label))


def read_labels(path: Path, classes: Sequence[str], asked: Collection[Place] | None = None) -> list[Label]:
    """Read a label file, checking every line.

    Args:
        path: a `.jsonl` file, a table (`.csv`, `.tsv`, `.txt`) whose first line is the field names, or what Label
            Studio exports (`.json`).
        classes: class names; ids are their positions.
        asked: if given, only these pixels may be in the file.

    Returns:
        One `Label` per line; unanswered lines are allowed and have `answered == False`.

    Raises:
        LabelError: names the file, the line and the cure.
    """
    labels: list[Label] = []
    places: dict[Place, str] = {}
    for where, row in _rows(Path(path)):
        label = _check(row, classes, where)
        if label.place in places:
            raise LabelError(
                f"{where} repeats pixel x={label.x}, y={label.y} of {label.image} "
                f"({places[label.place]}); delete one of the two"
            )
        if asked is not None and label.place not in asked:
            raise LabelError(
                f"{where}: pixel x={label.x}, y={label.y} of {label.image} was not asked; "
                f"leave image, x and y as they were written"
            )
        places[label.place] = where.removeprefix(f"{path} ")
        labels.append(label)
    return labels


def _rows(path: Path) -> list[tuple[str, dict]]:
    """Where each line is, and its fields."""
    if not path.is_file():
        raise LabelError(f"there is no label file {path}")
    if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".numbers"):
        raise LabelError(f"{path} is a spreadsheet's own format; save the sheet as CSV")
    text = _text(path)
    if path.suffix.lower() == ".json":
        return label_studio.read_export(text, path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return [(f"{path} line {n}", row) for n, row in tables.read_table(text, path, FIELDS, NUMBERS)]
    return [(f"{path} line {n}", _parse(line, path, n)) for n, line in _lines(text)]


def count_lines(path: Path) -> int:
    """How many labels a `.jsonl` file holds, whatever is in their lines."""
    return len(_lines(_text(path)))


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    return [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _text(path: Path) -> str:
    """UTF-8, or what says by its byte-order mark that it is UTF-16, as spreadsheets save "Unicode text"."""
    content = path.read_bytes()
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise LabelError(f"{path} is not UTF-8 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)") from None


def _parse(line: str, path: Path, number: int) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise LabelError(f"{path} line {number} is not JSON ({error.msg} at column {error.colno}); mend it") from None
    except (RecursionError, ValueError):  # thousands of brackets or of digits
        raise LabelError(f"{path} line {number} must be an object {{...}}, got {line.strip()[:40]!r}") from None
    if not isinstance(row, dict):
        raise LabelError(f"{path} line {number} must be an object {{...}}, got {line.strip()[:40]!r}")
    return row


def _check(row: dict, classes: Sequence[str], where: str) -> Label:
    unknown = [key for key in row if key not in FIELDS]
    if unknown:
        raise LabelError(f"{where} has the unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    for key in NEEDED:
        if row.get(key) in (None, ""):
            raise LabelError(f"{where} lacks {key!r}; leave that field as it was written")
    value = {key: None if item == "" else item for key, item in row.items()}
    if isinstance(value.get("class_id"), str) and class_named(value["class_id"], classes) is not None:
        raise LabelError(
            f"{where}: class_id must be a number, got the name {value['class_id']!r}; put names into class_name"
        )
    ints = {key: _int(value.get(key), key, where) for key in ("x", "y", "height", "width", "round", "rank", "class_id")}
    skipped = _flag(value.get("skipped"), where)
    class_id, name = ints["class_id"], value.get("class_name")
    if name is not None:
        meant = class_named(name, classes)
        if meant is None:
            raise LabelError(f"{where}: class_name {name!r} is not a class; the classes are {', '.join(classes)}")
        if class_id not in (None, meant):
            raise LabelError(f"{where}: class_id {class_id} and class_name {name!r} disagree; give one of them")
        class_id = meant
    if class_id is not None and not 0 <= class_id < len(classes):
        listing = ", ".join(f"{i} {name}" for i, name in enumerate(classes))
        raise LabelError(
            f"{where}: class_id {class_id} is out of range 0 to {len(classes) - 1} ({listing}); "
            f"where no class fits, set skipped to true"
        )
    if skipped and class_id is not None:
        raise LabelError(f"{where}: class {classes[class_id]!r} and skipped are both given; clear one of the two")
    return Label(
        id=str(value.get("id") or ""),
        image=str(value["image"]),
        x=ints["x"] or 0,
        y=ints["y"] or 0,
        height=ints["height"] or 0,
        width=ints["width"] or 0,
        round=-1 if ints["round"] is None else ints["round"],
        rank=-1 if ints["rank"] is None else ints["rank"],
        score=_number(value.get("score"), "score", where),
        class_id=class_id,
        class_name=None if class_id is None else classes[class_id],
        annotator=None if value.get("annotator") is None else str(value["annotator"]),
        seconds=_number(value.get("seconds"), "seconds", where),
        skipped=skipped,
    )


def _int(value, key: str, where: str) -> int | None:
    number = _number(value, key, where)
    if number is not None and number != int(number):
        raise LabelError(f"{where}: {key} must be an integer, got {value!r}")
    return None if number is None else int(number)


def _number(value, key: str, where: str) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        raise LabelError(f"{where}: {key} must be a number or null, got {repr(value)[:40]}") from None


def _flag(value, where: str) -> bool:
    if value in (None, False, True):
        return bool(value)
    word = value.strip().casefold() if isinstance(value, str) else value
    if word in YES or word in NO:
        return word in YES
    raise LabelError(f"{where}: skipped must be true or false, got {value!r}")


def class_named(name, classes: Sequence[str]) -> int | None:
    """The class of this name, or of one that differs in capitals and surrounding blanks alone."""
    if name in classes:
        return list(classes).index(name)
    alike = [i for i, one in enumerate(classes) if one.strip().casefold() == str(name).strip().casefold()]
    return alike[0] if len(alike) == 1 else None
