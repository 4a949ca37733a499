"""The loop: choose pixels, have them labeled, train a head, test it, and again.

Under torchrun every rank runs it. Rank 0 alone decides and writes; all ranks work where the images are passed through
the encoder, where heads are tested, and in global herding if that is sharded.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from difal import __version__, parallel
from difal.acquisition import check_acquisition, is_sharded, reads_noise, select, training_dropout
from difal.config import Config
from difal.data import Data
from difal.data.contents import digests
from difal.data.survey import Survey, kept_survey
from difal.earlier_names import renamed_argument
from difal.encoders.lazy import LazyEncoder
from difal.errors import ConfigError, DataError
from difal.features.cache import FeatureCache, Pixel, StaleCache, cache_settings, check_settings, settings_file
from difal.features.compute import SURVEY, check_files, make_features
from difal.features.test_set import TestSet
from difal.files import crash_point, digest
from difal.heads import check_head, train_head
from difal.metrics import merge_classes, summary
from difal.run.directory import Round, RunDirectory, absolute_paths, classes_at_start
from difal.run.known import known_labels
from difal.run.labels import Label, labels_digest, unlabeled, what_is_missing
from difal.run.oracles import MaskOracle, Oracle, PersonOracle, WaitingForLabels
from difal.run.pictures import draw_pictures
from difal.run.start import check_contents, check_several, check_unchanged, open_run_data, pool_files, ranges_of, settle
from difal.timing import StageClock

Status = Literal["done", "waiting"]
LABELED, WAITING, POOL_EMPTY = 0, 1, 2  # how a round's query ended


@renamed_argument("say", "log")
def run(
    config: Config,
    *,
    resume: bool = False,
    data: Data | None = None,
    encoder=None,
    log: Callable[[str], None] = print,
    oracle: Oracle | None = None,
    test_late: bool = False,
) -> Status:
    """Run the rounds that are not done yet; under torchrun every rank calls it.

    Args:
        config: every setting; `config.run_folder()` is the run folder.
        resume: go on with the run that is in the folder.
        data: the pool and test set, instead of opening `config.data`.
        encoder: an encoder (see `difal.encoders`), instead of loading `config.encoder` when it is needed.
        log: called on rank 0 with a line of text per event.
        oracle: who labels the picks, instead of the one that `config.oracle` names.
        test_late: test the heads of all rounds in one pass over the test set at the end, in place of one a round.

    Returns:
        "done", or "waiting" when a person has to label the pixels of a round first.

    Raises:
        UserError: something outside the program is wrong; the message names it and the cure.
    """
    check_acquisition(config.acquisition)
    check_head(config.head)
    run_dir = RunDirectory(config.run_folder())
    if resume and not run_dir.exists:
        raise ConfigError(f"there is no run to resume in {run_dir.folder}")
    _refuse_another_run(run_dir, resume)
    data = data or open_run_data(config, run_dir)
    local = dataclasses.replace(config, device=parallel.own_device(config.device))
    load_encoder = LazyEncoder(local, encoder)
    if run_dir.begun:
        check_unchanged(run_dir.facts(), data, load_encoder)
    else:
        check_several(data.classes)
    surveys: list[Survey] = []
    parallel.on_first_rank(lambda: surveys.append(settle(local, data, run_dir, load_encoder)))
    found = surveys[0] if surveys else None
    with parallel.hold(run_dir.folder):
        _refuse_another_run(run_dir, resume)  # one may have begun meanwhile
        log = log if parallel.rank() == 0 else lambda line: None
        loop = Loop(local, run_dir, data, load_encoder, log, oracle, found, test_late)
        parallel.on_first_rank(lambda: loop.begin(config, resume))
        return loop.run()


def _refuse_another_run(run_dir: RunDirectory, resume: bool) -> None:
    if run_dir.begun and not resume:
        raise ConfigError(f"{run_dir.folder} holds a run; go on with --resume, or choose another --out")


class Loop:
    """One run in its folder."""

    def __init__(
        self,
        config: Config,
        run_dir: RunDirectory,
        data: Data,
        load_encoder: LazyEncoder,
        log: Callable[[str], None],
        oracle: Oracle | None = None,
        found: Survey | None = None,
        test_late: bool = False,
    ):
        self.config, self.run_dir, self.data, self.log, self.found = config, run_dir, data, log, found
        self.test_late = test_late
        self.index = {name: i for i, name in enumerate(data.train.ids)}
        self.budget = config.round_budget(len(data.train))
        self.clock = StageClock()
        self.load_encoder = load_encoder
        self.oracle = oracle or self._oracle()

    def begin(self, config: Config, resume: bool) -> None:
        """Check that an earlier run's data and encoder are unchanged, and write down what this run rests on."""
        if self.run_dir.begun:
            check_unchanged(self.run_dir.facts(), self.data, self.load_encoder)
        if not self.run_dir.begun or self.run_dir.facts().get("pool") != self._pool():
            for line in self.found.lines if self.found else ():
                self.log(line)
        if self.config.labels is None:
            if not self.run_dir.begun:  # what was killed before it began may have left some
                self.run_dir.forget_known()
        elif not (resume and self.run_dir.known_file.is_file()):
            self.run_dir.write_known(known_labels(Path(self.config.labels), self.data, self.log))
        files = self.found.files if self.found else {}
        if self.run_dir.begun:
            check_contents(self.run_dir.facts(), files)
        self._discard_stale_features()
        if isinstance(self.oracle, PersonOracle):
            rounds = [entry for entry in self.run_dir.rounds() if entry.has("labels.jsonl")] if resume else []
            self.oracle.check_answered([label for entry in rounds for label in entry.labels()])
        self.run_dir.note(
            version=__version__,
            data=self.data.name,
            pool=self._pool(),
            paths=absolute_paths(config),
            pool_files=pool_files(self.data, files),
            ranges=ranges_of(self.data),
            **self._class_facts(self.run_dir.facts()),
            images=len(self.data.train),
            test_images=len(self.data.test) if self.data.test else 0,
            weights=self.load_encoder.weights,
            budget=self.budget,
        )
        self.run_dir.begin(config)  # last: a folder with a configuration has all that others read

    def run(self) -> Status:
        """Do the rounds."""
        self._check_same_as_first_rank()
        self.known = self._known()
        self.cache, self.test = self._features()
        sharded = parallel.on_first_rank(lambda: is_sharded(self.config, self.cache))
        self.config = dataclasses.replace(self.config, herding="sharded" if sharded else "one")
        late = self.test is not None and (self.test_late or not self.test.cached)
        for index in range(self.config.rounds):
            entry = self.run_dir.round(index)
            ended = self._query(entry)
            if ended == WAITING:
                return "waiting"
            if ended == POOL_EMPTY:
                self.log(f"round {index}: no pixel is left to query; the run ends here")
                break
            parallel.on_first_rank(partial(self._train, entry))
            if self.test and not late:
                self._evaluate(self.test, [entry])
            parallel.on_first_rank(partial(self._end_round, entry))
        if self.test and late:
            self._evaluate_late(self.test)
        parallel.on_first_rank(self._draw)
        return "done"

    def _class_facts(self, before: dict) -> dict:
        """Names and colours; those of a run whose annotator has changed the classes are the annotator's to write."""
        if "classes_at_start" in before:
            return {}
        return {"classes": list(self.data.classes), "colors": np.asarray(self.data.colors).tolist()}

    def _check_same_as_first_rank(self) -> None:
        facts = self.run_dir.facts()
        facts = {**facts, "classes": classes_at_start(facts)}
        own = {"pool": self._pool(), "classes": list(self.data.classes), "weights": self.load_encoder.weights}
        for name, value in own.items():
            if facts.get(name) != value:
                raise DataError(
                    f"rank 0 has other {name} than this rank, or writes to another {self.run_dir.folder}; "
                    f"let every rank see the same images, encoder and folders"
                )

    def _pool(self) -> str:
        return digest(self.data.train.fingerprint())

    def _known(self) -> list[Label]:
        if self.config.labels is None:
            return []
        return self.run_dir.all_known(known_labels(self.run_dir.known_file, self.data))

    def _feature_folder(self) -> Path:
        return Path(self.config.cache) if self.config.cache else self.run_dir.feature_folder()

    def _discard_stale_features(self) -> None:
        """Remove the run's own features where nothing was queried yet and they were made with other settings."""
        path = settings_file(self._feature_folder() / "pool")
        if self.run_dir.begun or self.config.cache or not path.is_file():
            return
        given = [self._pixel(label) for label in self._known()]
        try:
            noise = reads_noise(self.config)
            check_settings(path, cache_settings(self.config, self.data.train, self.load_encoder, given, noise))
            check_files(self._feature_folder(), self.found or Survey())
        except StaleCache as stale:
            self.log(f"features are made anew: {stale}")
            shutil.rmtree(self._feature_folder())

    def _features(self) -> tuple[FeatureCache, TestSet | None]:
        given = [self._pixel(label) for label in self.known]
        folder = self._feature_folder()
        noise = reads_noise(self.config)
        cache, test = make_features(
            self.config, self.data, self.load_encoder, folder, given, found=self.found, noise=noise
        )
        files = kept_survey(folder / SURVEY).files
        parallel.on_first_rank(lambda: self.run_dir.note(pool_files=pool_files(self.data, files)))
        self.test_digest = digest([digests(files.get(name, {})) for name in ("test", "test masks")])
        stages = {"pool": cache.meta["stages"], **({"test": test.meta["stages"]} if test else {})}
        parallel.on_first_rank(lambda: self.run_dir.note(feature_stages=stages, dimension=cache.dimension))
        return cache, test

    def _oracle(self) -> Oracle:
        kind = self.config.oracle
        if kind == "masks" or (kind == "auto" and self.data.train.has_masks):
            return MaskOracle(self.data)
        return PersonOracle(self.data, self.run_dir.folder, self.config.image_prefix)

    def _pixel(self, label: Label) -> Pixel:
        return Pixel(self.index[label.image], label.y, label.x)

    def _queried(self, rounds: int) -> list[Label]:
        return self.run_dir.queried(rounds, self.known)

    def _query(self, entry: Round) -> int:
        """Have the round's pixels picked and labeled; LABELED, WAITING for a person, or POOL_EMPTY."""
        if parallel.on_first_rank(lambda: not entry.has("picks.jsonl") and not entry.has("labels.jsonl")):
            picks = self._select(entry) if self.config.herding == "sharded" or parallel.rank() == 0 else []
            parallel.on_first_rank(lambda: self._write_picks(entry, picks))
        return parallel.on_first_rank(lambda: self._label(entry))

    def _write_picks(self, entry: Round, picks: list[Label]) -> None:
        if picks:
            entry.write_labels("picks", picks)
            crash_point("picks")

    def _label(self, entry: Round) -> int:
        """Write the picks' labels by the oracle."""
        if entry.has("labels.jsonl"):
            return LABELED
        if not entry.has("picks.jsonl"):
            return POOL_EMPTY
        try:
            with self.clock("oracle"):
                labels = self.oracle.answer(entry.picks())
        except WaitingForLabels as waiting:
            entry.add_stages(self.clock)
            self.log(str(waiting))
            return WAITING
        entry.write_labels("labels", labels)
        crash_point("labels")
        self.oracle.done()
        return LABELED

    def _select(self, entry: Round) -> list[Label]:
        """The round's picks, best first."""
        before = self.run_dir.round(entry.index - 1) if entry.index else None
        head = before.head() if before and before.has("head.safetensors") else None
        labels = self._queried(entry.index)
        queried, known = [self._pixel(label) for label in labels], [label.class_id for label in labels]
        classes = len((before or entry).classes)
        chosen = select(self.cache, head, queried, self.budget, entry.index, self.config, self.clock, classes, known)
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

    def _train(self, entry: Round) -> None:
        usable = [label for label in self._queried(entry.index + 1) if label.class_id is not None]
        if entry.has("head.safetensors"):
            if entry.is_trained_on(usable):
                return
            self.log(f"round {entry.index}: its labels are others than its head was trained on; it is trained again")
        if not usable:
            (entry.folder / "head.safetensors").unlink(missing_ok=True)
            return
        with self.clock("training"):
            features = self.cache.features_of([self._pixel(label) for label in usable])
            targets = np.array([label.class_id for label in usable])
            context = self.cache.context()
            dropout = training_dropout(self.config)
            head = train_head(features, targets, context, len(entry.classes), self.config, entry.index, dropout=dropout)
        head.save(entry.folder / "head.safetensors", labels_digest(usable))
        crash_point("head")

    def _evaluate(self, test: TestSet, entries: list[Round]) -> list[Round]:
        """Test the heads of rounds that have one and no metrics yet; those rounds."""
        entries = [entry for entry in entries if parallel.on_first_rank(partial(entry.is_untested, self.test_digest))]
        if entries:
            note = f"test, round {entries[0].index}" if len(entries) == 1 else f"test, {len(entries)} heads"
            classes = max(len(entry.classes) for entry in entries)
            with self.clock("testing"):
                counts = test.evaluate([entry.head() for entry in entries], classes, note)
            parallel.on_first_rank(lambda: self._write_metrics(entries, counts))
        return entries

    def _write_metrics(self, entries: list[Round], counts: list[np.ndarray]) -> None:
        for entry, count in zip(entries, counts, strict=True):
            labels = self._queried(entry.index + 1)
            skipped = sum(label.skipped for label in labels)
            facts: dict[str, Any] = {"round": entry.index, "queried": len(labels), "labeled": len(labels) - skipped}
            facts["test_pixels"] = int(count.sum())
            facts["unlabeled"] = unlabeled(labels, entry.classes, entry.merged)
            made_of = {"head": entry.head_digest(), "test": self.test_digest}
            entry.write_metrics({**facts, **summary(merge_classes(count, entry.merged)), "made_of": made_of})
            crash_point("metrics")

    def _evaluate_late(self, test: TestSet) -> None:
        """Test all rounds' heads in one pass over the test set."""
        rounds = parallel.on_first_rank(lambda: len(self.run_dir.rounds()))
        for entry in self._evaluate(test, [self.run_dir.round(index) for index in range(rounds)]):
            self._log_round(entry)

    def _end_round(self, entry: Round) -> None:
        entry.add_stages(self.clock)
        self._log_round(entry)

    def _log_round(self, entry: Round) -> None:
        queried = self._queried(entry.index + 1)
        skipped = sum(label.skipped for label in queried)
        line = f"round {entry.index}: {len(queried)} pixels queried" + (f", {skipped} skipped" if skipped else "")
        if metrics := entry.metrics():
            line += f", test mIoU {100 * metrics['miou']['standard']:.2f} %"
        elif not entry.has("head.safetensors"):
            line += ", none of them with a class: no head yet"
        self.log("; ".join([line, *what_is_missing(queried, entry.classes, entry.merged)]))

    def _draw(self) -> None:
        with self.clock("pictures"):
            draw_pictures(self.run_dir, self.data, self.load_encoder, self.config)
        for entry in self.run_dir.rounds()[-1:]:
            entry.add_stages(self.clock)  # with the late test's, if there was one
