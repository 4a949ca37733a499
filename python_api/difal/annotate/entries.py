"""A line of the journal out of what a page sent, every field checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from difal.annotate.answers import KINDS, REASONS
from difal.annotate.classes import Classes
from difal.annotate.journal import Entry
from difal.errors import LabelError


def entry_of(
    sent: dict, annotator: str, classes: Classes, images: Sequence[str], size: Callable[[int], tuple[int, int]]
) -> Entry:
    """Make a journal line of what a page sent.

    Args:
        sent: the page's object, of which nothing is known.
        annotator: who answers.
        classes: as they are before this line.
        images: the pool's image ids, by number.
        size: gives (height, width) of the image of a number.

    Raises:
        LabelError: a field cannot be used; names it.
    """
    kind = sent.get("type")
    entry: Entry = {
        "id": _text(sent, "id", 64),
        "type": kind,
        "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "annotator": annotator,
    }
    if kind in ("answer", "later"):
        image = _int(sent, "image", 0, len(images) - 1)
        height, width = size(image)
        entry |= {
            "kind": _choice(sent, "kind", KINDS),
            "image": images[image],
            "x": _int(sent, "x", 0, width - 1),
            "y": _int(sent, "y", 0, height - 1),
            "height": height,
            "width": width,
        }
    if kind == "answer":
        entry |= _answer(sent, classes)
    elif kind == "retract":
        entry["of"] = _text(sent, "of", 64)
    elif kind == "class":
        entry |= {key: sent[key] for key in ("op", "name", "class_id", "into") if key in sent}
        classes.check(entry)
    elif kind != "later":
        raise LabelError(f"type must be answer, retract, class or later, got {kind!r}")
    return entry


def _answer(sent: dict, classes: Classes) -> dict:
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
    if not isinstance(value, str) or value not in choices:
        raise LabelError(f"{key} must be one of {', '.join(choices)}, got {repr(value)[:40]}")
    return value


def _seconds(sent: dict) -> float | None:
    value = sent.get("seconds")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise LabelError(f"seconds must be a number from 0 on, got {repr(value)[:40]}")
    return round(float(value), 3)
