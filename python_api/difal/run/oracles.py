"""Who answers "which class is this pixel?": the masks, or a person by way of a file."""

from __future__ import annotations

import dataclasses
import io
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from difal.data import IGNORE, Data
from difal.data.readers import IMAGE_ENDINGS
from difal.errors import LabelError
from difal.files import write_bytes, write_text
from difal.run.labels import Label, read_labels, to_csv, to_jsonl, to_label_studio

LONG_SIDE = 1024  # pixels of a picture to label by, at least


class WaitingForLabels(Exception):
    """A person has to answer before the run can go on; the message says where and how."""


class Oracle(Protocol):
    """Who answers a round's picks."""

    def answer(self, picks: Sequence[Label]) -> list[Label]:
        """The answered picks; raises `WaitingForLabels` while there is none for some of them."""
        ...

    def done(self) -> None:
        """Called once the answers are kept in the run directory."""
        ...


class MaskOracle:
    """Answers from the pool's masks. A void pixel is skipped: no class fits it."""

    def __init__(self, data: Data):
        self.data, self.index = data, {name: i for i, name in enumerate(data.train.ids)}

    def answer(self, picks: Sequence[Label]) -> list[Label]:
        answers: list[Label | None] = [None] * len(picks)
        for name in dict.fromkeys(pick.image for pick in picks):  # each mask is read once
            mask = self.data.train.mask(self.index[name])
            for at, pick in enumerate(picks):
                if pick.image == name:
                    answers[at] = self._fill(pick, int(mask[pick.y, pick.x]))
        return answers

    def done(self) -> None:
        pass

    def _fill(self, pick: Label, class_id: int) -> Label:
        if class_id == IGNORE:
            return dataclasses.replace(pick, annotator="masks", skipped=True)
        return dataclasses.replace(pick, annotator="masks", class_id=class_id, class_name=self.data.classes[class_id])


class PersonOracle:
    """Writes `to_label.jsonl` (also `.csv` and Label Studio tasks) and pictures, and reads the answers back."""

    def __init__(self, data: Data, folder: Path):
        self.data, self.folder = data, folder
        self.index = {name: i for i, name in enumerate(data.train.ids)}

    @property
    def files(self) -> dict[str, Path]:
        names = {"jsonl": "to_label.jsonl", "csv": "to_label.csv", "studio": "to_label.labelstudio.json"}
        return {kind: self.folder / name for kind, name in names.items()} | {"pictures": self.folder / "to_label"}

    def answer(self, picks: Sequence[Label]) -> list[Label]:
        """The answered picks.

        Raises:
            WaitingForLabels: not all are answered; the files to fill in are there.
            LabelError: a line cannot be used.
        """
        answers = self.filled_in(picks)
        if answers is None:
            self._draw(picks)
            answers = list(picks)
            self._write(answers)
        waiting = sum(not answer.answered for answer in answers)
        if waiting:
            if not self._whole(picks):
                self._write(answers)
            classes = ", ".join(f"{i} {name}" for i, name in enumerate(self.data.classes))
            raise WaitingForLabels(
                f"{waiting} of {len(picks)} pixels of round {picks[0].round} wait for their class.\n"
                f"  look    {self.files['pictures']}/ (number n: line n of the .jsonl, row n + 1 of the .csv)\n"
                f"  answer  {self.files['jsonl']} or .csv: set class_id ({classes}),\n"
                f"          or skipped to true where no class fits\n"
                f"  go on   difal run --resume {shlex.quote(str(self.folder))}"
            )
        return answers

    def done(self) -> None:
        """Take the question away once its answers are kept elsewhere."""
        for path in self.files.values():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def filled_in(self, picks: Sequence[Label]) -> list[Label] | None:
        """The picks with what was filled in so far, None if nothing was asked yet.

        Where both files answer a pixel, that with more answers counts.
        """
        by_place = {pick.place: pick for pick in picks}
        filled: list[list[Label]] = []
        for path in (self.files["jsonl"], self.files["csv"]):
            if not path.is_file() or self._is_of_earlier_round(path, picks[0].round):
                continue
            found = {label.place: label for label in read_labels(path, self.data.classes, by_place)}
            filled.append([self._merge(pick, found.get(place)) for place, pick in by_place.items()])
        filled.sort(key=lambda answers: -sum(answer.answered for answer in answers))
        return [next((one for one in same if one.answered), same[0]) for same in zip(*filled, strict=True)] or None

    def _is_of_earlier_round(self, path: Path, round_index: int) -> bool:
        """A run killed between keeping a round's answers and taking its question away leaves the question."""
        first = read_labels(path, self.data.classes)[:1]
        return bool(first) and 0 <= first[0].round < round_index

    @staticmethod
    def _merge(pick: Label, answer: Label | None) -> Label:
        if answer is None:
            return pick
        kept = ("class_id", "class_name", "annotator", "seconds", "skipped")
        return dataclasses.replace(pick, **{name: getattr(answer, name) for name in kept})

    def _whole(self, picks: Sequence[Label]) -> bool:
        """Whether both files still have a line for every pick; one that was deleted could never be answered."""
        paths = (self.files["jsonl"], self.files["csv"])
        return all(path.is_file() and len(read_labels(path, self.data.classes)) == len(picks) for path in paths)

    def _draw(self, picks: Sequence[Label]) -> None:
        shutil.rmtree(self.files["pictures"], ignore_errors=True)  # of an earlier round, where the run was killed
        names = _file_names(dict.fromkeys(pick.image for pick in picks))
        for name in names:
            points = [(pick.rank + 1, pick.x, pick.y) for pick in picks if pick.image == name]
            picture = mark(self.data.train.image(self.index[name]), points)
            write_bytes(self.files["pictures"] / f"{names[name]}.png", to_png(picture))

    def _write(self, picks: Sequence[Label]) -> None:
        write_text(self.files["csv"], to_csv(picks))
        write_text(self.files["studio"], to_label_studio(picks))
        write_text(self.files["jsonl"], to_jsonl(picks))


def _file_names(ids: Iterable[str]) -> dict[str, str]:
    """A file name for each image id: flat, and less the image's ending unless that is what tells two apart."""
    flat = {name: name.replace("/", "__") for name in ids}
    bare = {
        name: Path(text).stem if Path(text).suffix.lower() in IMAGE_ENDINGS else text for name, text in flat.items()
    }
    counts = Counter(bare.values())
    return {name: bare[name] if counts[bare[name]] == 1 else text for name, text in flat.items()}


def mark(image: np.ndarray, points: Sequence[tuple[int, int, int]], long_side: int = LONG_SIDE) -> Image.Image:
    """The image, enlarged, with a numbered ring and cross hairs around each (number, x, y), the pixel itself free."""
    zoom = max(1, -(-long_side // max(image.shape[:2])))
    picture = Image.fromarray(image).resize((image.shape[1] * zoom, image.shape[0] * zoom), Image.Resampling.NEAREST)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=22)
    for number, x, y in points:
        u, v, ring = (x + 0.5) * zoom, (y + 0.5) * zoom, max(12, 2 * zoom)
        for width, color in ((5, "black"), (2, "yellow")):
            draw.ellipse((u - ring, v - ring, u + ring, v + ring), outline=color, width=width)
            for du, dv in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                far = ring + 14
                draw.line((u + du * ring, v + dv * ring, u + du * far, v + dv * far), fill=color, width=width)
        right = u < picture.width - 60
        place = (u + ring + 8 if right else u - ring - 8, v - ring - 4 if v > 40 else v + ring + 4)
        anchor = ("l" if right else "r") + ("d" if v > 40 else "a")
        draw.text(place, str(number), fill="yellow", font=font, anchor=anchor, stroke_width=3, stroke_fill="black")
    return picture


def to_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def known_labels(path: Path, data: Data) -> list[Label]:
    """Labels made before the run, checked against the pool: each image known, each pixel inside it."""
    index = {name: i for i, name in enumerate(data.train.ids)}
    labels = [label for label in read_labels(path, data.classes) if label.answered]
    sizes: dict[str, tuple[int, int]] = {}
    for label in labels:
        if label.image not in index:
            raise LabelError(f"{path}: there is no pool image {label.image!r}; the first is {data.train.ids[0]!r}")
        if label.image not in sizes:
            sizes[label.image] = data.train.image(index[label.image]).shape[:2]
        height, width = sizes[label.image]
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
