"""The loop end to end on tiny problems: what is decided, kept and taken up again."""

import json
import shutil

import numpy as np
import pytest
import torch

from api.fakes import FakeEncoder, outcome, tiny_config, tiny_data, write_folder
from difal.acquisition import acquisitions
from difal.config import resumed_config
from difal.data import open_data
from difal.errors import ConfigError, DataError, LabelError, UserError
from difal.features.compute import make_features
from difal.run.directory import RunDirectory
from difal.run.labels import read_labels
from difal.run.loop import run


def silent(_line):
    pass


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One feature cache for every run on the tiny data."""
    folder = tmp_path_factory.mktemp("cache")
    make_features(tiny_config(folder / "unused"), tiny_data(), FakeEncoder, folder)
    return str(folder)


def test_a_run_keeps_everything(tmp_path, cache):
    data, lines = tiny_data(), []
    config = tiny_config(tmp_path, cache=cache)
    assert run(config, data=data, encoder=FakeEncoder(), log=lines.append) == "done"
    run_dir = RunDirectory(tmp_path)
    rounds = run_dir.rounds()
    assert len(rounds) == 3
    queries = "queries: 3 rounds x 5 = 15 pixels, of at most 40 (8 kept of each image, --local)"
    assert lines[1] == f"{queries}; fewer a round than classes: a larger --budget, pixels an image and round, asks more"
    assert len(lines) == 2 + 3
    assert "15 pixels queried" in lines[-1]
    places = [label.place for entry in rounds for label in entry.labels()]
    assert len(set(places)) == len(places) == 15
    for entry in rounds:
        picks, labels = entry.picks(), entry.labels()
        assert [p.place for p in picks] == [label.place for label in labels]
        assert [p.rank for p in picks] == list(range(5))
        assert all(p.class_id is None for p in picks)
        scores = [p.score for p in picks]
        assert scores == sorted(scores, reverse=True)
        for label in labels:
            truth = int(data.train.mask(data.train.ids.index(label.image))[label.y, label.x])
            assert (label.class_id, label.skipped) == ((None, True) if truth == 255 else (truth, False))
        metrics = entry.metrics()
        counted = sum((data.test.mask(i) != 255).sum() for i in range(2))
        assert np.sum(metrics["confusion"]) == counted
        assert (
            metrics["queried"]
            == 5 * (entry.index + 1)
            == metrics["labeled"] + sum(label.skipped for one in rounds[: entry.index + 1] for label in one.labels())
        )
        assert entry.head().shape == (20, 8)
    assert run_dir.config() == config.to_dict()
    assert set(run_dir.facts()["feature_stages"]["pool"]) >= {"encoder", "hypercolumns", "local herding"}


def test_a_run_repeats_itself_and_its_seed_matters(tmp_path, cache):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tiny_config(tmp_path / name, cache=cache, seed=seed), data=tiny_data(), encoder=FakeEncoder(), log=silent)
    a, b, c = (outcome(tmp_path / name) for name in "abc")
    assert a == b
    assert a["rounds/000/picks.jsonl"] == c["rounds/000/picks.jsonl"]  # coverage has no seed
    run(tiny_config(tmp_path / "d", cache=cache, head="mlp"), data=tiny_data(), encoder=FakeEncoder(), log=silent)
    run(
        tiny_config(tmp_path / "e", cache=cache, head="mlp", seed=1),
        data=tiny_data(),
        encoder=FakeEncoder(),
        log=silent,
    )
    d, e = (outcome(tmp_path / name) for name in "de")
    assert a["rounds/000/head.safetensors"] == c["rounds/000/head.safetensors"]  # nor has the linear head
    assert d["rounds/000/head.safetensors"] != e["rounds/000/head.safetensors"]


def test_a_round_needs_no_pass_over_the_encoder(tmp_path, cache):
    encoder = FakeEncoder()
    run(tiny_config(tmp_path, cache=cache, pictures=0), data=tiny_data(), encoder=encoder, log=silent)
    assert encoder.passes == 0


@pytest.mark.parametrize("name", acquisitions())
def test_every_acquisition_runs(name, tmp_path, cache):
    """Without repeating a pixel, and the same when it is taken up again after the first round."""
    for folder, rounds in (("whole", (2,)), ("parts", (1, 2))):
        for count in rounds:
            config = tiny_config(tmp_path / folder, cache=cache, acquisition=name, rounds=count, pictures=0)
            resume = count > rounds[0]
            assert run(config, resume=resume, data=tiny_data(), encoder=FakeEncoder(), log=silent) == "done"
    picks = [label.place for entry in RunDirectory(tmp_path / "whole").rounds() for label in entry.labels()]
    assert len(set(picks)) == 10
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "parts")


def test_a_finished_run_can_be_given_more_rounds(tmp_path, cache):
    longer = tiny_config(tmp_path / "longer", cache=cache)
    run(longer, data=tiny_data(), encoder=FakeEncoder(), log=silent)
    run(tiny_config(tmp_path / "run", cache=cache, rounds=2), data=tiny_data(), encoder=FakeEncoder(), log=silent)
    more = resumed_config(RunDirectory(tmp_path / "run").config(), {"rounds": 3})
    run(more, resume=True, data=tiny_data(), encoder=FakeEncoder(), log=silent)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "longer")


def test_resuming_with_another_setting_is_refused(tmp_path, cache):
    config = tiny_config(tmp_path, cache=cache, rounds=1)
    run(config, data=tiny_data(), encoder=FakeEncoder(), log=silent)
    with pytest.raises(ConfigError, match=r"`keep` was 0\.5 when the run began and is 0\.25 now"):
        resumed_config(RunDirectory(tmp_path).config(), {"keep": 0.25})
    with pytest.raises(ConfigError, match="holds a run; go on with --resume"):
        run(config, data=tiny_data(), encoder=FakeEncoder())
    with pytest.raises(ConfigError, match="no run to resume"):
        run(tiny_config(tmp_path / "none"), resume=True, data=tiny_data(), encoder=FakeEncoder())


def test_another_bank_is_refused(tmp_path, cache):
    with pytest.raises(ConfigError, match=r"candidates = 80, this run has 81"):
        run(tiny_config(tmp_path, cache=cache, candidates=81), data=tiny_data(), encoder=FakeEncoder())
    with pytest.raises(ConfigError, match="holds features of other images"):
        run(tiny_config(tmp_path / "b", cache=cache), data=open_data("scenes:5,2,9", size=32), encoder=FakeEncoder())


def test_late_testing_gives_the_same_metrics(tmp_path):
    for name, gigabytes in (("kept", 1.0), ("late", 0.0)):
        config = tiny_config(tmp_path / name, test_cache_gb=gigabytes, cache_dtype="float32", pictures=0)
        run(config, data=tiny_data(), encoder=FakeEncoder(), log=silent)
    assert outcome(tmp_path / "kept") == outcome(tmp_path / "late")
    assert not list((tmp_path / "late").rglob("images/*"))


def test_testing_on_random_pixels(tmp_path):
    """All of an image's pixels, drawn at random, are the image; fewer are as many as asked for."""
    for name, pixels in (("whole", None), ("all", 32 * 32), ("some", 100)):
        config = tiny_config(tmp_path / name, test_pixels=pixels, cache_dtype="float32", rounds=1, pictures=0)
        run(config, data=tiny_data(), encoder=FakeEncoder(), log=silent)
    whole, everything, some = (RunDirectory(tmp_path / name).round(0).metrics() for name in ("whole", "all", "some"))
    assert everything == whole
    assert 80 < some["test_pixels"] <= 200 < whole["test_pixels"]
    assert some["pixel_accuracy"] == pytest.approx(whole["pixel_accuracy"], abs=0.15)


def test_a_budget_that_cannot_be_asked_is_told_first(tmp_path):
    config = tiny_config(tmp_path / "run", budget=3.0, rounds=5, pictures=0)
    data = tiny_data(train=2, test=0)
    with pytest.raises(ConfigError, match=r"5 rounds x 6 = 30 pixels .* only 16 can be: 8 .*Give --local 15,"):
        run(config, data=data, encoder=FakeEncoder(), log=silent)
    assert not (tmp_path / "run").exists()
    config, lines = tiny_config(tmp_path / "run", budget=4.0, rounds=4, local=16, pictures=0), []
    run(config, data=data, encoder=FakeEncoder(), log=lines.append)
    assert lines[1].endswith("= 32 pixels, of at most 32 (16 kept of each image, --local)")  # a pixel for each class
    asked = [label.place for entry in RunDirectory(tmp_path / "run").rounds() for label in entry.labels()]
    assert len(set(asked)) == len(asked) == 32


def fill_in(path, truth, data, *, skip=None):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        value = int(truth[row["image"]][row["y"], row["x"]])
        row["skipped"] = value == 255 or row["rank"] == skip
        row["class_id"] = None if row["skipped"] else value
        row["annotator"] = "me"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_a_person_labels(tmp_path):
    """Stopping each round for the answers gives what the masks give at once."""
    folder = write_folder(tmp_path / "data", masks=False)
    with_masks = write_folder(tmp_path / "masked", masks=True)
    truth_data = open_data(with_masks)
    truth = {name: truth_data.train.mask(i) for i, name in enumerate(truth_data.train.ids)}
    config = tiny_config(tmp_path / "run", data=str(folder), rounds=2)
    lines = []
    assert run(config, encoder=FakeEncoder(), log=lines.append) == "waiting"
    question = tmp_path / "run/to_label.jsonl"
    assert str(question) in lines[-1]
    assert "0 sky" in lines[-1]
    images = {json.loads(line)["image"] for line in question.read_text().splitlines()}
    assert {path.stem for path in (tmp_path / "run/to_label").glob("*.jpg")} == {name[:-4] for name in images}
    assert len(list((tmp_path / "run/to_label/pixels").glob("*.jpg"))) == 4
    assert run(config, resume=True, encoder=FakeEncoder(), log=silent) == "waiting"  # nothing answered yet
    fill_in(question, truth, truth_data)
    assert run(config, resume=True, encoder=FakeEncoder(), log=silent) == "waiting"  # for round 1
    assert {json.loads(line)["round"] for line in question.read_text().splitlines()} == {1}
    fill_in(question, truth, truth_data)
    assert run(config, resume=True, encoder=FakeEncoder(), log=silent) == "done"
    assert not question.exists()
    assert not (tmp_path / "run/to_label").exists()
    run(tiny_config(tmp_path / "masks", data=str(with_masks), rounds=2), encoder=FakeEncoder(), log=silent)
    for index in range(2):
        by_hand, by_mask = (RunDirectory(tmp_path / name).round(index) for name in ("run", "masks"))
        assert by_hand.picks() == by_mask.picks()
        assert [a.class_id for a in by_hand.labels()] == [a.class_id for a in by_mask.labels()]
        assert by_hand.labels()[0].annotator == "me"


def test_answers_are_checked(tmp_path):
    folder = write_folder(tmp_path / "data", masks=False)
    config = tiny_config(tmp_path / "run", data=str(folder), rounds=1)
    run(config, encoder=FakeEncoder(), log=silent)
    question = tmp_path / "run/to_label.jsonl"
    rows = [json.loads(line) for line in question.read_text().splitlines()]

    def answers(**change):
        question.write_text(
            "".join(
                json.dumps({**row, "class_id": 1} | (change if i == 1 else {})) + "\n" for i, row in enumerate(rows)
            )
        )
        return lambda: run(config, resume=True, encoder=FakeEncoder(), log=silent)

    for change, message in (
        ({"class_id": 8}, "line 2: class_id 8 is out of range 0 to 7"),
        ({"x": 500}, "line 2: pixel x=500"),
        ({"class_id": None, "class_name": "moon"}, "line 2: class_name 'moon' is not a class"),
        ({"class_name": "sky"}, "line 2: class_id 1 and class_name 'sky' disagree"),
    ):
        with pytest.raises(LabelError, match=message):
            answers(**change)()
    assert answers(class_id=None, class_name="road")() == "done"
    kept = RunDirectory(tmp_path / "run").round(0).labels()
    assert [label.class_name for label in kept] == ["hill", "road", *["hill"] * (len(kept) - 2)]


def test_a_deleted_line_is_asked_again(tmp_path):
    """What is answered in either file stays; a file without the line could never be completed."""
    folder = write_folder(tmp_path / "data", masks=False)
    config = tiny_config(tmp_path / "run", data=str(folder), rounds=1)
    run(config, encoder=FakeEncoder(), log=silent)
    question, table = tmp_path / "run/to_label.jsonl", tmp_path / "run/to_label.csv"
    lines = question.read_text().splitlines(keepends=True)
    answer = [line.replace('"class_id": null', '"class_id": 1') for line in lines]
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*rows[:3], rows[3].replace(",,,,,False", ",2,,,,False"), *rows[4:]]))
    question.write_text("".join([*answer[:2], *lines[3:]]))
    assert run(config, resume=True, encoder=FakeEncoder(), log=silent) == "waiting"
    kept = read_labels(question, open_data(folder).classes)
    assert [label.class_id for label in kept] == [1, 1, 2, None]
    assert [label.rank for label in kept] == [0, 1, 2, 3]
    question.write_text(question.read_text().replace('"class_id": null', '"class_id": 0'))
    assert run(config, resume=True, encoder=FakeEncoder(), log=silent) == "done"


def test_pictures_of_an_earlier_round_do_not_stay(tmp_path):
    """As a run leaves them that is killed once the answers are kept."""
    folder = write_folder(tmp_path / "data", masks=False)
    config = tiny_config(tmp_path / "run", data=str(folder), rounds=2, budget=0.25)
    run(config, encoder=FakeEncoder(), log=silent)
    pictures = tmp_path / "run/to_label"
    (pictures / "stale.jpg").write_bytes(b"")
    question = tmp_path / "run/to_label.jsonl"
    question.write_text(question.read_text().replace('"class_id": null', '"class_id": 1'))
    run(config, resume=True, encoder=FakeEncoder(), log=silent)
    asked = {label.image for label in RunDirectory(tmp_path / "run").round(1).picks()}
    assert {path.name for path in pictures.glob("*.jpg")} == {name.replace(".png", ".jpg") for name in asked}


def test_what_labels_name_must_stay(tmp_path):
    folder = write_folder(tmp_path / "data", masks=True)
    config = tiny_config(tmp_path / "run", data=str(folder), rounds=1, cache=str(tmp_path / "cache"))
    run(config, encoder=FakeEncoder(), log=silent)
    names = (folder / "classes.txt").read_text()
    (folder / "classes.txt").write_text(names.replace("sky", "air"))
    with pytest.raises(ConfigError, match=r"the classes were sky, .* and are air, .* now; put them back"):
        run(config, resume=True, encoder=FakeEncoder())
    (folder / "classes.txt").write_text(names)
    for kind in ("images", "masks"):
        (folder / kind / "p0.png").unlink()
    with pytest.raises(ConfigError, match=r"the pool has changed since the run began \(p0\.png is not there any more"):
        run(config, resume=True, encoder=FakeEncoder())
    with pytest.raises(ConfigError, match="holds features of other images"):
        run(tiny_config(tmp_path / "other", data=str(folder), cache=config.cache), encoder=FakeEncoder())


def test_images_and_classes_added_part_way(tmp_path):
    """New images come after those the run knows, whatever their names; only they are encoded; ids stay."""
    folder = write_folder(tmp_path / "data", masks=True)
    few = tmp_path / "few"
    for kind in ("images", "masks"):
        (few / kind).mkdir(parents=True)
        for name in ("p1.png", "p3.png"):
            shutil.copy(folder / kind / name, few / kind / name)
    shutil.copy(folder / "classes.txt", few / "classes.txt")
    config = tiny_config(tmp_path / "run", data=str(few), rounds=1, pictures=0)
    encoder = FakeEncoder()
    run(config, encoder=encoder, log=silent)
    before, passes = RunDirectory(tmp_path / "run").round(0).labels(), encoder.passes
    rows = np.load(tmp_path / "run/cache/pool/local.features.npy")
    names = (folder / "classes.txt").read_text() + "later\n"
    (folder / "classes.txt").write_text(names)
    more = resumed_config(
        RunDirectory(tmp_path / "run").config(), {"rounds": 2, "data": str(folder), "mask_check": "accept"}
    )
    assert run(more, resume=True, encoder=encoder, log=silent) == "done"
    run_dir = RunDirectory(tmp_path / "run")
    assert run_dir.round(0).labels() == before
    assert [name for name, *_ in run_dir.facts()["pool_files"]] == ["p1.png", "p3.png", "p0.png", "p2.png"]
    assert run_dir.facts()["classes"] == names.split()
    grown = np.load(tmp_path / "run/cache/pool/local.features.npy")
    assert np.array_equal(grown[:2], rows)
    assert encoder.passes - passes == 2  # one for each new image: the acquisition reads no noise samples
    assert run_dir.round(1).head().shape[-1] == 9
    assert run_dir.round(0).head().shape[-1] == 8


def test_a_run_is_taken_up_in_another_working_directory(tmp_path, monkeypatch):
    write_folder(tmp_path / "here/data", masks=True)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run(tiny_config("run", data="data", rounds=1, pictures=0), encoder=FakeEncoder(), log=silent)
    monkeypatch.chdir(tmp_path / "there")
    stored = RunDirectory(tmp_path / "here/run").config()
    more = resumed_config(stored, {"rounds": 2, "out": str(tmp_path / "here/run")})
    assert run(more, resume=True, encoder=FakeEncoder(), log=silent) == "done"


@pytest.mark.parametrize("split", ["images", "test/images", "masks", "test/masks"])
def test_files_that_cannot_be_used_are_told_before_any_work(tmp_path, split):
    folder = write_folder(tmp_path / "data", masks=True, test=True)
    for name in ("p1.png", "p3.png"):
        (folder / split / name).write_bytes(b"no image")
    encoder = FakeEncoder()
    with pytest.raises(DataError, match=r"(?s)2 of 4 images cannot be used:.*p1\.png is not a .*p3\.png is not a"):
        run(tiny_config(tmp_path / "run", data=str(folder)), encoder=encoder)
    assert encoder.passes == 0
    write_folder(tmp_path / "good", masks=True, test=True)
    for name in ("p1.png", "p3.png"):
        (folder / split / name).write_bytes((tmp_path / "good" / split / name).read_bytes())
    assert run(tiny_config(tmp_path / "run", data=str(folder)), encoder=encoder, log=silent) == "done"


def test_all_skipped_rounds_go_on_by_coverage(tmp_path):
    folder = write_folder(tmp_path / "data", masks=False)
    config = tiny_config(tmp_path / "run", data=str(folder), rounds=2)
    run(config, encoder=FakeEncoder(), log=silent)
    question = tmp_path / "run/to_label.jsonl"
    question.write_text(question.read_text().replace('"skipped": false', '"skipped": true'))
    lines = []
    assert run(config, resume=True, encoder=FakeEncoder(), log=lines.append) == "waiting"
    assert "no head yet" in lines[0]
    entry = RunDirectory(tmp_path / "run").round(1)
    assert len(entry.picks()) == 4
    assert not RunDirectory(tmp_path / "run").round(0).has("head.safetensors")


def test_known_labels_are_used_and_never_asked_again(tmp_path):
    data = tiny_data()
    known = tmp_path / "known.csv"
    rows = [(i, 5 * i + 3, 20) for i in range(4)]
    names = data.train.ids
    known.write_text("image,x,y,class_id\n" + "".join(f"{names[i]},{x},{y},{i % 3}\n" for i, x, y in rows))
    config = tiny_config(tmp_path / "run", labels=str(known), local=40, random=20)
    run(config, data=data, encoder=FakeEncoder(), log=silent)
    plain = tiny_config(tmp_path / "plain", local=40, random=20)
    run(plain, data=data, encoder=FakeEncoder(), log=silent)
    run_dir = RunDirectory(tmp_path / "run")
    asked = [label.place for entry in run_dir.rounds() for label in entry.labels()]
    assert not {(names[i], y, x) for i, x, y in rows} & set(asked)
    local = [np.load(tmp_path / name / "cache/pool/local.points.npy") for name in ("run", "plain")]
    assert not np.array_equal(*local)
    assert np.array_equal(local[0][4], local[1][4])
    for i, x, y in rows:
        assert not (local[0][i] == (y, x)).all(1).any()
    assert run_dir.round(0).metrics()["queried"] == 9
    assert len(read_labels(tmp_path / "run/known.jsonl", data.classes)) == 4


def test_known_labels_are_checked(tmp_path):
    for row, message in (("nowhere,1,1,0", "no pool image 'nowhere'"), ("train0,99,1,0", "lies outside of train0")):
        known = tmp_path / "known.csv"
        known.write_text(f"image,x,y,class_id\n{row}\n")
        with pytest.raises(LabelError, match=message):
            run(tiny_config(tmp_path / "run", labels=str(known)), data=tiny_data(), encoder=FakeEncoder())


def test_features_that_are_not_finite_name_the_image(tmp_path):
    class Broken(FakeEncoder):
        def maps(self, images, noise):
            maps = super().maps(images, noise)
            maps[1][:] = torch.nan
            return maps

    with pytest.raises(DataError, match=r"features of image train0 cannot be used.*check the encoder's weights"):
        run(tiny_config(tmp_path), data=tiny_data(), encoder=Broken())


def test_masks_can_be_demanded(tmp_path):
    folder = write_folder(tmp_path / "data", masks=False)
    with pytest.raises(DataError, match="no masks for the pool"):
        run(tiny_config(tmp_path / "run", data=str(folder), oracle="masks"), encoder=(encoder := FakeEncoder()))
    assert encoder.passes == 0


UNCLOSED = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + b"{'descr': '<i8', 'shape': (5, 2".ljust(117) + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "[]", r"run\.json must hold an object"),
        (
            "cache/pool/cache.json",
            "{}",
            r"cache\.json is damaged; delete .*/cache/pool to have the features made again",
        ),
        ("cache/pool/cache.json", b"\xff", r"cache\.json is not JSON .*; restore or delete it"),
        ("cache/survey.json", b"{\xff", r"survey\.json is not JSON .*; restore or delete it"),
        ("run.json", b"\x80", r"run\.json is not JSON .*; restore or delete it"),
        ("rounds/000/metrics.json", "[]", r"metrics\.json must hold an object .*; restore or delete it"),
        ("rounds/000/metrics.json", b"\xde", r"metrics\.json is not JSON .*; restore or delete it"),
        ("cache/pool/sizes.npy", UNCLOSED, r"sizes\.npy cannot be read .*damaged header.*; delete .*/cache/pool to"),
        ("cache/pool/local.points.npy", "x", r"local\.points\.npy cannot be read .*; delete .*/cache/pool to have"),
        ("cache/pool/random.points.npy", None, r"random\.points\.npy cannot be read .*; delete .*/cache/pool to have"),
        ("cache/test/test.json", "[]", r"test\.json is damaged; delete .*/cache/test to have the features made again"),
        (
            "cache/test/images/000000.safetensors",
            "x",
            r"000000\.safetensors cannot be read .*; delete it and run again",
        ),
        ("rounds/000/labels.jsonl", "x", r"labels\.jsonl line 1 is not JSON"),
        ("rounds/000/head.safetensors", "x", r"head\.safetensors is not a head .*; delete it and resume"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    config = tiny_config(tmp_path, rounds=1)
    run(config, data=tiny_data(), encoder=FakeEncoder(), log=silent)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    more = tiny_config(tmp_path, rounds=2)
    with pytest.raises(UserError, match=message):
        run(more, resume=True, data=tiny_data(), encoder=FakeEncoder(), log=silent)


def test_a_head_with_a_flipped_bit_is_refused_and_trained_again(tmp_path):
    wanted, folder = tmp_path / "whole", tmp_path / "run"
    run(tiny_config(wanted, rounds=2), data=tiny_data(), encoder=FakeEncoder(), log=silent)
    run(tiny_config(folder, rounds=1), data=tiny_data(), encoder=FakeEncoder(), log=silent)
    path = folder / "rounds/000/head.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 16
    path.write_bytes(content)
    more = tiny_config(folder, rounds=2)
    with pytest.raises(UserError, match=r"000/head\.safetensors is not a head .*checksum.*; delete it and resume"):
        run(more, resume=True, data=tiny_data(), encoder=FakeEncoder(), log=silent)
    path.unlink()
    run(more, resume=True, data=tiny_data(), encoder=FakeEncoder(), log=silent)
    assert outcome(folder) == outcome(wanted)


def test_two_processes_do_not_share_a_run(tmp_path):
    import fcntl

    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            run(tiny_config(tmp_path), data=tiny_data(), encoder=FakeEncoder())
