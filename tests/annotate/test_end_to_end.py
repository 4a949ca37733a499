"""The drawn scenes labeled by keys through the page, undisturbed and with everything killed again and again."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter

import pytest

from annotate.annotators import SETTINGS, Annotator, flags
from annotate.browser import WAIT, Label, acknowledged, all_ready, children, need_browser, place, question
from api.fakes import write_folder
from difal.annotate.journal import of_type, read_journal
from difal.config import Config
from difal.run.directory import RunDirectory
from difal.run.loop import run

COMPARED = ("picks.jsonl", "head.safetensors", "metrics.json")
# The whole check is `DIFAL_KILLS=50 DIFAL_ANSWERS=300 pytest tests/annotate/test_end_to_end.py`.
KILLS, ANSWERS, ROUNDS = int(os.environ.get("DIFAL_KILLS", 4)), int(os.environ.get("DIFAL_ANSWERS", 24)), 3
BUDGET = ANSWERS / ROUNDS / 6  # a round and image, of six
# `DIFAL_HAND=keys` or `taps` with `DIFAL_ANSWERS=300`: a whole session by one of them alone.
HAND = os.environ.get("DIFAL_HAND", "both")
pytestmark = pytest.mark.timeout((300 + 60 * KILLS) * max(1, WAIT // 60_000))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    need_browser()
    folder = write_folder(tmp_path_factory.mktemp("data") / "scenes", masks=True, test=True, count=6, size=48)
    return {**SETTINGS, "data": str(folder), "rounds": ROUNDS, "budget": BUDGET}


@pytest.fixture(scope="module")
def by_masks(settings, tmp_path_factory):
    """The run that the masks answer."""
    folder = tmp_path_factory.mktemp("masks") / "run"
    config = Config(**settings, oracle="masks", out=str(folder))
    assert run(config, log=lambda line: None) == "done"
    return decided(folder)


def decided(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for name in COMPARED for p in folder.glob(f"rounds/*/{name}")}


def test_equal_to_the_masks_run(playwright, settings, by_masks, tmp_path):
    """By keys and taps in turn, or by one of them alone."""
    folder, given = tmp_path / "run", 0
    with Label(folder, *flags(**settings)) as label:
        annotator = Annotator(playwright, label, tmp_path / "profile", settings["data"], touch=HAND != "keys")
        while not annotator.done():
            annotator.answer(tap={"keys": False, "taps": True}.get(HAND, given % 2 == 1))
            given += 1
        acknowledged(annotator.page)
        annotator.close()
    assert decided(folder) == by_masks
    assert len(by_masks) == 3 * ROUNDS


class Killer:
    """Kills the server, its child or the browser a moment after random answers, and starts the server again."""

    def __init__(self, label: Label, annotator: Annotator, seed: int):
        self.label, self.annotator, self.rng = label, annotator, random.Random(seed)
        self.moments = Counter(self.rng.randrange(4, ANSWERS) for _ in range(KILLS))
        self.kinds = [("server", "child", "browser")[number % 3] for number in range(KILLS)]
        self.rng.shuffle(self.kinds)
        self.killed: Counter = Counter()
        self.thread: threading.Thread | None = None

    def after(self, answers: int) -> None:
        """Called after that many answers; one killing is over before the next begins."""
        if self.moments[answers]:
            self.join()
            todo = [self.kinds.pop() for _ in range(self.moments.pop(answers))]
            self.thread = threading.Thread(target=self._kill, args=(todo,), daemon=True)
            self.thread.start()

    def join(self) -> None:
        if self.thread is not None:
            self.thread.join()

    def _kill(self, kinds: list[str]) -> None:
        for kind in kinds:
            time.sleep(self.rng.uniform(0, 0.6))
            if getattr(self, f"_kill_{kind}")():
                self.killed[kind] += 1

    def _kill_server(self) -> bool:
        self.label.kill()
        time.sleep(self.rng.uniform(0, 0.5))
        self.label.start()
        return True

    def _kill_child(self) -> bool:
        found = children(self.label.process.pid)
        for process in found:
            os.kill(process, signal.SIGKILL)
        return bool(found)

    def _kill_browser(self) -> bool:
        found = self.annotator.processes()
        self.annotator.kill()
        return bool(found)


def answer_and_kill_both(label, annotator) -> list[str]:
    """Give answers while the server is away, then kill the browser at once; the ids of the questions answered."""
    question(annotator.page)
    all_ready(annotator.page)
    label.kill()
    given = [annotator.answer() for _ in range(4)]
    annotator.kill()
    label.start()
    annotator.open()
    question(annotator.page)
    acknowledged(annotator.page)
    return given


def test_everything_killed_again_and_again(playwright, settings, by_masks, tmp_path):
    from playwright.sync_api import Error

    folder = tmp_path / "run"
    with Label(folder, *flags(**settings)) as label:
        annotator = Annotator(playwright, label, tmp_path / "profile", settings["data"])
        given = answer_and_kill_both(label, annotator)
        killer = Killer(label, annotator, seed=KILLS)
        while True:
            killer.after(len(given))
            try:
                if annotator.done():
                    break
                given.append(annotator.answer())
            except Error as error:
                annotator.reopen(error)  # the page has kept what was not acknowledged
        killer.join()
        if not annotator.processes():  # killed last
            annotator.open()
        acknowledged(annotator.page)
        annotator.close()
    print(f"killed: {dict(killer.killed)}, answers given: {len(given)}")
    assert sum(killer.killed.values()) >= 0.8 * KILLS
    answers = of_type(read_journal(folder / "annotate/journal.jsonl"), "answer")
    per_pixel = Counter((one["image"], one["y"], one["x"]) for one in answers)
    assert set(per_pixel.values()) == {1}
    names = annotator.data.train.ids
    assert {(names[image], row, column) for image, row, column in map(place, given)} <= set(per_pixel)  # none is lost
    queried = [pick.place for entry in RunDirectory(folder).rounds() for pick in entry.picks()]
    assert set(queried) <= set(per_pixel)
    assert decided(folder) == by_masks
