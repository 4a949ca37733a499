"""The loop: choose pixels, have them labeled, train a head, test it, and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from difal import __version__
from difal.acquisition import check_acquisition, select, training_dropout
from difal.config import Config
from difal.data import Data, open_config_data
from difal.encoders.lazy import LazyEncoder
from difal.errors import ConfigError, DataError
from difal.features.cache import FeatureCache, Pixel
from difal.features.compute import make_features
from difal.features.test_set import TestSet
from difal.files import crash_point, digest, exclusive
from difal.heads import check_head, train_head
from difal.metrics import summary
from difal.run.directory import Round, RunDirectory
from difal.run.labels import Label, write_label_file
from difal.run.oracles import MaskOracle, PersonOracle, WaitingForLabels, known_labels
from difal.run.pictures import draw_pictures
from difal.timing import StageClock

Status = Literal["done", "waiting"]


def run(
    config: Config,
    *,
    resume: bool = False,
    data: Data | None = None,
    encoder=None,
    say: Callable[[str], None] = print,
) -> Status:
    """Run the rounds that are not done yet.

    Args:
        config: every setting; `config.run_folder()` is the run folder.
        resume: go on with the run that is in the folder.
        data: the pool and test set, instead of opening `config.data`.
        encoder: an encoder (see `difal.encoders`), instead of loading `config.encoder` when it is needed.
        say: gets a line of text per event.

    Returns:
        "done", or "waiting" when a person has to label the pixels of a round first.

    Raises:
        UserError: something outside the program is wrong; the message names it and the cure.
    """
    check_acquisition(config.acquisition)
    check_head(config.head)
    data = data or open_config_data(config)
    load_encoder = LazyEncoder(config, encoder)
    _ = load_encoder.weights  # an encoder that is not there is told before a folder is made
    run_dir = RunDirectory(config.run_folder())
    if resume and not run_dir.exists:
        raise ConfigError(f"there is no run to resume in {run_dir.folder}")
    with exclusive(run_dir.folder):
        if run_dir.begun and not resume:
            raise ConfigError(f"{run_dir.folder} holds a run; go on with --resume, or choose another --out")
        return Loop(config, run_dir, data, load_encoder, say, resume).run()


class Loop:
    """One run in its folder."""

    def __init__(
        self,
        config: Config,
        run_dir: RunDirectory,
        data: Data,
        load_encoder: LazyEncoder,
        say: Callable[[str], None],
        resume: bool,
    ):
        self.config, self.run_dir, self.data, self.say = config, run_dir, data, say
        self.index = {name: i for i, name in enumerate(self.data.train.ids)}
        self.clock = StageClock()
        self.load_encoder = load_encoder
        self._check_weights()
        self._check_data()
        self.known = self._known_labels(resume)
        run_dir.note(
            version=__version__,
            data=self.data.name,
            pool=self._pool(),
            classes=list(self.data.classes),
            colors=self.data.colors.tolist(),
            images=len(self.data.train),
            test_images=len(self.data.test) if self.data.test else 0,
            weights=self.load_encoder.weights,
            budget=config.round_budget(len(self.data.train)),
        )
        run_dir.begin(config)  # last: a folder with a configuration has all that others read

    def run(self) -> Status:
        oracle = self._oracle()
        self.cache, self.test = self._features()
        asked = list(self.known)
        for index in range(self.config.rounds):
            entry = self.run_dir.round(index)
            labels = self._ask(entry, asked, oracle)
            if labels is None:
                return "waiting"
            if not labels:
                self.say(f"round {index}: no pixel is left to ask; the run ends here")
                break
            asked += labels
            self._train(entry, asked)
            if self.test and self.test.cached:
                self._evaluate([entry], asked)
            entry.add_stages(self.clock)
            self._tell(entry, asked)
        self._evaluate_late()
        self._draw()
        return "done"

    def _check_weights(self) -> None:
        before, now = self.run_dir.facts().get("weights"), self.load_encoder.weights
        if before not in (None, now):
            raise ConfigError(
                f"the encoder {self.config.encoder!r} has other weights than when the run began (digest {now}, was "
                f"{before}); put the old ones back, or start another run with another --out"
            )

    def _pool(self) -> str:
        return digest(self.data.train.fingerprint())

    def _check_data(self) -> None:
        """Labels name images and classes by their place in the list, so neither list may change under a run."""
        before = self.run_dir.facts() if self.run_dir.begun else {}
        classes = list(self.data.classes)
        if before.get("classes") not in (None, classes):
            raise ConfigError(
                f"the classes were {', '.join(before['classes'])} when the run began and are {', '.join(classes)} now; "
                f"put them back, or start another run with another --out"
            )
        if before.get("pool") not in (None, self._pool()):
            raise ConfigError(
                f"the pool has changed since the run began ({before['images']} images then, {len(self.data.train)} "
                f"now; names and file sizes count): put it back as it was, or start another run with another --out"
            )

    def _features(self) -> tuple[FeatureCache, TestSet | None]:
        given = [self._pixel(label) for label in self.known]
        folder = Path(self.config.cache) if self.config.cache else self.run_dir.feature_folder()
        cache, test = make_features(self.config, self.data, self.load_encoder, folder, given)
        stages = {"pool": cache.meta["stages"], **({"test": test.meta["stages"]} if test else {})}
        self.run_dir.note(feature_stages=stages, dimension=cache.dimension)
        return cache, test

    def _oracle(self):
        kind = self.config.oracle
        if kind == "masks" and not self.data.train.has_masks:
            raise DataError(f"{self.config.data} has no masks for the pool; add them, or use --oracle person")
        if kind == "masks" or (kind == "auto" and self.data.train.has_masks):
            return MaskOracle(self.data)
        return PersonOracle(self.data, self.run_dir.folder)

    def _known_labels(self, resume: bool) -> list[Label]:
        """Labels from before the run; a copy is kept, so that the run does not hang on the file."""
        if self.config.labels is None:
            return []
        copy = self.run_dir.folder / "known.jsonl"
        if resume and copy.is_file():
            return known_labels(copy, self.data)
        labels = known_labels(Path(self.config.labels), self.data)
        write_label_file(copy, labels)
        return labels

    def _pixel(self, label: Label) -> Pixel:
        return Pixel(self.index[label.image], label.y, label.x)

    def _ask(self, entry: Round, asked: list[Label], oracle) -> list[Label] | None:
        """The round's answers, from its file or the oracle; None if a person has to answer first."""
        if entry.has("labels.jsonl"):
            return entry.labels()
        if not entry.has("picks.jsonl"):
            picks = self._select(entry, asked)
            if not picks:
                return []
            entry.write_labels("picks", picks)
            crash_point("picks")
        picks = entry.picks()
        try:
            with self.clock("oracle"):
                labels = oracle.answer(picks)
        except WaitingForLabels as waiting:
            entry.add_stages(self.clock)
            self.say(str(waiting))
            return None
        entry.write_labels("labels", labels)
        crash_point("labels")
        if isinstance(oracle, PersonOracle):
            oracle.done()
        return labels

    def _select(self, entry: Round, asked: list[Label]) -> list[Label]:
        head = self.run_dir.round(entry.index - 1).head() if entry.index else None
        places = [self._pixel(label) for label in asked]
        budget = self.config.round_budget(len(self.data.train))
        classes = len(self.data.classes)
        skipped = [label.skipped for label in asked]
        chosen = select(self.cache, head, places, budget, entry.index, self.config, self.clock, classes, skipped)
        return [
            Label(
                id=f"{entry.index:03d}-{rank:05d}",
                image=self.data.train.ids[pixel.image],
                x=pixel.column,
                y=pixel.row,
                height=self.cache.size(pixel.image)[0],
                width=self.cache.size(pixel.image)[1],
                round=entry.index,
                rank=rank,
                score=score,
            )
            for rank, (pixel, score) in enumerate(zip(chosen.pixels, chosen.scores, strict=True))
        ]

    def _train(self, entry: Round, asked: list[Label]) -> None:
        usable = [label for label in asked if label.class_id is not None]
        if entry.has("head.safetensors") or not usable:
            return
        with self.clock("training"):
            features = self.cache.features_of([self._pixel(label) for label in usable])
            targets = np.array([label.class_id for label in usable])
            context = self.cache.context()
            dropout = training_dropout(self.config)
            head = train_head(
                features, targets, context, len(self.data.classes), self.config, entry.index, dropout=dropout
            )
        head.save(entry.folder / "head.safetensors")
        crash_point("head")

    def _evaluate(self, entries: list[Round], asked: list[Label]) -> None:
        """Test the heads of rounds that have one and no metrics yet."""
        entries = [entry for entry in entries if entry.has("head.safetensors") and not entry.has("metrics.json")]
        if not entries:
            return
        note = f"test, round {entries[0].index}" if len(entries) == 1 else f"test, {len(entries)} heads"
        with self.clock("testing"):
            counts = self.test.evaluate([entry.head() for entry in entries], len(self.data.classes), note)
        for entry, count in zip(entries, counts, strict=True):
            labels = [label for label in asked if label.round <= entry.index]
            skipped = sum(label.skipped for label in labels)
            facts = {"round": entry.index, "asked": len(labels), "labeled": len(labels) - skipped}
            facts["test_pixels"] = int(count.sum())
            entry.write_metrics({**facts, **summary(count)})
            crash_point("metrics")

    def _evaluate_late(self) -> None:
        """Test all rounds' heads in one pass over the UNet, where its maps were too large to keep."""
        if self.test is None or self.test.cached:
            return
        entries = self.run_dir.rounds()
        asked = [
            *self.known,
            *(label for entry in entries if entry.has("labels.jsonl") for label in entry.labels()),
        ]
        untested = [entry for entry in entries if not entry.has("metrics.json")]
        self._evaluate(untested, asked)
        for entry in untested:
            self._tell(entry, [label for label in asked if label.round <= entry.index])

    def _tell(self, entry: Round, asked: list[Label]) -> None:
        skipped = sum(label.skipped for label in asked)
        line = f"round {entry.index}: {len(asked)} pixels asked" + (f", {skipped} skipped" if skipped else "")
        if metrics := entry.metrics():
            line += f", test mIoU {100 * metrics['miou']['standard']:.2f} %"
        elif not entry.has("head.safetensors"):
            line += ", none of them with a class: no head yet"
        self.say(line)

    def _draw(self) -> None:
        with self.clock("pictures"):
            draw_pictures(self.run_dir, self.data, self.load_encoder, self.config)
        for entry in self.run_dir.rounds()[-1:]:
            entry.add_stages(self.clock)  # with the late test's, if there was one
