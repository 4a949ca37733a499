"""Label files of a run that were emptied or cut short are named, and nothing is made of what is left of them."""

import json
import shutil
from contextlib import closing

import pytest

from annotate.sessions import answer
from api.fakes import FakeEncoder, outcome, tiny_config, write_folder
from difal import cli
from difal.annotate.journal import Journal
from difal.annotate.oracle import JournalOracle, journal_path
from difal.data import open_data
from difal.errors import LabelError
from difal.run.directory import RunDirectory
from difal.run.labels import Label
from difal.run.loop import run


@pytest.fixture
def finished(tmp_path):
    """A run of three rounds of four pixels that knew two labels before."""
    folder = write_folder(tmp_path / "data", masks=True, test=True)
    known = "image,x,y,class_id\np1.png,3,4,1\np2.png,20,9,2\n"
    (tmp_path / "known.csv").write_text(known)
    config = tiny_config(tmp_path / "run", data=str(folder), labels=str(tmp_path / "known.csv"), pictures=0)
    run(config, encoder=FakeEncoder(), log=len)
    return tmp_path / "run"


def keep(path, lines):
    """Cut the file after so many lines, as a disk that was full or a copy that was stopped does."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))


COMMANDS = ("run --resume run", "run --resume run --rounds 4", "report run", "run --data data --labels run --out other")


@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize("command", COMMANDS)
def test_labels_that_are_lost(finished, difal, command, left):
    path = finished / "rounds/001/labels.jsonl"
    before = outcome(finished)
    keep(path, left)
    now = outcome(finished)
    code, _, err = difal(command)
    assert code == cli.FAILED
    assert f"rounds/001/labels.jsonl holds {left} of the 4 lines that were written; put back a copy of the file" in err
    assert outcome(finished) == now  # heads and tests are those of all labels
    path.unlink()  # as the message says; the masks answer again
    assert difal("run --resume run")[0] == cli.DONE
    assert outcome(finished).items() >= before.items()


def test_the_head_of_labels_that_are_lost_predicts(finished, difal):
    """It was trained on all of them."""
    assert difal("predict run data/images --out before")[0] == cli.DONE
    keep(finished / "rounds/001/labels.jsonl", 0)
    assert difal("predict run data/images --out after")[0] == cli.DONE
    for name in ("before", "after"):
        assert len(list((finished.parent / name / "masks").iterdir())) == 4
    for path in (finished.parent / "before/masks").iterdir():
        assert (finished.parent / "after/masks" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("command", COMMANDS)
def test_labels_from_before_the_run_that_are_lost(finished, difal, command):
    before = outcome(finished)
    keep(finished / "known.jsonl", 1)
    code, _, err = difal(command)
    assert code == cli.FAILED
    assert "known.jsonl holds 1 of the 2 lines that were written; put back a copy of the file, or delete it and" in err
    (finished / "known.jsonl").unlink()
    assert difal("run --resume run")[0] == cli.DONE
    assert outcome(finished).items() >= before.items()
    facts = json.loads((finished / "run.json").read_text())
    del facts["known"]  # as earlier versions wrote it: nothing says how many there were
    (finished / "run.json").write_text(json.dumps(facts))
    assert difal("report run")[0] == cli.DONE


@pytest.mark.parametrize("kept", [True, False])
def test_labels_of_a_run_that_was_killed_before_it_began(tmp_path, difal, kept):
    """Another is begun in its folder, without `labels`: what was noted or copied for the first is no part of it."""
    folder = write_folder(tmp_path / "data", masks=True)
    run_dir = RunDirectory(tmp_path / "run")
    run_dir.write_known(
        [Label("", "p1.png", 3, 4, 32, 32, -1, -1, class_id=1), Label("", "p2.png", 9, 9, 32, 32, -1, -1)]
    )
    if not kept:
        run_dir.known_file.unlink()
    run(tiny_config(tmp_path / "run", data=str(folder), pictures=0), encoder=FakeEncoder(), log=len)
    assert run_dir.known() == []
    assert difal("report run")[0] == cli.DONE


@pytest.mark.parametrize("left", [0, 2])
def test_picks_that_are_lost(finished, difal, left):
    """Also of a round that waits for its labels, whose picks can be chosen again."""
    path, before = finished / "rounds/002/picks.jsonl", outcome(finished)
    whole = path.read_bytes()
    keep(path, left)
    code, _, err = difal("run --resume run")
    assert code == cli.FAILED
    assert f"rounds/002/picks.jsonl holds {left} of the 4 lines that were written; put back a copy of the file\n" in err
    path.write_bytes(whole)
    for name in ("labels.jsonl", "head.safetensors", "metrics.json"):
        (path.parent / name).unlink()
    keep(path, 0)
    code, _, err = difal("run --resume run")
    assert code == cli.FAILED
    assert "rounds/002/picks.jsonl is empty; put back a copy of the file, or delete it and" in err
    path.unlink()
    assert difal("run --resume run")[0] == cli.DONE
    assert outcome(finished) == before


def test_rounds_of_the_annotator_that_are_lost(tmp_path, difal):
    """The journal still has them: labels, corrections and all come again, of any round."""
    folder, scenes = tmp_path / "run", write_folder(tmp_path / "data", masks=True)
    config = tiny_config(folder, data=str(scenes), oracle="person", pictures=0)
    data = open_data(str(scenes))
    oracle = JournalOracle(folder, data.classes)
    with closing(Journal(journal_path(folder))) as journal:
        for index in range(3):
            assert run(config, resume=bool(index), encoder=FakeEncoder(), log=len, oracle=oracle) == "waiting"
            picks = RunDirectory(folder).rounds()[-1].picks()
            if index == 1:
                first = RunDirectory(folder).round(0).picks()[0]
                journal.append([answer(first.image, first.x, first.y, 5, round=0)])  # which corrects the one before
            journal.append([answer(pick.image, pick.x, pick.y, index, round=index) for pick in picks])
    assert run(config, resume=True, encoder=FakeEncoder(), log=len, oracle=oracle) == "done"
    before = outcome(folder)
    assert [name for name in before if "corrections" in name] == ["rounds/001/corrections.jsonl"]
    for index in range(3):
        shutil.copytree(folder, tmp_path / str(index))
        path = tmp_path / str(index) / f"rounds/00{index}/labels.jsonl"
        keep(path, 1)
        with pytest.raises(LabelError, match=rf"00{index}/labels.jsonl holds 1 of the 4 lines"):
            RunDirectory(tmp_path / str(index)).queried(3, [])
        path.unlink()
        oracle = JournalOracle(tmp_path / str(index), data.classes)
        again = tiny_config(tmp_path / str(index), data=str(scenes), oracle="person", pictures=0)
        assert run(again, resume=True, encoder=FakeEncoder(), log=len, oracle=oracle) == "done"
        assert outcome(tmp_path / str(index)) == before
