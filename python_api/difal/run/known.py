"""Labels made before a run: of a file, or of an earlier run, which is how a run is begun anew with what it learnt."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from difal.data import Data
from difal.errors import LabelError
from difal.run.directory import RunDirectory
from difal.run.labels import Label, read_labels


def known_labels(path: Path, data: Data, log: Callable[[str], None] = lambda line: None) -> list[Label]:
    """The answered labels of a label file or of a run folder, checked against the pool.

    Of a file, every label has to fit: its image in the pool, its pixel inside it, its image of the size at which it was
    labeled. Of a run, labels that do not fit are left out, since images that were taken out or changed are why a run is
    begun anew; classes go by their names.

    Args:
        path: the file, or the folder of an earlier run.
        data: the pool.
        log: called with a line about labels that are left out.

    Raises:
        LabelError: a label that cannot be used, a class of the run that is not among today's, a folder without a run.
    """
    if path.is_dir():
        return _of_run(path, data, log)
    index = {name: i for i, name in enumerate(data.train.ids)}
    labels = [label for label in read_labels(path, data.classes) if label.answered]
    sizes: dict[str, tuple[int, int]] = {}
    for label in labels:
        if label.image not in index:
            raise LabelError(f"{path}: there is no pool image {label.image!r}; the first is {data.train.ids[0]!r}")
        height, width = _size(data, index, label.image, sizes)
        if (label.height or height, label.width or width) != (height, width):
            raise LabelError(
                f"{path}: pixel x={label.x}, y={label.y} of {label.image} was labeled at "
                f"{label.width} x {label.height} pixels, the image has {width} x {height} now; set --size as it was"
            )
        if not (0 <= label.x < width and 0 <= label.y < height):
            raise LabelError(
                f"{path}: pixel x={label.x}, y={label.y} lies outside of {label.image} ({width} x {height})"
            )
        label.round, label.height, label.width = -1, height, width
    return labels


def _size(data: Data, index: dict[str, int], name: str, known: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """(H, W) of an image, which is decoded once."""
    if name not in known:
        height, width = data.train.image(index[name]).shape[:2]
        known[name] = height, width
    return known[name]


def _of_run(folder: Path, data: Data, log: Callable[[str], None]) -> list[Label]:
    run_dir = RunDirectory(folder)
    if not run_dir.exists:
        raise LabelError(f"`labels` must be a label file, or the folder of a run; {folder} is a folder without a run")
    index = {name: i for i, name in enumerate(data.train.ids)}
    sizes: dict[str, tuple[int, int]] = {}
    kept, lost = [], Counter[str]()
    for label in _answers(run_dir):
        if label.image not in index:
            lost[f"{label.image}, which is not in the pool"] += 1
        elif (label.height, label.width) != (size := _size(data, index, label.image, sizes)):
            lost[f"{label.image}, which had {label.width} x {label.height} pixels and has {size[1]} x {size[0]}"] += 1
        else:
            kept.append(dataclasses.replace(label, round=-1, class_id=_today(label, data.classes, folder)))
    log(f"labels of {folder}: {len(kept)} are used")
    for what, count in lost.items():
        log(f"labels of {folder}: {count} are not used, of {what}")
    return kept


def _answers(run_dir: RunDirectory) -> list[Label]:
    """Every answer of a run's finished rounds, and those from before it."""
    finished = [entry for entry in run_dir.rounds() if entry.has("labels.jsonl")]
    return [label for label in run_dir.queried(len(finished), run_dir.known()) if label.answered]


def _today(label: Label, classes: Sequence[str], folder: Path) -> int | None:
    if label.class_id is None:
        return None
    if label.class_name is None or label.class_name not in classes:
        raise LabelError(
            f"{folder} has labels of the class {label.class_name!r}, which is not among the classes "
            f"{', '.join(classes)}; name it as well"
        )
    return list(classes).index(label.class_name)
