"""The annotator as one who answers a run's picks: from the journal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from difal.annotate.answers import Answers, close_round
from difal.annotate.journal import NAME, read_journal
from difal.data.base import distinct_colors
from difal.run.directory import RunDirectory
from difal.run.labels import Label
from difal.run.oracles import WaitingForLabels

FOLDER = "annotate"


def journal_path(run_folder: Path) -> Path:
    return Path(run_folder) / FOLDER / NAME


def note_classes(run_dir: RunDirectory, start: Sequence[str]) -> None:
    """Write today's class names into run.json, where the annotator has changed those that the run began with."""
    answers = Answers(start)
    answers.add(read_journal(journal_path(run_dir.folder)))
    run_dir.note(**changed_classes(answers, run_dir.facts()["colors"]))


def changed_classes(answers: Answers, colors: Sequence) -> dict[str, Any]:
    """The facts of run.json about the classes as they are today; nothing where the annotator changed none.

    Args:
        answers: the journal.
        colors: of the classes as run.json has them.
    """
    if not answers.changes:
        return {}
    names = answers.classes.names
    return {
        "classes": names,
        "classes_at_start": list(answers.start),
        "colors": [*colors, *distinct_colors(len(names)).tolist()[len(colors) :]],
        "merged_classes": {str(key): value for key, value in answers.classes.merged.items()},
    }


class JournalOracle:
    """Answers a round once the journal answers all its picks, as of the line that answered the last one.

    Args:
        run_folder: the run.
        start: class names before any change of them.
    """

    def __init__(self, run_folder: Path, start: Sequence[str]):
        self.run_dir, self.start = RunDirectory(run_folder), tuple(start)

    def answer(self, picks: Sequence[Label]) -> list[Label]:
        """The answered picks. What else the journal changed by then is written beside them.

        Raises:
            WaitingForLabels: some pick has no answer yet.
        """
        entries = read_journal(journal_path(self.run_dir.folder))
        rounds = [entry for entry in self.run_dir.rounds() if entry.index <= picks[0].round]
        closed = close_round(entries, self.start, [entry.picks() for entry in rounds], self._trained(rounds[:-1]))
        if closed is None:
            answers = Answers(self.start)
            answers.add(entries)
            waiting = sum(answers.current(pick.place) is None for pick in picks)
            raise WaitingForLabels(
                f"{waiting} of {len(picks)} pixels of round {picks[0].round} wait for their class.\n"
                f"  go on   difal label --out {shlex.quote(str(self.run_dir.folder))}"
            )
        names, merged = closed.classes.names, closed.classes.parts()
        if merged or tuple(names) != self.start:
            rounds[-1].write_classes(names, merged)
        if closed.corrected:
            rounds[-1].write_labels("corrections", closed.corrected)
        return closed.labels

    def done(self) -> None:
        pass

    def _trained(self, rounds: Sequence) -> list[Label]:
        """The labels of earlier rounds as the last head was trained on them."""
        trained: list[Label] = []
        for entry in rounds:
            trained = entry.corrected(trained) + entry.labels()
        return trained
