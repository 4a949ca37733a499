"""Label Studio: a task for each image with all its labeled pixels, and such an export read back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from difal.annotate.classes import Classes
from difal.data.base import distinct_colors
from difal.errors import LabelError
from difal.run.label_studio import address, read_tasks, to_labeling_config
from difal.run.labels import Label, label_studio_point


def labeling_config(classes: Classes) -> str:
    """The labeling configuration for a project whose tasks are those of `to_tasks`."""
    colors = distinct_colors(len(classes.names)).tolist()
    return to_labeling_config([classes.names[i] for i in classes.open], [colors[i] for i in classes.open], skip=False)


def to_tasks(labels: Sequence[Label], prefix: str = "") -> str:
    """A task for each image, its labeled pixels as one annotation; pixels without a class are left out.

    Args:
        labels: answered pixels.
        prefix: put before the image's name to make its address.
    """
    by_image: dict[str, list[Label]] = {}
    for label in labels:
        if label.class_id is not None:
            by_image.setdefault(label.image, []).append(label)
    tasks = [
        {
            "data": {"image": address(name, prefix), "image_id": name},
            "annotations": [{"result": [{"id": label.id, **label_studio_point(label)} for label in here]}],
        }
        for name, here in by_image.items()
    ]
    return json.dumps(tasks, indent=1, ensure_ascii=False) + "\n"


def read_export(path: str | Path, images: Sequence[str], classes: Sequence[str]) -> list[Label]:
    """The key points of a Label Studio export in JSON, as labels.

    Args:
        path: the file.
        images: ids of the pool's images. A task says which it is about by `data.image_id`, or by how `data.image` ends.
        classes: class names.

    Raises:
        LabelError: the file, a task, an image or a class cannot be used; names it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise LabelError(f"{path} is not UTF-8 text; export the project as JSON") from None
    found: dict[tuple, Label] = {}
    for number, task in enumerate(read_tasks(text, Path(path)), 1):
        where = f"{path} task {number}"
        try:
            name = _image_of(task["data"], images, where)
            for annotation in task.get("annotations", ()):
                if annotation.get("was_cancelled"):
                    continue
                for result in annotation["result"]:
                    if result["type"] == "keypointlabels":
                        label = _label(result, name, classes, where)
                        found[label.place] = label
        except (KeyError, TypeError, AttributeError) as error:
            raise LabelError(f"{where} is not as Label Studio writes it ({type(error).__name__}: {error})") from None
    return list(found.values())


def _image_of(data: dict, images: Sequence[str], where: str) -> str:
    if data.get("image_id") in images:
        return data["image_id"]
    given = unquote(str(data["image"]))
    fitting = [name for name in images if given.endswith(name) or Path(given).stem == name]
    if not fitting:
        raise LabelError(f"{where} is about {given!r}, which is no image of the pool; the first is {images[0]!r}")
    return max(fitting, key=len)


def _label(result: dict, name: str, classes: Sequence[str], where: str) -> Label:
    value, named = result["value"], result["value"]["keypointlabels"]
    if len(named) != 1 or named[0] not in classes:
        raise LabelError(f"{where} has the class {', '.join(map(str, named))!r}; the classes are {', '.join(classes)}")
    width, height = int(result["original_width"]), int(result["original_height"])
    x, y = math.floor(float(value["x"]) * width / 100), math.floor(float(value["y"]) * height / 100)
    if not (0 <= x < width and 0 <= y < height):
        raise LabelError(f"{where}: the point x={x}, y={y} lies outside of its image ({width} x {height})")
    class_id = list(classes).index(named[0])
    return Label(
        id=f"studio-{name}-{x}-{y}",
        image=name,
        x=x,
        y=y,
        height=height,
        width=width,
        round=-1,
        rank=-1,
        class_id=class_id,
        class_name=named[0],
    )
