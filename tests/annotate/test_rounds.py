"""A run that an annotator answers is the run that the masks would have answered, whatever else she does meanwhile."""

import random
from contextlib import ExitStack

import numpy as np
import pytest

from annotate.sessions import answer, change, retract
from api.fakes import FakeEncoder, outcome, tiny_config, tiny_data
from difal.annotate.journal import Journal
from difal.annotate.oracle import JournalOracle, journal_path
from difal.run.directory import RunDirectory
from difal.run.loop import run

DATA = tiny_data(train=4, test=2)
COMPARED = ("picks.jsonl", "head.safetensors", "metrics.json")


@pytest.fixture
def journals():
    """Opens the journal of a run folder, closed after the test."""
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(Journal(journal_path(folder)))


def advance(folder, rounds=3):
    resume = RunDirectory(folder).exists
    config = tiny_config(folder, oracle="person", rounds=rounds)
    oracle = JournalOracle(folder, DATA.classes)
    return run(config, resume=resume, data=DATA, encoder=FakeEncoder(), log=lambda line: None, oracle=oracle)


def truth(pick) -> dict:
    value = int(DATA.train.mask(DATA.train.ids.index(pick.image))[pick.y, pick.x])
    return answer(pick.image, pick.x, pick.y, None if value == 255 else value, round=pick.round, rank=pick.rank)


def compared(folder):
    return {name: content for name, content in outcome(folder).items() if name.endswith(COMPARED)}


def test_equal_to_the_masks_run(tmp_path, journals):
    run(tiny_config(tmp_path / "masks"), data=DATA, encoder=FakeEncoder(), log=lambda line: None)
    folder, rng = tmp_path / "label", random.Random(1)
    journal = journals(folder)
    while advance(folder) == "waiting":
        *others, last = RunDirectory(folder).rounds()[-1].picks()
        entries = []
        for pick in others:
            right = truth(pick)
            wrong = {**truth(pick), "class_id": 0, "reason": None}
            spare = answer(pick.image, rng.randrange(32), rng.randrange(32), 0, kind="spare")
            entries += rng.choice([[right], [spare, right], [wrong, retract(wrong), right], [wrong, right]])
        journal.append([*entries, truth(last)])  # an answer that is changed after the last is a correction
    assert compared(folder) == compared(tmp_path / "masks")
    assert len(compared(folder)) == 9


def test_a_merged_class_is_merged_in_the_test_masks_too(tmp_path, journals):
    plain, merging = tmp_path / "plain", tmp_path / "merging"
    for folder in (plain, merging):
        journal = journals(folder)
        if folder == merging:
            journal.append([change("merge", class_id=2, into=1), change("merge", class_id=1, into=0)])
        while advance(folder, rounds=1) == "waiting":
            journal.append([truth(pick) for pick in RunDirectory(folder).rounds()[-1].picks()])
    apart, joined = (RunDirectory(folder).round(0).metrics() for folder in (plain, merging))
    true = np.array(apart["confusion"]).sum(1)
    assert true[1] > 0
    assert true[2] > 0
    assert np.array(joined["confusion"]).sum(1).tolist() == [true[:3].sum(), 0, 0, *true[3:]]
    assert joined["class_iou"][1:3] == [None, None]
    assert {label.class_id for label in RunDirectory(merging).round(0).labels()} & {1, 2} == set()


def test_the_order_of_lines_alone_decides(tmp_path, journals):
    """Corrections and class changes between rounds; the same journal, given all at once, makes the same run."""
    slow, rng = tmp_path / "slow", random.Random(2)
    journal = journals(slow)
    while advance(slow) == "waiting":
        picks = RunDirectory(slow).rounds()[-1].picks()
        if picks[0].round == 1:
            earlier = RunDirectory(slow).round(0).labels()[0]
            journal.append(
                [
                    answer(earlier.image, earlier.x, earlier.y, (earlier.class_id or 0) + 1),
                    change("add", name="moon"),
                    change("merge", class_id=1, into=0),
                ]
            )
        journal.append([truth(pick) for pick in rng.sample(picks, len(picks))])
        if picks[0].round == 0:  # after the round has closed
            journal.append([answer(picks[1].image, picks[1].x, picks[1].y, 2), change("rename", class_id=3, name="t")])
    entry = RunDirectory(slow).round(1)
    assert entry.has("corrections.jsonl")
    assert entry.classes[-1] == "moon"
    logits = entry.head().logits(np.zeros((1, RunDirectory(slow).facts()["dimension"])), np.arange(1))
    assert logits.shape == (1, len(DATA.classes) + 1)
    fast = tmp_path / "fast"
    journals(fast).append(journal.entries)
    assert advance(fast) == "done"
    assert outcome(fast) == outcome(slow)
