"""Nothing that was made of something else is passed off as new: features, heads, tests, pictures, the report."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from api.fakes import FakeEncoder, tiny_config, tiny_data, write_folder
from difal.config import resumed_config
from difal.data.contents import changed, contents
from difal.data.readers import open_images
from difal.errors import ConfigError
from difal.features.cache import StaleCache
from difal.features.compute import make_features
from difal.report import stale_rounds, write_report
from difal.run.directory import RunDirectory
from difal.run.loop import run


def resume(folder, **changes):
    told = []
    config = resumed_config(RunDirectory(folder).config(), changes)
    run(config, resume=True, data=tiny_data(), encoder=FakeEncoder(), log=told.append)
    return told


def brighten(path):
    """Other pixels in a file of the same size in bytes."""
    with Image.open(path) as picture:
        shape = picture.size
    Image.new("RGB", shape, (10, 20, 30)).save(path)
    size = path.stat().st_size
    Image.new("RGB", shape, (30, 20, 10)).save(path)
    assert path.stat().st_size == size


def unneeded():
    raise AssertionError("there is nothing to encode")


def bitmaps(folder):
    """The folder's images as BMP, whose size does not tell what they show."""
    for path in sorted((folder / "images").iterdir()):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    return folder


def test_contents_are_read_again_only_where_size_or_time_changed(tmp_path):
    folder = bitmaps(write_folder(tmp_path, masks=False)) / "images"
    split, _ = open_images(folder)
    first = contents(split)
    path, facts = folder / "p0.bmp", (folder / "p0.bmp").stat()
    os.utime(path, ns=(1, 1))
    assert changed(first, contents(split, known=first)) == []
    brighten(path)
    now = contents(split, known=first)
    assert changed(first, now) == ["p0"]
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert changed(first, contents(split, known=first)) == []  # as git: a file of the same size and time is not read
    assert changed(first, contents(split)) == ["p0"]


def test_features_of_an_image_that_was_changed_in_place(tmp_path):
    """A bitmap has the same bytes in number whatever it shows."""
    folder = bitmaps(write_folder(tmp_path / "data", masks=True, test=True))
    config = tiny_config(tmp_path, data=str(folder), cache=str(tmp_path / "cache"))
    make_features(config, load_encoder=FakeEncoder)
    make_features(config, load_encoder=unneeded)
    before = (folder / "images/p2.bmp").read_bytes()
    brighten(folder / "images/p2.bmp")
    with pytest.raises(StaleCache, match=r"pool holds features of p2.bmp as it was .* or delete .*pool"):
        make_features(config, load_encoder=FakeEncoder)
    (folder / "images/p2.bmp").write_bytes(before)
    make_features(config, load_encoder=unneeded)
    brighten(folder / "test/images/p1.png")
    with pytest.raises(StaleCache, match=r"test holds features of p1.png as it was"):
        make_features(config, load_encoder=FakeEncoder)


def test_a_run_whose_pool_was_changed_in_place(tmp_path):
    """Before the first query the features are made anew; afterwards the run stops, also if its cache was deleted."""
    folder = bitmaps(write_folder(tmp_path / "data", masks=True))
    config = tiny_config(tmp_path / "run", data=str(folder), rounds=1, pictures=0)
    encoder, told = FakeEncoder(), []
    make_features(config, load_encoder=lambda: encoder, folder=tmp_path / "run/cache")
    before = (folder / "images/p2.bmp").read_bytes()
    brighten(folder / "images/p2.bmp")
    run(config, encoder=encoder, log=told.append)
    assert any(line.startswith("features are made anew: ") for line in told)
    (folder / "images/p2.bmp").write_bytes(before)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"the pool has changed since the run began \(p2.bmp holds other bytes"):
            run(config, resume=True, encoder=encoder, log=len)
        shutil.rmtree(tmp_path / "run/cache", ignore_errors=True)


def test_a_label_that_was_changed_in_a_round_that_is_done(tmp_path):
    """The heads from then on are trained and tested again, those before stay; until then the report leaves them out."""
    run(tiny_config(tmp_path, pictures=1), data=tiny_data(), encoder=FakeEncoder(), log=len)
    run_dir = RunDirectory(tmp_path)
    heads = [entry.head_digest() for entry in run_dir.rounds()]
    metrics = [entry.metrics() for entry in run_dir.rounds()]
    assert stale_rounds(run_dir) == {}
    assert [one["made_of"]["head"] for one in metrics] == heads
    assert resume(tmp_path)[-1].startswith("round 2: 15 pixels")
    path = tmp_path / "rounds/001/labels.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0] |= {"class_id": 7, "class_name": None, "skipped": False}
    lines[1] |= {"class_id": 6, "class_name": None, "skipped": False}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(stale_rounds(run_dir)) == [1, 2]
    text = write_report(tmp_path).read_text()
    assert "round 1: its labels are others than its head was trained on; round 2: its labels" in text
    assert "<h2>Pictures" not in text
    assert text.count(f"{100 * metrics[2]['miou']['standard']:.2f}</td>") == 0
    told = resume(tmp_path)
    assert [line for line in told if "trained again" in line] == [
        f"round {i}: its labels are others than its head was trained on; it is trained again" for i in (1, 2)
    ]
    now = RunDirectory(tmp_path).rounds()
    assert [entry.head_digest() == head for entry, head in zip(now, heads, strict=True)] == [True, False, False]
    assert [entry.metrics()["made_of"]["head"] for entry in now] == [entry.head_digest() for entry in now]
    text = write_report(tmp_path).read_text()
    assert "Not shown" not in text
    assert "<h2>Pictures" in text


def test_a_test_of_another_head_is_made_again(tmp_path):
    run(tiny_config(tmp_path, rounds=2, pictures=0), data=tiny_data(), encoder=FakeEncoder(), log=len)
    first, last = RunDirectory(tmp_path).rounds()
    before = last.metrics()
    (last.folder / "head.safetensors").write_bytes((first.folder / "head.safetensors").read_bytes())
    assert last.metrics() is None
    assert stale_rounds(RunDirectory(tmp_path)) == {1: "its labels are others than its head was trained on"}
    resume(tmp_path)
    assert last.metrics() == before


def test_masks_of_the_test_set_that_were_corrected(tmp_path):
    """All rounds are tested on the masks as they are now: a curve is of one test set."""
    folder = write_folder(tmp_path / "data", masks=True, test=True)
    config = tiny_config(tmp_path / "run", data=str(folder), rounds=2, pictures=0)
    run(config, encoder=FakeEncoder(), log=len)
    before = [entry.metrics() for entry in RunDirectory(tmp_path / "run").rounds()]
    path = folder / "test/masks/p0.png"
    with Image.open(path) as mask:
        Image.fromarray(np.roll(np.array(mask), 9, 0)).save(path)
    run(config, resume=True, encoder=FakeEncoder(), log=len)
    now = [entry.metrics() for entry in RunDirectory(tmp_path / "run").rounds()]
    for old, new in zip(before, now, strict=True):
        assert old["made_of"]["head"] == new["made_of"]["head"]
        assert old["made_of"]["test"] != new["made_of"]["test"]
        assert old["confusion"] != new["confusion"]
    assert now[0]["made_of"]["test"] == now[1]["made_of"]["test"]
