"""Whatever people's folders hold: each file is used as a viewer shows it, or named with the reason."""

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from api.image_kinds import KINDS, scaled
from difal.data import open_data
from difal.data.base import FileSplit
from difal.data.images import ValueRanges, read_header, read_image, read_picture, reduction
from difal.data.listing import list_photographs
from difal.data.readers import open_images
from difal.data.survey import survey
from difal.errors import DataError


def a_picture(height, width, seed=0):
    """Blocks of 8 x 8 pixels, of which JPEG keeps nearly everything."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[:height, :width])


def numbers(values):
    """The finite values, flat."""
    flat = np.asarray(values, np.float64).ravel()
    return flat[np.isfinite(flat)]


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_used_as_it_is_shown(tmp_path, name):
    kind = KINDS[name]
    path = tmp_path / f"a.{kind.ending}"
    expected = kind.write(path, a_picture(40, 56))
    if kind.fault:
        with pytest.raises(DataError, match=rf"a\.{kind.ending} .*{kind.fault}"):
            read_image(path)
        return
    ranges = ValueRanges([path])
    if kind.deep:
        assert dict(ranges) == {kind.deep: pytest.approx(tuple(np.percentile(numbers(expected), (0.1, 99.9))))}
        expected = scaled(expected, *ranges[kind.deep])
    shown = read_image(path, ranges=ranges)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).max() <= kind.tolerance
    picture, header = read_picture(path), read_header(path)
    assert picture.unused == kind.unused
    assert header == (expected.shape[:2], picture.kind)
    assert picture.kind.startswith(kind.deep or "8-bit")


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.fault])
def test_large_ones_are_reduced_by_the_mean_of_blocks(tmp_path, name):
    """As if the limit were 500 pixels. A mean of whole numbers is rounded before it is scaled."""
    kind = KINDS[name]
    path = tmp_path / f"a.{kind.ending}"
    expected = kind.write(path, a_picture(42, 57)).astype(np.float64)
    assert reduction((42, 57), 500) == 3
    ranges = ValueRanges([path])
    low, high = ranges[kind.deep] if kind.deep else (0.0, 255.0)
    height, width, *channels = expected.shape
    wanted = scaled(expected.reshape(height // 3, 3, width // 3, 3, *channels).mean((1, 3)), low, high)
    shown = read_image(path, ranges=ranges, largest=500)
    assert shown.shape == wanted.shape
    apart = np.abs(shown.astype(int) - wanted)
    if kind.tolerance:  # JPEG is decoded at half its size, and that is reduced
        assert apart.mean() < 20
    else:
        assert apart.max() <= (1 + 255 / (high - low) if kind.deep and "float" not in kind.deep else 1)


def test_a_large_tiff_takes_memory_for_what_is_read_alone(tmp_path):
    """A tiled TIFF of 48 MB, read at a quarter of its side, of which tifffile makes a file and not an array."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4000, 4000, 3), np.uint8), tile=(256, 256), compression="zlib")
    tracemalloc.start()
    shown = read_image(tmp_path / "a.tif", largest=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown.shape == (1000, 1000, 3)
    assert peak < 32e6


def test_a_mask_of_a_large_image_is_reduced_with_it(tmp_path):
    mask = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, 20, 0), 20, 1)
    Image.fromarray(np.dstack([mask * 80] * 3)).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    split = FileSplit(["a"], [tmp_path / "a.png"], [tmp_path / "m.png"], 3, largest=1500)
    look = split.look(0)
    assert (look.fault, look.shape, look.reduced) == (None, (60, 80), 2)
    assert split.image(0).shape == (30, 40, 3)
    assert np.array_equal(split.mask(0) * 80, split.image(0)[..., 0])


def test_one_range_for_the_pool_and_one_for_each_kind(tmp_path):
    """The brighter of two images stays brighter; floats are not mixed with whole numbers."""
    dark, bright = np.full((8, 8), 1000, np.uint16), np.full((8, 8), 3000, np.uint16)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    Image.fromarray(bright).save(tmp_path / "light.png")
    tifffile.imwrite(tmp_path / "z.tif", np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8))
    data = open_data(tmp_path, classes=("a",))
    assert data.train.ids == ("dark.png", "light.png", "z.tif")
    assert (data.train.image(0).max(), data.train.image(1).min()) == (0, 255)
    lines = survey(data).lines
    assert "pool: 3 images, 2 16-bit grey, 1 float grey, 8 x 8 pixels" in lines
    assert "16-bit grey: 1000 is shown black and 3000 white" in lines


def test_a_float_image_without_a_number_is_black(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 8), np.nan, np.float32))
    data = open_data(tmp_path, classes=("a",))
    assert survey(data).lines[1] == "float grey: 0 is shown black and 1 white"
    assert not data.train.image(0).any()


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    for folder in ("open", "shut"):
        (tmp_path / folder).mkdir()
        Image.fromarray(a_picture(8, 8)).save(tmp_path / folder / "a.png")
    listed = Path.iterdir

    def refuse(path):
        if path == tmp_path / "shut":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    listing = list_photographs(tmp_path)
    assert listing.images == [tmp_path / "open/a.png"]
    assert listing.lines() == ["1 folders that may not be read: shut/"]


# Random folders ------------------------------------------------------------------------------------------------------

STEMS = ("a", "b c", "É", "photo.v2", "mask", "x_label", "IMG_0001", "-n", "ab#c%20")
FOLDERS = ("", "more", "more/deep", "Ünder", "masked", "trees.d")
OTHERS = {
    "notes.txt": "files that are no pictures",
    "Thumbs.db": "files that are no pictures",
    "noending": "files that are no pictures",
    "photo.HEIC": "files (pip install",
    "raw.CR2": "files (camera raw",
    "film.mp4": "files (a film",
    "scan.npy": "files (export as TIFF",
    "._a.jpg": "hidden",
    ".hidden.png": "hidden",
}
WHOLE_FOLDERS = {
    "labels": ("a.png", "folders of masks"),
    "SegmentationClass": ("a.png", "folders of masks"),
    ".cache": ("a.png", "hidden"),
    "__MACOSX": ("a.jpg", "hidden"),
    "old run": ("config.yaml", "of difal run"),
    "old prediction": ("predict.json", "of difal predict"),
}
LINKS = ("none", "file", "folder", "loop", "broken", "itself")

files = st.dictionaries(  # a stem may come in several kinds
    st.tuples(st.sampled_from(FOLDERS), st.sampled_from(STEMS), st.sampled_from(sorted(KINDS)), st.booleans()),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.booleans()),
    min_size=1,
    max_size=6,
)


def write_random(root, entries, others, folders, link):
    """The folder, and by path below it: the kind and what is shown of each picture, the reason for everything else."""
    pictures, named = {}, {}
    for seed, ((folder, stem, kind, upper), (height, width, masked)) in enumerate(sorted(entries.items())):
        ending = KINDS[kind].ending.upper() if upper else KINDS[kind].ending
        name = "/".join(filter(None, (folder, f"{stem}.{ending}")))
        if (root / name).exists() or name in named:  # of another kind with the same ending
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pictures[name] = kind, KINDS[kind].write(root / name, a_picture(height, width, seed))
        if masked:
            beside = name.rpartition(".")[0] + "_mask.png"
            if not (root / beside).exists() and beside not in pictures:
                Image.fromarray(np.zeros((height, width), np.uint8)).save(root / beside)
                named[beside] = "masks beside their image"
    for name in others:
        (root / name).write_bytes(b"x")
        named[name] = OTHERS[name]
    for name in folders:
        inside, reason = WHOLE_FOLDERS[name]
        (root / name).mkdir()
        (root / name / inside).write_bytes(b"x")
        if name.startswith("old run"):
            (root / name / "run.json").write_text("{}")
        named[name] = reason
    first = sorted(pictures)[0]
    ending = first.rpartition(".")[2]
    if link == "file":
        os.symlink(root / first, root / f"linked.{ending}")
        pictures[f"linked.{ending}"] = pictures[first]
    elif link == "folder":
        outside = root.parent / "outside"
        outside.mkdir()
        shutil.copy(root / first, outside / f"o.{ending}")
        os.symlink(outside, root / "zz linked")
        pictures[f"zz linked/o.{ending}"] = pictures[first]
    elif link == "loop":
        os.symlink(root, root / "loop")
        named["loop"] = "linked folders that were read already"
    elif link == "itself":
        os.symlink(root / "self.png", root / "self.png")
        named["self.png"] = "links that lead nowhere"
    elif link == "broken":
        os.symlink(root / "nowhere.png", root / "broken.png")
        named["broken.png"] = "links that lead nowhere"
    return pictures, named


@settings(max_examples=60)
@given(
    files,
    st.sets(st.sampled_from(sorted(OTHERS)), max_size=3),
    st.sets(st.sampled_from(sorted(WHOLE_FOLDERS)), max_size=2),
    st.sampled_from(LINKS),
)
def test_every_file_of_a_folder_is_used_as_it_is_shown_or_named(tmp_path_factory, entries, others, folders, link):
    root = tmp_path_factory.mktemp("folder") / "pool"
    root.mkdir()
    pictures, named = write_random(root, entries, others, folders, link)
    listing = list_photographs(root)
    assert sorted(path.relative_to(root).as_posix() for path in listing.images) == sorted(pictures)
    reasons = {p.relative_to(root).as_posix(): reason for reason, paths in listing.left_out.items() for p in paths}
    assert sorted(reasons) == sorted(named)
    assert all(named[name] in reason for name, reason in reasons.items())
    data = open_data(root, classes=("a", "b"))  # as `run`, `label` and `encode` see it
    new, _ = open_images(root)  # as `predict` does
    assert [path.as_posix() for path in new.images] == [path.as_posix() for path in data.train.images]
    assert len({name.lower() for name in new.ids}) == len({name.lower() for name in data.train.ids})
    assert sum(int(line.split()[0]) for line in data.left_out) == len(named)
    good = {}
    for index, name in enumerate(data.train.ids):
        kind, expected = pictures[name]
        look = data.train.look(index)
        if KINDS[kind].fault:
            assert name in look.fault
            assert KINDS[kind].fault.split(" at ")[0] in look.fault
        else:
            good[index] = KINDS[kind], expected
            assert look.fault is None
            assert (look.shape, look.unused) == (expected.shape[:2], KINDS[kind].unused)
    faults = len(data.train) - len(good)
    if faults:
        with pytest.raises(DataError, match="cannot be used" if faults > 1 else "."):
            survey(data)
    for index, (kind, expected) in good.items():
        if kind.deep:
            alike = [values for other, values in good.values() if other.deep == kind.deep]
            low, high = np.percentile(np.concatenate([numbers(values) for values in alike]), (0.1, 99.9))
            assert data.train.ranges[kind.deep] == pytest.approx((low, high))
            expected = scaled(expected, low, high) if high > low else None
        if expected is not None:
            assert np.abs(data.train.image(index).astype(int) - expected).max() <= kind.tolerance
