"""Who answers "which class is this pixel?": the masks, or a person by way of a file."""

from __future__ import annotations

import dataclasses
import io
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from difal.data import IGNORE, Data
from difal.data.listing import IMAGE_ENDINGS
from difal.errors import LabelError
from difal.files import write_bytes, write_text
from difal.run import label_studio
from difal.run.labels import Label, Place, read_labels, to_csv, to_jsonl, to_label_studio
from difal.run.marks import mark, three_scales, to_jpeg

PIXELS = "pixels"  # the folder of the pictures of single pixels


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
        answers = list(picks)
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

    def __init__(self, data: Data, folder: Path, image_prefix: str = ""):
        self.data, self.folder, self.image_prefix = data, folder, image_prefix
        self.index = {name: i for i, name in enumerate(data.train.ids)}

    @property
    def files(self) -> dict[str, Path]:
        names = {
            "jsonl": "to_label.jsonl",
            "csv": "to_label.csv",
            "studio": "to_label.labelstudio.json",
            "studio config": "to_label.labelstudio.xml",
            "pictures": "to_label",
        }
        return {kind: self.folder / name for kind, name in names.items()}

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
            pictures = self.files["pictures"]
            raise WaitingForLabels(
                f"{waiting} of {len(picks)} pixels of round {picks[0].round} wait for their class.\n"
                f"  look    {pictures}/ (number n: line n of the .jsonl, row n + 1 of the .csv); each pixel close:\n"
                f"          {pictures / PIXELS}/\n"
                f"  answer  {self.files['jsonl']} or .csv: set class_id ({classes}),\n"
                f"          or skipped to true where no class fits\n"
                f"  go on   difal run --resume {shlex.quote(str(self.folder))}"
            )
        return answers

    def done(self) -> None:
        """Take the question away once its answers are kept elsewhere."""
        for path in self.files.values():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def check_answered(self, labels: Sequence[Label]) -> None:
        """Take away what a killed run leaves of a round that is done; refuse to drop another answer in it.

        Args:
            labels: every answer that the run keeps.

        Raises:
            LabelError: a file answers a pixel of a finished round in another way.
        """
        kept = {label.place: label for label in labels}
        for path in self._answer_files():
            found = read_labels(path, self.data.classes)
            if any(label.place not in kept for label in found):
                continue  # of the round that waits
            for number, label in enumerate(found, 1):
                if label.answered and _outcome(label) != _outcome(kept[label.place]):
                    raise LabelError(
                        f"{path}, entry {number}: pixel x={label.x}, y={label.y} of {label.image} was answered before, "
                        f"{_outcome(kept[label.place])}, and is {_outcome(label)} here; a round that is done is not "
                        f"changed: delete the file"
                    )
            path.unlink()

    def _answer_files(self) -> list[Path]:
        """The files that may hold answers."""
        unread = [
            path for path in self.folder.glob("to_label.*") if path.suffix in (".xlsx", ".xls", ".ods", ".numbers")
        ]
        if unread:
            raise LabelError(f"{unread[0]} is not read; save the sheet as CSV, to {self.files['csv']}, and delete it")
        others = [self.folder / name for name in ("to_label.tsv", "to_label.txt")]
        return [
            path for path in (*(self.files[kind] for kind in ("jsonl", "csv", "studio")), *others) if path.is_file()
        ]

    def filled_in(self, picks: Sequence[Label]) -> list[Label] | None:
        """The picks with what was filled in so far in any of the files, None if nothing was asked yet.

        Raises:
            LabelError: a line cannot be used, or two files answer a pixel in different ways.
        """
        by_place = {pick.place: pick for pick in picks}
        answers: dict[Place, tuple[Path, Label]] = {}
        asked = False
        for path in self._answer_files():
            if self._is_of_earlier_round(path, picks[0].round):
                continue
            asked = True
            for label in read_labels(path, self.data.classes, by_place):
                before = answers.get(label.place)
                if label.answered and before and _outcome(before[1]) != _outcome(label):
                    raise LabelError(
                        f"pixel x={label.x}, y={label.y} of {label.image} is {_outcome(before[1])} in {before[0]} and "
                        f"{_outcome(label)} in {path.name}; make them agree, or delete one of the files"
                    )
                if label.answered and not before:
                    answers[label.place] = (path, label)
        if not asked:
            return None
        return [self._merge(pick, answers[place][1] if place in answers else None) for place, pick in by_place.items()]

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
            here = [pick for pick in picks if pick.image == name]
            image = self.data.train.image(self.index[name])
            picture = mark(image, [(pick.rank + 1, pick.x, pick.y) for pick in here])
            write_bytes(self.files["pictures"] / f"{names[name]}.jpg", to_jpeg(picture))
            for pick in here:
                close = to_jpeg(three_scales(image, pick.x, pick.y))
                write_bytes(self.files["pictures"] / PIXELS / f"{pick.rank + 1:04d}.jpg", close)

    def _write(self, picks: Sequence[Label]) -> None:
        config = label_studio.to_labeling_config(self.data.classes, np.asarray(self.data.colors).tolist())
        write_text(self.files["csv"], to_csv(picks))
        write_text(self.files["studio config"], config)
        write_text(self.files["studio"], to_label_studio(picks, self.image_prefix))
        write_text(self.files["jsonl"], to_jsonl(picks))


def _outcome(label: Label) -> str:
    return "skipped" if label.skipped else str(label.class_name)


def _file_names(ids: Iterable[str]) -> dict[str, str]:
    """A file name for each image id: flat, and less the image's ending unless that is what tells two apart."""
    flat = {name: name.replace("/", "__") for name in ids}
    bare = {
        name: Path(text).stem if Path(text).suffix.lower() in IMAGE_ENDINGS else text for name, text in flat.items()
    }
    counts = Counter(bare.values())
    return {name: bare[name] if counts[bare[name]] == 1 else text for name, text in flat.items()}


def to_png(picture: Image.Image, texts: Mapping[str, str] | None = None) -> bytes:
    """A PNG file; `texts` are kept in it by their names."""
    buffer, kept = io.BytesIO(), PngInfo()
    for name, text in (texts or {}).items():
        kept.add_text(name, text)
    picture.save(buffer, "PNG", pnginfo=kept)
    return buffer.getvalue()
