"""The drawn scenes labeled by keys through the page, undisturbed and with everything killed again and again."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter

import pytest

from annotate.annotators import SETTINGS, Annotator, flags
from annotate.browser import Label, acknowledged, need_browser, wait_for
from difal.annotate.journal import of_type, read_journal
from difal.config import Config
from difal.run.directory import RunDirectory
from difal.run.loop import run

COMPARED = ("picks.jsonl", "head.safetensors", "metrics.json")
# The whole check is `DIFAL_KILLS=50 DIFAL_ANSWERS=300 pytest tests/annotate/test_end_to_end.py`.
KILLS, ANSWERS, ROUNDS = int(os.environ.get("DIFAL_KILLS", 4)), int(os.environ.get("DIFAL_ANSWERS", 24)), 3
BUDGET = ANSWERS / ROUNDS / 6  # of six images


@pytest.fixture(scope="module")
def by_masks(tmp_path_factory):
    """The run that the masks answer."""
    folder = tmp_path_factory.mktemp("masks") / "run"
    need_browser()
    config = Config(**SETTINGS, rounds=ROUNDS, budget=BUDGET, oracle="masks", out=str(folder))
    assert run(config, log=lambda line: None) == "done"
    return decided(folder)


@pytest.fixture
def playwright():
    need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as found:
        yield found


def decided(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for name in COMPARED for p in folder.glob(f"rounds/*/{name}")}


def test_equal_to_the_masks_run(playwright, by_masks, tmp_path):
    folder = tmp_path / "run"
    with Label(folder, *flags(**SETTINGS, rounds=ROUNDS, budget=BUDGET)) as label:
        annotator = Annotator(playwright, label, tmp_path / "profile")
        while not annotator.done():
            annotator.answer()
        acknowledged(annotator.page)
        annotator.close()
    assert decided(folder) == by_masks
    assert len(by_masks) == 3 * ROUNDS


class Killer(threading.Thread):
    """Kills the server, its child or the browser at random moments, and starts the server again."""

    def __init__(self, label: Label, annotator: Annotator, seed: int):
        super().__init__(daemon=True)
        self.label, self.annotator, self.rng = label, annotator, random.Random(seed)
        self.killed: Counter = Counter()
        self.enough = threading.Event()
        self.faults: list[BaseException] = []

    def run(self) -> None:
        try:
            kinds = ["server", "child", "browser", "server"]
            for number in range(KILLS):
                if self.enough.wait(self.rng.uniform(0.3, 3.0)):
                    return
                kind = kinds[number % len(kinds)] if len(kinds) >= KILLS else self.rng.choice(kinds)
                if getattr(self, kind)():
                    self.killed[kind] += 1
        except BaseException as error:  # shown by the test, which would only see that nothing happens
            self.faults.append(error)

    def server(self) -> bool:
        self.label.kill()
        time.sleep(self.rng.uniform(0, 0.5))
        self.label.start("--no-browser")
        return True

    def child(self) -> bool:
        found = children(self.label.process.pid)
        for process in found:
            os.kill(process, 9)
        return bool(found)

    def browser(self) -> bool:
        found = self.annotator.processes()
        self.annotator.kill()
        return bool(found)


def children(parent: int) -> list[int]:
    found = []
    for path in os.listdir("/proc"):
        if path.isdigit():
            try:
                with open(f"/proc/{path}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == parent:
                        found.append(int(path))
            except OSError:
                continue
    return found


def test_everything_killed_again_and_again(playwright, by_masks, tmp_path):
    from playwright.sync_api import Error

    folder = tmp_path / "run"
    with Label(folder, *flags(**SETTINGS, rounds=ROUNDS, budget=BUDGET)) as label:
        annotator = Annotator(playwright, label, tmp_path / "profile")
        killer = Killer(label, annotator, seed=KILLS)
        killer.start()
        while True:
            try:
                if annotator.done():
                    break
                annotator.answer()
            except Error:
                if annotator.processes():
                    raise
                annotator.open()  # the page has kept what was not acknowledged
        killer.enough.set()
        killer.join()
        if not annotator.processes():  # killed last
            annotator.open()
        acknowledged(annotator.page)
        annotator.close()
        wait_for(lambda: not killer.is_alive())
    assert killer.faults == []
    print(f"killed: {dict(killer.killed)}")
    assert sum(killer.killed.values()) >= min(KILLS, 3)
    answers = of_type(read_journal(folder / "annotate/journal.jsonl"), "answer")
    per_pixel = Counter((one["image"], one["y"], one["x"]) for one in answers)
    assert set(per_pixel.values()) == {1}
    asked = [pick.place for entry in RunDirectory(folder).rounds() for pick in entry.picks()]
    assert set(asked) <= set(per_pixel)
    assert decided(folder) == by_masks
