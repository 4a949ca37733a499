"""The run folder: what every round decided, in files that are whole or absent.

    config.yaml                the configuration; `difal run --config` takes it for another run
    run.json                   classes, pool size, versions, time of the feature passes
    known.jsonl                labels given before round 0, if any
    rounds/000/picks.jsonl     queried pixels, best first, with their scores
    rounds/000/labels.jsonl    the same lines with their labels
    rounds/000/corrections.jsonl  earlier rounds' labels that the annotator changed before this round was trained
    rounds/000/classes.json    class names, where the annotator has changed those that the run began with
    rounds/000/merged.json     ids of classes that she merged, and what each is part of
    rounds/000/head.safetensors
    rounds/000/metrics.json    mIoU under both policies, class IoUs, confusion matrix
    rounds/000/stages.json     seconds and peak memory per stage
    annotate/                  of `difal label`: journal of answers, live head, and what belongs to its page
    pictures/                  a few pool images with their maps, for the report
    cache/                      features, unless `cache` names another folder; may be deleted once the run is done

A round's step is done when its file is there, so that a run killed at any moment goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from difal.config import Config, read_yaml
from difal.encoders.loading import encoder_names
from difal.errors import ConfigError, LabelError
from difal.files import digest_file, read_json, write_json, write_text
from difal.heads import Head, load_head, made_of
from difal.run.labels import Label, count_lines, labels_digest, read_labels, write_label_file
from difal_kernels._words import counted

# The settings that run folders of earlier versions lack, as those versions had them.
EARLIER = {"head": "mlp", "lift": 0.0, "skips": "ask", "encoder_pixels": 0}


def _read_object(path: Path, cure: str) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold an object {{...}}; {cure}")
    return found


def _whole(path: Path, found: list[Label], written: int, cure: str = "") -> list[Label]:
    """The labels of a file that was written whole, or a LabelError where lines of it are lost."""
    if len(found) < written:
        held = f"holds {len(found)} of the {counted(written, 'line')} that were written" if written > 1 else "is empty"
        raise LabelError(f"{path} {held}; put back a copy of the file{cure}")
    return found


class RunDirectory:
    """Reads and writes one run folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        return (self.folder / "config.yaml").is_file()

    @property
    def begun(self) -> bool:
        """Whether there is anything to lose: the first picks."""
        return (self.folder / "rounds/000/picks.jsonl").is_file()

    def begin(self, config: Config) -> None:
        write_text(self.folder / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))

    def config(self) -> dict[str, Any]:
        """The run's settings, with files and folders where they were when it began, whatever the working directory."""
        if not self.exists:
            raise ConfigError(f"{self.folder} is no run folder: it holds no config.yaml")
        values = {**EARLIER, **read_yaml(self.folder / "config.yaml")}
        return at_their_place(values, self.facts().get("paths", {}))

    def facts(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        return _read_object(path, "restore it, or start another run with another --out") if path.is_file() else {}

    def note(self, **facts: Any) -> None:
        """Add facts about the run to run.json."""
        old = self.facts()
        if {**old, **facts} != old:
            write_json(self.folder / "run.json", {**old, **facts})

    def feature_folder(self) -> Path:
        """Where the run's own features are, if no other folder was named; earlier versions called it `bank`."""
        earlier = self.folder / "bank"
        return earlier if earlier.is_dir() else self.folder / "cache"

    def round(self, index: int) -> Round:
        facts = self.facts()
        return Round(self.folder / "rounds" / f"{index:03d}", tuple(classes_at_start(facts) or ()))

    @property
    def live_head_file(self) -> Path:
        return self.folder / "annotate" / "head.safetensors"

    @property
    def known_file(self) -> Path:
        """The run's copy of the labels from before it, so that it does not depend on the user's file."""
        return self.folder / "known.jsonl"

    def write_known(self, labels: list[Label]) -> None:
        self.known_file.unlink(missing_ok=True)  # with the number of its lines in run.json it is that number's file
        self.note(known=len(labels))
        write_label_file(self.known_file, labels)

    def forget_known(self) -> None:
        self.known_file.unlink(missing_ok=True)
        if "known" in self.facts():
            self.note(known=0)

    def known(self, classes: Sequence[str] | None = None) -> list[Label]:
        """The labels from before the run, by the classes that it began with unless others are given."""
        names = (classes_at_start(self.facts()) or ()) if classes is None else classes
        return self.all_known(read_labels(self.known_file, names) if self.known_file.is_file() else [])

    def all_known(self, found: list[Label]) -> list[Label]:
        """What was read of `known_file`; a LabelError if some of it is lost."""
        cure = ", or delete it and resume the run, which copies those that --labels named"
        return _whole(self.known_file, found, self.facts().get("known", 0), cure)

    def queried(self, rounds: int, known: Sequence[Label]) -> list[Label]:
        """The labels from before the run and of its first rounds, corrected as they were when the last was labeled."""
        labels = list(known)
        for entry in map(self.round, range(rounds)):
            labels = entry.corrected(labels) + entry.labels()
        return labels

    def live_head(self) -> Head | None:
        """The head that `difal label` trained on every answer, in a round or not; None if there is none."""
        return load_head(self.live_head_file) if self.live_head_file.is_file() else None

    def rounds(self) -> list[Round]:
        """The rounds with picks, in order."""
        found: list[Round] = []
        while (entry := self.round(len(found))).has("picks.jsonl"):
            found.append(entry)
        return found


class Round:
    """One round's files."""

    def __init__(self, folder: Path, classes: tuple[str, ...]):
        self.folder, self._classes, self.index = folder, classes, int(folder.name)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names when the round was labeled: an annotator may have changed those that the run began with."""
        return tuple(read_json(self.folder / "classes.json")) if self.has("classes.json") else self._classes

    @property
    def merged(self) -> dict[int, int]:
        """The classes that the annotator had merged when the round was labeled, and what each is part of."""
        found = read_json(self.folder / "merged.json") if self.has("merged.json") else {}
        return {int(class_id): into for class_id, into in found.items()}

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def picks(self) -> list[Label]:
        """The queried pixels.

        Raises:
            LabelError: lines of the file are lost.
        """
        cure = "" if self.has("labels.jsonl") else ", or delete it and resume the run, which chooses the pixels again"
        return self._read("picks.jsonl", max(1, self._lines("labels.jsonl")), cure)

    def labels(self) -> list[Label]:
        """The queried pixels with their labels.

        Raises:
            LabelError: lines of the file are lost.
        """
        cure = ", or delete it and resume the run, which has the round's pixels labeled again"
        return self._read("labels.jsonl", max(1, self._lines("picks.jsonl")), cure)

    def corrected(self, labels: list[Label]) -> list[Label]:
        """Earlier labels, with those that the annotator changed before this round was trained."""
        if not self.has("corrections.jsonl"):
            return labels
        changed = {label.place: label for label in self._read("corrections.jsonl", 1)}
        return [changed.get(label.place, label) for label in labels]

    def _read(self, name: str, written: int, cure: str = "") -> list[Label]:
        path = self.folder / name
        return _whole(path, read_labels(path, self.classes), written, cure)

    def _lines(self, name: str) -> int:
        """The lines of a label file of the round, of which each has one for every pixel; 0 if it is not there."""
        return count_lines(self.folder / name) if self.has(name) else 0

    def write_classes(self, classes: Sequence[str], merged: Mapping[int, int]) -> None:
        if merged:
            write_json(self.folder / "merged.json", {str(class_id): into for class_id, into in merged.items()})
        write_json(self.folder / "classes.json", list(classes))

    def write_labels(self, name: str, labels: list[Label]) -> None:
        write_label_file(self.folder / f"{name}.jsonl", labels)

    def head(self) -> Head:
        return load_head(self.folder / "head.safetensors")

    def is_trained_on(self, labels: Sequence[Label]) -> bool:
        """Whether the head is one of these labels; heads of earlier versions do not say."""
        return made_of(self.folder / "head.safetensors") in (None, labels_digest(labels))

    def head_digest(self) -> str | None:
        return digest_file(self.folder / "head.safetensors") if self.has("head.safetensors") else None

    def is_untested(self, test: str) -> bool:
        """Whether there is a head, and no test of this head on the test set of digest `test`."""
        if not self.has("head.safetensors"):
            return False
        metrics = self.metrics()
        return metrics is None or metrics.get("made_of", {}).get("test", test) != test

    def metrics(self) -> dict | None:
        """The test of the round's head, under today's names: earlier versions wrote `asked` for `queried`.

        None where there is none, or only one of another head.
        """
        if not self.has("metrics.json"):
            return None
        metrics = _read_object(self.folder / "metrics.json", "restore or delete it")
        tested = metrics.get("made_of", {}).get("head")
        if tested is not None and self.has("head.safetensors") and tested != self.head_digest():
            return None
        return {"queried" if name == "asked" else name: value for name, value in metrics.items()}

    def write_metrics(self, metrics: dict) -> None:
        write_json(self.folder / "metrics.json", metrics)

    def stages(self) -> dict:
        return read_json(self.folder / "stages.json") if self.has("stages.json") else {}

    def add_stages(self, clock) -> None:
        if clock.seconds:
            totals = self.stages()
            clock.add_to(totals)
            write_json(self.folder / "stages.json", totals)


def absolute_paths(config: Config) -> dict[str, str]:
    """The settings that name files or folders, as absolute paths."""
    given = {name: getattr(config, name) for name in ("data", "encoder", "cache", "labels")}
    if config.data.partition(":")[0] == "scenes":
        del given["data"]
    if config.encoder in encoder_names():
        del given["encoder"]
    return {name: str(Path(path).resolve()) for name, path in given.items() if path and Path(path).exists()}


def at_their_place(values: dict[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """Settings with the absolute `paths` that are there, in place of those relative to another working directory."""
    elsewhere = {
        name: path
        for name, path in paths.items()
        if values.get(name) and Path(path).exists() and Path(values[name]).resolve() != Path(path)
    }
    return {**values, **elsewhere}


def classes_at_start(facts: dict[str, Any]) -> list[str] | None:
    """The class names with which a run began, of the facts in its run.json; `classes` are those of today."""
    return facts.get("classes_at_start", facts.get("classes"))
