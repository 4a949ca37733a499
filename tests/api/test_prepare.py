"""A few pictures of each public layout, prepared: what becomes of them, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from difal import cli, prepare
from difal.data import open_data
from difal.errors import DataError
from difal.prepare import SOURCES, cityscapes, pascal_context
from difal.prepare import camvid as camvid_source

RNG = np.random.default_rng(0)


def picture(path, height=30, width=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (height, width, 3), np.uint8)).save(path)


def blocks(ids, height=30, width=40):
    """The ids from left to right, in bars of one width."""
    return np.repeat(np.array(ids)[None, np.arange(width) * len(ids) // width], height, 0)


def camvid(root):
    for name, split in product("ab", ("train", "test")):
        picture(root / f"CamVid/{split}/{name}{split}.png")
        (root / f"CamVid/{split}annot").mkdir(exist_ok=True)
        Image.fromarray(blocks([0, 10, 11, 3]).astype(np.uint8)).save(root / f"CamVid/{split}annot/{name}{split}.png")
    return [0, 10, 255, 3]


def ade_bed(root):
    for name, split in product("ab", ("train", "test")):
        picture(root / f"ADE_Bed_256/real/{split}/{name}.jpg", 32, 32)
        np.save(root / f"ADE_Bed_256/real/{split}/{name}.npy", blocks([0, 29, 255, 5], 32, 32).astype(np.uint8))
    return [0, 29, 255, 5]


def cities(root):
    for name, split in product("ab", ("train", "val")):
        picture(root / f"leftImg8bit/{split}/{name}ville/{name}ville_000_leftImg8bit.png", 32, 64)
        mask = root / f"gtFine/{split}/{name}ville/{name}ville_000_gtFine_labelIds.png"
        mask.parent.mkdir(parents=True)
        # the outer quarters are cropped away
        Image.fromarray(blocks([4, 4, 7, 33, 9, 23, 4, 4], 32, 64).astype(np.uint8)).save(mask)
    return [0, 18, 255, 10]


def pascal(root):
    voc = root / "VOCdevkit/VOC2010"
    (voc / "ImageSets/Main").mkdir(parents=True)
    (root / "trainval/trainval").mkdir(parents=True)
    for split in ("train", "val"):
        (voc / f"ImageSets/Main/{split}.txt").write_text(f"2008_{split}a\n2008_{split}b\n")
        for name in "ab":
            picture(voc / f"JPEGImages/2008_{split}{name}.jpg")
            ids = blocks([2, 68, 1, 415]).astype(np.uint16)
            savemat(root / f"trainval/trainval/2008_{split}{name}.mat", {"LabelMap": ids})
    return [0, 32, 255, 30]


LAYOUTS = {"camvid": camvid, "ade-bed": ade_bed, "cityscapes": cities, "pascal-context": pascal}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_public_layout(name, tmp_path, capsys):
    ids = LAYOUTS[name](tmp_path / "source")
    command = f"prepare {name} --source {tmp_path / 'source'} --out {tmp_path / 'out'} --size 16 --partial"
    assert cli.main(command.split()) == cli.DONE
    assert "2 images for train, 2 images for test" in capsys.readouterr().out
    data = open_data(tmp_path / "out")
    assert data.classes == tuple(SOURCES[name].classes)
    assert (data.name, len(data.train), len(data.test)) == (SOURCES[name].title, 2, 2)
    assert data.colors.shape == (len(data.classes), 3)
    assert len({tuple(color) for color in data.colors}) == len(data.classes)
    for split in (data.train, data.test):
        assert split.image(1).shape == (16, 16, 3)
        assert np.array_equal(split.mask(0), blocks(ids, 16, 16))
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    counted = {label: n for label, n in meta["pixels"]["train"].items() if n}
    names = [*data.classes, "void"]
    assert counted == {names[min(i, len(names) - 1)]: 2 * 64 for i in sorted(ids)}
    assert not (tmp_path / "out/prepare.json").exists()
    assert cli.main(command.split()) == cli.FAILED
    assert "is prepared already" in capsys.readouterr().err


def test_cityscapes_keeps_the_middle(tmp_path):
    """As by hand: to 256 pixels of height, then the square in the middle."""
    cities(tmp_path / "source")
    prepare.prepare("cityscapes", tmp_path / "source", tmp_path / "out", size=16, partial_set=True)
    with Image.open(tmp_path / "source/leftImg8bit/train/aville/aville_000_leftImg8bit.png") as whole:
        wanted = np.asarray(whole.resize((32, 16), Image.Resampling.BILINEAR))[:, 8:24]
    assert np.array_equal(open_data(tmp_path / "out").train.image(0), wanted)


def test_class_tables():
    assert [len(SOURCES[name].classes) for name in LAYOUTS] == [11, 30, 19, 33]
    for what in SOURCES.values():
        assert len(set(what.classes)) == len(what.classes)
    for labels in (cityscapes.LABELS, pascal_context.LABELS):
        assert len({row[0] for row in labels}) == len(labels)


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_layout_says_what_was_expected_and_where_to_get_it(name, tmp_path):
    (tmp_path / "source/images").mkdir(parents=True)
    for source, message in (
        (tmp_path / "source", "as it is downloaded"),
        (tmp_path / "nowhere", "there is no folder"),
        (tmp_path / "a.tar", "is a file; unpack it"),
    ):
        (tmp_path / "a.tar").touch()
        with pytest.raises(DataError, match=message) as caught:
            prepare.prepare(name, source, tmp_path / "out")
        assert SOURCES[name].urls[0] in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "pascal-context"])
def test_an_incomplete_data_set_is_noticed(name, tmp_path):
    LAYOUTS[name](tmp_path / "source")
    known = SOURCES[name].images["train"]
    with pytest.raises(DataError, match=f"has 2 images for train, {SOURCES[name].title} has {known}"):
        prepare.prepare(name, tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "pascal-context"])
def test_a_split_without_images_is_no_part_of_a_data_set(name, tmp_path):
    LAYOUTS[name](tmp_path / "source")
    for path in (tmp_path / "source").rglob("*"):
        if path.suffix == ".png" and {"test", "val"} & {*path.parts}:
            path.unlink()
        elif path.name == "val.txt":
            path.write_text("")
    with pytest.raises(DataError, match="has no images for test"):
        prepare.prepare(name, tmp_path / "source", tmp_path / "out", size=16, partial_set=True)
    assert not (tmp_path / "out").exists()


def test_masks_with_permuted_ids_are_noticed(tmp_path, monkeypatch):
    camvid(tmp_path / "source")
    known = replace(SOURCES["camvid"], images={"train": 2, "test": 2}, shares={"train": {"sky": 0.25, "road": 0.26}})
    monkeypatch.setitem(SOURCES, "camvid", known)
    prepare.prepare("camvid", tmp_path / "source", tmp_path / "right", size=16)
    for path in (tmp_path / "source/CamVid/trainannot").iterdir():
        Image.fromarray(blocks([1, 10, 11, 3]).astype(np.uint8)).save(path)
    with pytest.raises(DataError, match=r"sky has 0\.00 % of the train pixels, in CamVid 25\.00 %"):
        prepare.prepare("camvid", tmp_path / "source", tmp_path / "wrong", size=16)
    assert not (tmp_path / "wrong/meta.json").exists()


def spoil(root, kind):
    if kind == "no mask":
        next((root / "CamVid/trainannot").iterdir()).unlink()
    elif kind == "size":
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "CamVid/trainannot/atrain.png")
    elif kind == "id":
        Image.fromarray(np.full((30, 40), 12, np.uint8)).save(root / "CamVid/trainannot/atrain.png")
    elif kind == "colours":
        picture(root / "CamVid/trainannot/atrain.png")
    else:
        (root / "CamVid/train/atrain.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no mask", r"has no mask .*trainannot.* \(1 of 2 pictures lack theirs\)"),
        ("size", "is 9 x 9 pixels, its picture .* is 40 x 30"),
        ("id", "has the class 12, CamVid has 0 to 10"),
        ("colours", r"has channels R\+G\+B; a mask of ids has one"),
        ("picture", "cannot be read .*unpack the archive again"),
    ],
)
def test_files_that_are_refused(kind, message, tmp_path):
    camvid(tmp_path / "source")
    spoil(tmp_path / "source", kind)
    with pytest.raises(DataError, match=message):
        prepare.prepare("camvid", tmp_path / "source", tmp_path / "out", size=16, partial_set=True)


def test_masks_of_other_kinds_are_refused(tmp_path):
    pascal(tmp_path / "p")
    path = tmp_path / "p/trainval/trainval/2008_traina.mat"
    for content, message in (
        ({"LabelMap": np.full((30, 40), 460)}, "label id 460"),
        ({"x": 1}, "holds no LabelMap"),
        ({"LabelMap": np.full((30, 40), 2.5)}, "holds no LabelMap"),
        ({"LabelMap": np.zeros((0, 0), int)}, "holds no LabelMap"),
    ):
        savemat(path, content)
        with pytest.raises(DataError, match=message):
            pascal_context.read_mask(path)
    savemat(path, {"LabelMap": RNG.integers(1, 400, (30, 40)).astype(np.uint16)}, do_compression=True)
    whole = path.read_bytes()
    for damaged in (b"MATLAB?", b"", whole[:300], whole[:200] + b"\0" * 40 + whole[240:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
            pascal_context.read_mask(path)
    ade_bed(tmp_path / "a")
    path = tmp_path / "a/ADE_Bed_256/real/train/a.npy"
    np.save(path, np.array([{"a": "pickle"}], dtype=object), allow_pickle=True)
    pickled = path.read_bytes()
    for damaged in (pickled, b"", pickled[:80], b"\x93NUMPY\x01\x00\x04\x00{'a\n"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="no plain array of class ids"):
            prepare.prepare("ade-bed", tmp_path / "a", tmp_path / "out", partial_set=True)
    Image.fromarray(np.full((4, 4), 34, np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="label id 34, Cityscapes has 0 to 33"):
        cityscapes.read_mask(tmp_path / "m.png")
    Image.fromarray(np.full((4, 4), 259, np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="has the class 259, CamVid has 0 to 10"):
        camvid_source.read_mask(tmp_path / "m.png")


def test_out_is_not_overwritten(tmp_path):
    camvid(tmp_path / "source")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").touch()
    with pytest.raises(DataError, match="`out` must be a new or empty folder"):
        prepare.prepare("camvid", tmp_path / "source", tmp_path / "out", partial_set=True)


def test_killed_and_taken_up_again(tmp_path):
    camvid(tmp_path / "source")
    command = [sys.executable, "-m", "difal", *f"prepare camvid --source {tmp_path / 'source'}".split()]
    command += [*f"--out {tmp_path / 'out'} --size 16 --partial".split()]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DIFAL_CRASH": "after-rename:4"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    begun = len(list((tmp_path / "out").glob("*/*.png")))
    with pytest.raises(DataError, match="is not finished; go on with the `difal prepare`"):
        open_data(tmp_path / "out")
    with pytest.raises(DataError, match="was begun as"):
        prepare.prepare("camvid", tmp_path / "source", tmp_path / "out", size=32, partial_set=True)
    made = prepare.prepare("camvid", tmp_path / "source", tmp_path / "out", size=16, partial_set=True)
    never = prepare.prepare("camvid", tmp_path / "source", tmp_path / "never", size=16, partial_set=True)
    assert made == never
    assert 3 <= begun < len(list((tmp_path / "never").glob("*/*.png")))  # threads write side by side
    for path in (tmp_path / "never").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "never")).read_bytes()
