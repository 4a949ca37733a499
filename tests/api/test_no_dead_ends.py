"""Data that moved, another working directory, images taken out or changed, another encoder: there is a way on."""

import json
import shutil

import pytest
from PIL import Image

from api.fakes import FakeEncoder, tiny_config, use_fake_encoder, write_folder
from difal import cli
from difal.annotate.start import label_config, open_session
from difal.config import Config, resumed_config
from difal.data.scenes import CLASSES
from difal.encoders import lazy
from difal.errors import ConfigError, DataError, LabelError
from difal.run.directory import RunDirectory
from difal.run.labels import read_labels
from difal.run.loop import run
from difal.run.start import ANEW
from difal.sweep import Sweep, sweep

SETTINGS = {"encoder": "fake", "rounds": 2, "budget": 1.0, "candidates": 60, "local": 8, "random": 8, "threads": 1}
WORDS = [word for name, value in {**SETTINGS, "pictures": 0}.items() for word in (f"--{name}", str(value))]


def silent(line):
    pass


@pytest.fixture
def fake(monkeypatch):
    use_fake_encoder(patch=monkeypatch.setattr)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Data in `here`; other images under the same relative path in `there`; the working directory is `here`."""
    write_folder(tmp_path / "here/data", masks=True, test=True, count=3)
    write_folder(tmp_path / "there/data", masks=True, test=True, count=2)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_run_goes_on_from_another_working_directory(places, monkeypatch, fake, capsys):
    """And is not misled by other data of the same relative path."""
    assert cli.main(["run", "--data", "data", "--out", "runs/one", *WORDS]) == 0
    monkeypatch.chdir(places / "there")
    folder = places / "here/runs/one"
    assert cli.main(["run", "--resume", str(folder), "--rounds", "3"]) == 0
    assert RunDirectory(folder).facts()["images"] == 3
    assert cli.main(["report", "../here/runs/one"]) == 0
    assert cli.main(["predict", "../here/runs/one", "data/images", "--out", "out"]) == 0
    assert len(list((places / "there/out/masks").iterdir())) == 2
    shutil.move(places / "here/data", places / "moved")
    shutil.rmtree(places / "there/data")
    assert cli.main(["run", "--resume", str(folder), "--rounds", "4"]) == 1
    assert f"were in {places / 'here/data'}, and are not there any more; give --data with" in capsys.readouterr().err
    assert cli.main(["run", "--resume", str(folder), "--rounds", "4", "--data", "../moved"]) == 0
    assert cli.main(["run", "--resume", str(folder), "--rounds", "5"]) == 0  # it is remembered
    assert len(RunDirectory(folder).rounds()) == 5


def test_a_whole_folder_that_moved_is_found_by_its_relative_paths(places, monkeypatch, fake):
    assert cli.main(["run", "--data", "data", "--out", "run", *WORDS]) == 0
    shutil.move(places / "here", places / "new")
    monkeypatch.chdir(places / "new")
    assert cli.main(["run", "--resume", "run", "--rounds", "3"]) == 0


def test_label_goes_on_from_another_working_directory(places, monkeypatch):
    """Also where it was stopped before the run had begun."""
    config = label_config({"data": "data/images", "out": "run", "classes": "a,b", "encoder": "tiny"})
    open_session(config).close()
    monkeypatch.chdir(places / "there")
    again = label_config({"out": "../here/run"})
    assert again.data == str(places / "here/data/images")
    session = open_session(again)
    assert len(session.data.train) == 3
    session.close()


def test_a_sweep_goes_on_from_another_working_directory(places, monkeypatch, fake, capsys):
    sweep(Sweep("sw", {**SETTINGS, "data": "data"}, acquisitions=("random",), seeds=(0,), jobs=1), log=silent)
    monkeypatch.chdir(places / "there")
    assert cli.main(["sweep", "--resume", "../here/sw", "--seeds", "0,1", "--jobs", "1"]) == 0
    assert "1 of 2 runs are finished" in capsys.readouterr().out
    runs = json.loads((places / "here/sw/results.json").read_text())["runs"]
    assert [one["seed"] for one in runs] == [0, 1]
    assert RunDirectory(places / "here/sw/runs/random-seed1").facts()["images"] == 3
    assert len(list((places / "here/sw/caches").glob("*/pool"))) == 1  # the features are used again


def test_names_are_not_taken_for_folders(tmp_path, monkeypatch):
    """A folder that is called as the drawn scenes or the encoder are stays out of it."""
    monkeypatch.chdir(tmp_path)
    for name in ("scenes", "tiny"):
        (tmp_path / name).mkdir()
    config = tiny_config("run", data="scenes:2,1,0", encoder="tiny", size=32, rounds=1)
    run(config, encoder=FakeEncoder(), log=silent)
    run(Config(**RunDirectory(tmp_path / "run").config()), resume=True, encoder=FakeEncoder(), log=silent)
    assert RunDirectory(tmp_path / "run").facts()["paths"] == {}


# Begun anew with what was labeled ------------------------------------------------------------------------------------


@pytest.fixture
def labeled(tmp_path):
    """A run of two rounds on four images."""
    folder = write_folder(tmp_path / "data", masks=True)
    config = tiny_config(tmp_path / "old", data=str(folder), rounds=2, pictures=0, acquisition="balanced-herding")
    run(config, encoder=FakeEncoder(), log=silent)
    return config


def answers(folder):
    return [label for entry in RunDirectory(folder).rounds() for label in entry.labels()]


def test_images_that_are_gone_or_changed(labeled, tmp_path):
    """The run stops and says how to go on, and that is how."""
    data = tmp_path / "data"
    (data / "images/p1.png").unlink()
    (data / "masks/p1.png").unlink()
    with pytest.raises(ConfigError) as stopped:
        run(resumed_config(labeled.to_dict(), {"rounds": 3}), resume=True, encoder=FakeEncoder(), log=silent)
    assert ANEW in str(stopped.value)
    for kind in ("images", "masks"):
        with Image.open(data / kind / "p2.png") as picture:
            larger = picture.resize((40, 32), Image.Resampling.NEAREST)
        larger.save(data / kind / "p2.png")
    told, encoder = [], FakeEncoder()
    changes = {"out": str(tmp_path / "new"), "labels": str(tmp_path / "old"), "mask_check": "accept"}
    run(Config(**{**labeled.to_dict(), **changes}), encoder=encoder, log=told.append)
    before = answers(tmp_path / "old")
    kept = [label for label in before if label.image not in ("p1.png", "p2.png")]
    lost = {name: sum(label.image == name for label in before) for name in ("p1.png", "p2.png")}
    assert all(lost.values())
    assert f"labels of {tmp_path / 'old'}: {len(kept)} are used" in told
    assert f"labels of {tmp_path / 'old'}: {lost['p1.png']} are not used, of p1.png, which is not in the pool" in told
    assert any(f"{lost['p2.png']} are not used, of p2.png, which had 32 x 32 pixels and has 40 x 32" in t for t in told)
    known = read_labels(tmp_path / "new/known.jsonl", CLASSES)
    assert {label.place: label.class_name for label in known} == {label.place: label.class_name for label in kept}
    assert not {label.place for label in answers(tmp_path / "new")} & {label.place for label in kept}
    again = resumed_config(RunDirectory(tmp_path / "new").config(), {"rounds": 3})
    run(again, resume=True, encoder=encoder, log=silent)  # and it goes on


def test_an_encoder_that_was_corrected(labeled, tmp_path, monkeypatch):
    class Corrected(FakeEncoder):
        def fingerprint(self):
            return "corrected000"

    path = tmp_path / "old/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "weights": "first0000000"}))
    with pytest.raises(ConfigError) as stopped:
        run(resumed_config(labeled.to_dict(), {"rounds": 3}), resume=True, encoder=Corrected(), log=silent)
    assert "has other weights than when the run began" in str(stopped.value)
    assert ANEW in str(stopped.value)
    changes = {"out": str(tmp_path / "new"), "labels": str(tmp_path / "old"), "rounds": 1}
    assert run(Config(**{**labeled.to_dict(), **changes}), encoder=Corrected(), log=silent) == "done"
    assert len(read_labels(tmp_path / "new/known.jsonl", CLASSES)) == len(answers(tmp_path / "old"))


def test_an_encoder_that_is_corrected_before_the_first_picks(tmp_path, monkeypatch):
    """Features of the old one are made anew, and that is said."""
    write_folder(tmp_path / "data", masks=True)
    config = tiny_config(tmp_path / "run", data=str(tmp_path / "data"), rounds=1, pictures=0)
    use_fake_encoder(patch=monkeypatch.setattr)
    monkeypatch.setattr(lazy, "fingerprint", lambda name: "first0000000")
    run(config, log=silent)
    shutil.rmtree(tmp_path / "run/rounds")
    told = []
    monkeypatch.setattr(lazy, "fingerprint", lambda name: "corrected000")
    run(config, resume=True, log=told.append)
    assert any(line.startswith("features are made anew") and "corrected000" in line for line in told)


def test_classes_go_by_name(labeled, tmp_path):
    """In another order, of which label files by number would be misread; one that is no longer named is an error."""
    data = tmp_path / "data"
    turned = tuple(reversed(CLASSES))
    (data / "classes.txt").write_text("".join(f"{CLASSES.index(name)} {name}\n" for name in turned))
    changes = {"out": str(tmp_path / "new"), "labels": str(tmp_path / "old"), "rounds": 1}
    with pytest.raises(ConfigError, match="new ones after the last"):
        run(resumed_config(labeled.to_dict(), {"rounds": 3}), resume=True, encoder=FakeEncoder(), log=silent)
    run(Config(**{**labeled.to_dict(), **changes}), encoder=FakeEncoder(), log=silent)
    known = read_labels(tmp_path / "new/known.jsonl", turned)
    before = {label.place: label.class_name for label in answers(tmp_path / "old")}
    assert {label.place: label.class_name for label in known} == before
    named = [label for label in known if not label.skipped]
    assert named
    assert all(turned[label.class_id] == label.class_name for label in named)
    used = named[0].class_name
    left = [name for name in CLASSES if name != used]
    (data / "classes.txt").write_text(
        "".join(f"{CLASSES.index(name)} {name}\n" for name in left) + f"{CLASSES.index(used)} other\n"
    )
    with pytest.raises(LabelError, match=f"has labels of the class {used!r}, which is not among the classes"):
        run(Config(**{**labeled.to_dict(), **changes, "out": str(tmp_path / "x")}), encoder=FakeEncoder(), log=silent)
    assert not (tmp_path / "x").exists()


def test_a_folder_without_a_run(labeled, tmp_path):
    changes = {"out": str(tmp_path / "new"), "labels": str(tmp_path / "data")}
    with pytest.raises(LabelError, match="is a folder without a run"):
        run(Config(**{**labeled.to_dict(), **changes}), encoder=FakeEncoder(), log=silent)
    with pytest.raises(DataError, match="there is no data folder nowhere"):
        run(tiny_config(tmp_path / "y", data="nowhere"), encoder=FakeEncoder(), log=silent)
