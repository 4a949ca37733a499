"""Shared by the annotator's tests: a session without a child process, and entries for its journal."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from api.fakes import tiny_config, tiny_data
from difal.annotate.session import Session

_numbers = count()


def answer(image: str, x: int, y: int, class_id: int | None, **more) -> dict:
    """A journal line."""
    entry = {
        "id": f"e{next(_numbers)}", "type": "answer", "at": "", "annotator": "ann", "kind": "round", "image": image,
        "x": x, "y": y, "height": 32, "width": 32, "class_id": class_id, "reason": None, "seconds": 1.0, "round": 0,
        "rank": 0, "guess": None, "guess_seen": False, "overlay_seen": False,
    }  # fmt: skip
    if class_id is None:
        entry["reason"] = "none"
    return {**entry, **more}


def retract(entry: dict) -> dict:
    return {"id": f"e{next(_numbers)}", "type": "retract", "at": "", "annotator": "ann", "of": entry["id"]}


def change(op: str, **more) -> dict:
    return {"id": f"e{next(_numbers)}", "type": "class", "at": "", "annotator": "ann", "op": op, **more}


def sent(image: int, x: int, y: int, class_id: int | None, **more) -> dict:
    """What a page sends of an answer."""
    entry = {"id": f"s{next(_numbers)}", "type": "answer", "kind": "round", "image": image, "x": x, "y": y}
    return {**entry, "class_id": class_id, "reason": None if class_id is not None else "none", "seconds": 0.5, **more}


def quiet_session(folder: Path, **changes) -> Session:
    """A session over tiny scenes whose child process is never started."""
    data = tiny_data()
    options = {"annotator": "ann", "run_id": "r", **changes}
    return Session(tiny_config(folder, oracle="person"), data, options.pop("start", data.classes), **options)
