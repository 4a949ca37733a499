"""Label Studio: a task for each pixel, the labeling configuration, and what is exported read back.

`difal.annotate.label_studio` has tasks of another kind, an image each with many points, and shares what is common.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from difal.errors import LabelError

SKIP = "no class fits"  # the label of a skipped pixel


def to_tasks(rows: Sequence[dict], prefix: str = "") -> str:
    """Tasks: a key point in percent of the image, the integer pixel kept under `data`.

    Args:
        rows: the fields of a label each.
        prefix: what comes before an image's name in its address, such as `http://host:8000/images/` or Label
            Studio's `/data/local-files/?d=images/`.
    """
    tasks = [
        {
            "data": {
                **row,
                "image": address(row["image"], prefix),
                "image_id": row["image"],
            },
            "predictions": [{"result": [{"id": "pixel", **point(row)}]}],
        }
        for row in rows
    ]
    return json.dumps(tasks, indent=1, ensure_ascii=False) + "\n"


def address(image: str, prefix: str = "") -> str:
    """An image's address in a task: its name behind `prefix`."""
    return prefix + quote(image) if prefix else image


def point(row: dict) -> dict:
    """A pixel's middle as Label Studio's key point, in percent of the image, with its class if it has one."""
    return {
        "from_name": "point",
        "to_name": "image",
        "type": "keypointlabels",
        "original_width": row["width"],
        "original_height": row["height"],
        "value": {
            "x": 100 * (row["x"] + 0.5) / row["width"],
            "y": 100 * (row["y"] + 0.5) / row["height"],
            "width": 0.5,
            **({"keypointlabels": [row["class_name"]]} if row.get("class_name") else {}),
        },
    }


def to_labeling_config(classes: Sequence[str], colors: Sequence[Sequence[int]], skip: bool = True) -> str:
    """The labeling configuration (XML) of a project for the tasks, with a label for skipped pixels if `skip`."""
    labels = "".join(
        f'    <Label value="{html.escape(name)}" background="#{red:02x}{green:02x}{blue:02x}"/>\n'
        for name, (red, green, blue) in zip(
            [*classes, SKIP] if skip else classes, [*colors, (0, 0, 0)] if skip else colors, strict=True
        )
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'  <KeyPointLabels name="point" toName="image">\n{labels}  </KeyPointLabels>\n</View>\n'
    )


def read_tasks(text: str, path: Path) -> list[dict]:
    """The tasks of a JSON export.

    Raises:
        LabelError: it is no such file; says how to make one.
    """
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{path} is not JSON ({error}); export it again") from None
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    ):
        raise LabelError(f"{path} must be a list of tasks, as Label Studio exports under JSON (not JSON-MIN or CSV)")
    return tasks


def read_export(text: str, path: Path) -> list[tuple[str, dict]]:
    """Read tasks or an export in Label Studio's JSON: where each comes from, and the fields of its label.

    The class is that of the task's key point, or of its choices. A cancelled annotation is a skipped pixel.

    Raises:
        LabelError: not such a file, two annotations of a task that disagree, or a point that was moved.
    """
    rows = []
    for number, task in enumerate(read_tasks(text, path), 1):
        where = f"{path} task {task.get('id', number)}"
        row = {key: value for key, value in task["data"].items() if key != "image_id"}
        row["image"] = task["data"].get("image_id", row.get("image"))
        answers = [_answer(one, row, where) for one in task.get("annotations") or [] if isinstance(one, dict)]
        given = [answer for answer in answers if answer.get("class_name") or answer.get("skipped")]
        if len({(answer.get("class_name"), answer.get("skipped", False)) for answer in given}) > 1:
            named = " and ".join(str(answer.get("class_name") or "skipped") for answer in given[:2])
            raise LabelError(f"{where} has annotations that disagree, {named}; keep one of them")
        rows.append((where, row | (given[-1] if given else {})))
    return rows


def _answer(annotation: dict, row: dict, where: str) -> dict:
    answer: dict = {"class_id": None, "class_name": None, "skipped": False}
    names: list[str] = []
    for result in annotation.get("result") or []:
        value = result.get("value") or {}
        names += value.get("keypointlabels") or value.get("choices") or []
        if "keypointlabels" in value and {"x", "y"} <= set(value):
            _check_unmoved(value, row, where)
    if len(set(names)) > 1:
        raise LabelError(f"{where} has two classes for one pixel, {names[0]} and {names[1]}; keep one of them")
    if annotation.get("was_cancelled") or SKIP in names:
        answer["skipped"] = True
    elif names:
        answer["class_name"] = names[0]
    who = annotation.get("completed_by")
    if who is not None:
        answer["annotator"] = str(who.get("email", who.get("id"))) if isinstance(who, dict) else f"labelstudio:{who}"
    if isinstance(annotation.get("lead_time"), int | float):
        answer["seconds"] = annotation["lead_time"]
    return answer


def _check_unmoved(value: dict, row: dict, where: str) -> None:
    try:
        x, y = (
            math.floor(float(value[axis]) * float(row[side]) / 100) for axis, side in (("x", "width"), ("y", "height"))
        )
        moved = abs(x - int(row["x"])) > 1 or abs(y - int(row["y"])) > 1
    except (KeyError, TypeError, ValueError):
        return
    if moved:
        raise LabelError(
            f"{where}: the point was moved from x={row['x']}, y={row['y']} to x={x}, y={y}; the class of the pixel "
            f"that was asked is needed: put the point back"
        )
