"""What an annotated run gives away: label files, masks, COCO, Label Studio."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from difal.annotate.agreement import summary
from difal.annotate.answers import Answers
from difal.annotate.journal import read_journal
from difal.annotate.label_studio import labeling_config, to_tasks
from difal.annotate.live import LiveModel
from difal.annotate.oracle import journal_path
from difal.config import Config
from difal.data import Data
from difal.data.base import distinct_colors
from difal.data.readers import mask_names
from difal.encoders.lazy import LazyEncoder
from difal.errors import ConfigError
from difal.files import write_bytes, write_json, write_text
from difal.run.directory import RunDirectory
from difal.run.labels import to_csv, to_jsonl
from difal.run.oracles import to_png
from difal.run.start import open_run_data

ANSWER_FIELDS = (
    "id", "at", "annotator", "kind", "image", "x", "y", "height", "width", "round", "rank", "class_id", "class_name",
    "reason", "seconds", "guess", "guess_seen", "overlay_seen", "retracted",
)  # fmt: skip


def export_run(run: str | Path, out: str | Path, *, image_prefix: str = "") -> str:
    """Write everything of an annotated run to a folder; see `export`.

    Args:
        run: the run folder.
        out: where to write; files of an earlier export are replaced.
        image_prefix: what Label Studio needs before an image's name, such as `/data/local-files/?d=photos/`.

    Returns:
        A line that says what was written.

    Raises:
        ConfigError: `run` is no run, or nothing in it was annotated.
    """
    run_dir = RunDirectory(Path(run))
    config = Config(**run_dir.config())
    if not journal_path(run_dir.folder).is_file():
        raise ConfigError(f"nothing in {run} was labeled by `difal label`; its labels are in rounds/*/labels.jsonl")
    data = open_run_data(config, run_dir)
    features = Path(config.cache) if config.cache else run_dir.feature_folder()
    model = LiveModel(config, data, LazyEncoder(config), run_dir, features)
    done = export(run_dir, data, model, str(out), image_prefix)
    masks = f"{done['masks']} masks" if done["masks"] else "no masks: no head is trained yet"
    return f"{out}: {done['labels']} labels, {done['skipped']} skipped pixels, {masks}"


def export(run_dir: RunDirectory, data: Data, model: LiveModel, out: str, image_prefix: str = "") -> dict:
    """Write the labels and what the live head makes of them.

    labels.jsonl, labels.csv     every answered pixel once, skipped ones too; `difal run --labels` takes either
    answers.csv                  every answer, with those that were taken back, repeats and other annotators
    agreement.json               how far annotators agree
    classes.json                 names, colours, merged classes
    masks/NAME.png               class ids of every pixel, with the classes' colours; named as `difal predict` does
    coco.json                    the masks, run-length encoded
    label_studio.json, .xml      the labels as annotated tasks, and the labeling configuration
    """
    folder, answers = Path(out), Answers(data.classes)
    answers.add(read_journal(journal_path(run_dir.folder)))
    labels, names = answers.labels(), answers.classes.names
    write_text(folder / "labels.jsonl", to_jsonl(labels))
    write_text(folder / "labels.csv", to_csv(labels))
    write_text(folder / "answers.csv", _answers_csv(answers))
    write_json(folder / "agreement.json", summary(answers, answers.owner or ""))
    write_json(folder / "classes.json", {**answers.classes.as_json(), "colors": distinct_colors(len(names)).tolist()})
    write_text(folder / "label_studio.json", to_tasks(labels, image_prefix))
    write_text(folder / "label_studio.xml", labeling_config(answers.classes))
    colors, coco = distinct_colors(len(names)), Coco(names)
    files = {
        name: folder / "masks" / f"{one}.png" for name, one in zip(data.train.ids, mask_names(data.train), strict=True)
    }
    for name, ids in model.masks():
        picture = Image.fromarray(ids)
        picture.putpalette(colors.tobytes())
        write_bytes(files[name], to_png(picture))
        coco.add(name, ids)
    if coco.images:
        write_json(folder / "coco.json", coco.as_json())
    skipped = sum(label.skipped for label in labels)
    return {"out": out, "masks": len(coco.images), "labels": len(labels) - skipped, "skipped": skipped}


def _answers_csv(answers: Answers) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ANSWER_FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for entry in answers.by_id.values():
        if entry["type"] == "answer":
            class_id = answers.class_of(entry)
            name = None if class_id is None else answers.classes.names[class_id]
            writer.writerow(
                {**entry, "class_id": class_id, "class_name": name, "retracted": entry["id"] in answers.retracted}
            )
    return text.getvalue()


class Coco:
    """COCO's format of instance annotations: one for each class of an image, its pixels run-length encoded.

    A category's id is the class id.
    """

    def __init__(self, names: list[str]):
        self.names = names
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, ids: np.ndarray) -> None:
        """Add an image's mask (H, W)."""
        height, width = ids.shape
        self.images.append({"id": len(self.images) + 1, "file_name": name, "height": height, "width": width})
        for class_id in np.unique(ids):
            inside = ids == class_id
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": len(self.images),
                    "category_id": int(class_id),
                    "segmentation": {"size": [height, width], "counts": run_lengths(inside)},
                    "area": int(inside.sum()),
                    "bbox": [int(side) for side in box],
                    "iscrowd": 1,
                }
            )

    def as_json(self) -> dict:
        categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(self.names)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def run_lengths(inside: np.ndarray) -> list[int]:
    """COCO's uncompressed run-length code of a mask (H, W): down the columns, zeros first.

    Example:
        >>> run_lengths(np.array([[0, 1], [1, 1]], bool))
        [1, 3]
    """
    flat = inside.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return [0, *counts] if flat[0] else counts
