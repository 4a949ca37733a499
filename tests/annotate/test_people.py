"""Several people at one run, and one of them asked twice: through the page, on a run that `difal run` waits in."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from annotate.annotators import SETTINGS
from annotate.browser import Label, acknowledged, next_question, place, question, results
from difal.annotate.journal import of_type, read_journal
from difal.annotate.questions import REPEAT_AFTER
from difal.config import Config
from difal.run.labels import read_labels
from difal.run.loop import run

CLASSES = ("sky", "road", "tree")
COUNT = 14  # pixels of the round


@pytest.fixture
def waiting(tmp_path):
    """The folder of a run whose first round `difal run` has asked."""
    photos, rng = tmp_path / "photos", np.random.default_rng(7)
    photos.mkdir()
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(photos / f"{name}.png")
    folder = tmp_path / "run"
    settings = {**SETTINGS, "data": str(photos), "classes": ",".join(CLASSES), "rounds": 1, "budget": COUNT / 2}
    assert run(Config(**settings, oracle="person", out=str(folder)), log=lambda line: None) == "waiting"
    return folder


def right(here: str) -> int:
    return place(here)[2] % 3


def give(page, here: str, class_id: int) -> None:
    page.keyboard.press(str(1 + class_id))
    next_question(page, here)


def test_repeats_a_second_annotator_and_disagreements(waiting, open_page):
    kappa = pytest.importorskip("sklearn.metrics").cohen_kappa_score
    picks = {pick.place for pick in read_labels(waiting / "rounds/000/picks.jsonl", CLASSES)}
    asked = []
    with Label(waiting, "--annotator", "ann", "--repeats", "0.5") as label:
        page = open_page(label)
        while sum(one.startswith("repeat.") for one in asked) < 2:
            here = question(page)
            assert "Which class" in page.inner_text("#question")  # nothing tells a repeat from another question
            first = here.startswith("repeat.") and not any(one.startswith("repeat.") for one in asked)
            asked.append(here)
            give(page, here, (right(here) + 1) % 3 if first else right(here))  # she differs from herself once
        acknowledged(page)
        assert results(page, "1 of 2")["Repeats answered the same"] == "1 of 2"
        assert page.faults == []
        page.goto("about:blank")  # else it would go on with the next server
    assert not any(one.startswith("repeat.") for one in asked[:REPEAT_AFTER])
    journal = waiting / "annotate/journal.jsonl"
    own = of_type(read_journal(journal), "answer")
    assert len(own) == len(asked)
    queried = {(one["image"], one["y"], one["x"]) for one in own if one["kind"] == "round"}
    assert queried <= picks  # the round that `difal run` had asked goes on
    assert len(queried) >= REPEAT_AFTER

    with Label(waiting, "--annotator", "bob") as label:
        page = open_page(label)
        seconds, settled = [], []
        while len(settled) < 2:
            here = question(page)
            if here.startswith("settle."):
                assert "Two annotators differ" in page.inner_text("#question")
                assert place(here) in (*seconds[:1], *seconds[3:4])
                settled.append(place(here))
                give(page, here, right(here))
            else:
                assert here.startswith("second.")
                give(page, here, (right(here) + 1) % 3 if len(seconds) in (0, 3) else right(here))
                seconds.append(place(here))
        acknowledged(page)
        agreed = f"{len(seconds) - 2} of {len(seconds)}"
        shown = results(page, agreed)
        assert page.faults == []
    both = {}
    for one in of_type(read_journal(journal), "answer"):
        if one["kind"] in ("round", "spare", "second"):
            both.setdefault((one["image"], one["y"], one["x"]), {})[one["annotator"]] = one["class_id"]
    both = [(one["ann"], one["bob"]) for one in both.values() if len(one) == 2]
    assert (shown["Two annotators agreed"], shown["Disagreements to settle"]) == (agreed, "0")
    assert float(shown["Cohen's kappa"]) == pytest.approx(kappa(*zip(*both, strict=True)), abs=6e-4)
    assert len(set(settled)) == 2
