"""Masks of every kind that tools write: the right class at every pixel, or the real reason."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from api.fakes import FakeEncoder, tiny_config
from api.image_kinds import raw_png
from difal.data import IGNORE, open_data
from difal.data.survey import survey
from difal.data.values import parse_classes, parse_mask_values
from difal.errors import ConfigError, DataError
from difal.run.directory import RunDirectory
from difal.run.loop import run

CLASSES = ("sky", "road", "tree")
TRUTH = np.random.default_rng(0).integers(0, 3, (12, 20)).astype(np.uint8)
TRUTH[0, :3] = IGNORE
COLORS = np.array([(0, 0, 0), (255, 0, 0), (20, 40, 60)], np.uint8)


def open_one(root, mask, classes=CLASSES, **options):
    """The pool of one image, whose mask is written by `mask(path without its ending)`, which returns the ending."""
    (root / "images").mkdir()
    (root / "masks").mkdir()
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(root / "images/a.png")
    ending = mask(root / "masks/a")
    (root / "masks/a").rename(root / f"masks/a.{ending}")
    return open_data(root, classes=classes, **options)


def pillow(array, mode=None, ending="png", **options):
    def write(path):
        picture = Image.fromarray(array, mode)
        if "palette" in options:
            picture.putpalette(options["palette"])
        picture.save(path, "JPEG" if ending == "jpg" else "GIF" if ending == "gif" else "PNG")
        return ending

    return write


def by_tifffile(array, **options):
    def write(path):
        tifffile.imwrite(path, array, metadata=None, **options)
        return "tif"

    return write


def raw(samples, depth, color, **chunks):
    def write(path):
        raw_png(path, samples[..., None], depth, color, **chunks)
        return "png"

    return write


def colored(values):
    return np.where((values == IGNORE)[..., None], 255, COLORS[np.minimum(values, 2)]).astype(np.uint8)


IDS = {
    "8 bit": pillow(TRUTH),
    "palette": pillow(TRUTH, palette=COLORS.tobytes() + bytes(range(256)) * 2),
    "three equal channels": pillow(np.dstack([TRUTH] * 3)),
    "opaque": pillow(np.dstack([TRUTH, np.full_like(TRUTH, 255)])),
    "opaque colour": pillow(np.dstack([TRUTH] * 3 + [np.full_like(TRUTH, 255)])),
    "16 bit": pillow(TRUTH.astype(np.uint16)),
    "32 bit": by_tifffile(TRUTH.astype(np.int32)),
    **{
        f"tiff {dtype}": by_tifffile(TRUTH.astype(dtype), byteorder=">" if ">" in dtype else "<")
        for dtype in ("u1", ">u2", "<u2", ">i2", ">i4", "<i8", ">u8", "<f4", ">f8")
    },
    "compressed": by_tifffile(TRUTH, compression="lzw", tile=(16, 16)),
    "tiff palette": by_tifffile(TRUTH, photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
    "tiff in colour": by_tifffile(np.dstack([TRUTH] * 3), photometric="rgb"),
    "gif": pillow(TRUTH, ending="gif"),
}


@pytest.mark.parametrize("name", IDS)
def test_class_ids_of_any_type(tmp_path, name):
    data = open_one(tmp_path, IDS[name])
    assert np.array_equal(data.train.mask(0), TRUTH)
    assert np.array_equal(data.train.look(0).counts, np.bincount(TRUTH.ravel(), minlength=256))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_are_ids_and_not_shades(tmp_path, depth):
    """Pillow spreads two and four bits over 0 to 255."""
    values = np.where(TRUTH == IGNORE, 0, TRUTH).clip(max=2**depth - 1).astype(np.uint8)
    data = open_one(tmp_path, raw(values, depth, 0), classes=CLASSES[: 2**depth])
    assert np.array_equal(data.train.mask(0), values)


VALUES = np.array([7, 4000, 33])
MAPPED = np.where(TRUTH == IGNORE, IGNORE, VALUES[np.minimum(TRUTH, 2)])


@pytest.mark.parametrize("how", ["classes.txt", "names first", "flag"])
def test_values_that_are_no_ids(tmp_path, how):
    lines = [f"{value} {name}" for value, name in zip(VALUES, CLASSES, strict=True)]
    if how == "names first":
        lines = [f"{name}: {value}" for value, name in zip(VALUES, CLASSES, strict=True)]
    if how != "flag":
        (tmp_path / "classes.txt").write_text("\n".join(lines) + "\n")
    options = {"classes": CLASSES, "mask_values": "7,4000,33"} if how == "flag" else {"classes": None}
    data = open_one(tmp_path, by_tifffile(MAPPED.astype(">u2"), byteorder=">"), **options)
    assert data.classes == CLASSES
    assert np.array_equal(data.train.mask(0), TRUTH)


def test_two_values_of_one_class_a_negative_one_and_void(tmp_path):
    (tmp_path / "classes.txt").write_text("-1 void\n0 sky\n1 road\n2 road\n")
    stored = np.where(TRUTH == IGNORE, -1, TRUTH).astype(np.int16)
    data = open_one(tmp_path, by_tifffile(stored), classes=None)
    assert data.classes == ("sky", "road")
    assert np.array_equal(data.train.mask(0), np.where(TRUTH == 2, 1, TRUTH))


@pytest.mark.parametrize("kind", ["colours", "palette", "tiff palette"])
def test_colours_where_the_list_is_of_colours(tmp_path, kind):
    """Also of a palette file, whose own numbers do not count then."""
    shown = colored(TRUTH)
    if kind == "colours":
        write = pillow(shown)
    else:
        order = np.array([2, 0, 1, 255] + [0] * 252)  # other numbers than the ids
        numbers = np.where(TRUTH == IGNORE, 3, np.argsort(order[:3])[np.minimum(TRUTH, 2)]).astype(np.uint8)
        table = np.concatenate([COLORS[[2, 0, 1]], [[255] * 3], np.zeros((252, 3))]).astype(np.uint8)
        write = pillow(numbers, palette=table.tobytes())
        if kind == "tiff palette":
            write = by_tifffile(numbers, photometric="palette", colormap=table.T.astype(np.uint16) * 257)
    (tmp_path / "classes.txt").write_text(
        "#000000 sky\nroad 255 0 0\n#14283c tree\n#ffffff void\n".replace("road 255 0 0", "#ff0000 road")
    )
    data = open_one(tmp_path, write, classes=None)
    assert np.array_equal(data.train.mask(0), TRUTH)
    assert np.array_equal(data.colors, COLORS)


@pytest.mark.parametrize("one_bit", [False, True])
def test_black_and_white(tmp_path, one_bit):
    """0 and 255, as annotation tools write two classes: stopped, with a cure that works."""
    truth = (TRUTH == 1).astype(np.uint8)
    write = raw(truth, 1, 0) if one_bit else pillow(truth * 255)
    data = open_one(tmp_path, write, classes=("sky", "road"))
    if not one_bit:
        with pytest.raises(
            DataError, match=r"road is in no mask: .* void .*\. Where 255 is a class and not void, .*--mask-values"
        ):
            survey(data)
    data = open_data(tmp_path, classes=("sky", "road"), mask_values="0,255")
    assert np.array_equal(data.train.mask(0), truth)
    share = 100 * truth.mean()
    assert survey(data).lines[-1] == f"masks: sky {100 - share:.1f} %, road {share:.1f} %, void 0.0 %"


def test_a_run_on_black_and_white_masks_learns_both_classes(tmp_path):
    """The pool and the test set, whose object is brighter than the ground."""
    for top in ("", "test/"):
        for i in range(3):
            mask = np.zeros((32, 32), np.uint8)
            mask[5:20, 8 + i : 30] = 255
            image = np.where(mask[..., None] > 0, (220, 40, 40), (90, 90, 90)).astype(np.uint8)
            for kind, array in (("images", image), ("masks", mask)):
                (tmp_path / "d" / top / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(tmp_path / "d" / top / kind / f"{i}.png")
    config = tiny_config(tmp_path / "run", data=str(tmp_path / "d"), classes="a,b", rounds=1, budget=4.0)
    with pytest.raises(DataError, match="b is in no mask"):
        run(config, encoder=FakeEncoder(), log=len)
    assert not (tmp_path / "run").exists()
    config.mask_values = "0,255"
    run(config, encoder=FakeEncoder(), log=len)
    confusion = np.array(json.loads((tmp_path / "run/rounds/000/metrics.json").read_text())["confusion"])
    share = (Image.open(tmp_path / "d/test/masks/0.png").histogram()[255]) / 32**2
    assert confusion.sum() == 3 * 32**2
    assert confusion.sum(1)[1] / confusion.sum() == pytest.approx(share, abs=0.05)
    assert np.trace(confusion) / confusion.sum() > 0.6
    assert confusion[0, 0] > 0 < confusion[1, 1]
    assert {label.class_id for label in RunDirectory(tmp_path / "run").round(0).labels()} == {0, 1}


def test_a_pool_that_is_mostly_void_stops(tmp_path):
    stored = np.full((12, 20), 255, np.uint8)
    stored[:3] = [0, 1, 2, 0] * 5
    data = open_one(tmp_path, pillow(stored))
    with pytest.raises(DataError, match=r"75 % of the pool's pixels are void .*--mask-check accept"):
        survey(data)
    assert survey(data, "accept").lines[-1] == "masks: sky 12.5 %, road 6.2 %, tree 6.2 %, void 75.0 %"


STACK = np.stack([TRUTH, TRUTH])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (by_tifffile(STACK, photometric="minisblack"), r"is a mask with page 2; export one page"),
        (by_tifffile(np.dstack([TRUTH] * 2), extrasamples=[0]), r"is a mask with band 2; export one page of one band"),
        (by_tifffile(TRUTH.astype(np.float32) + 0.5), r"has the value \d+\.5 at x=0, y=0, which is no class id"),
        (by_tifffile(np.where(TRUTH > 9, np.nan, 0.0).astype(np.float32)), r"has the value nan at x=0, y=0"),
        (by_tifffile(TRUTH.astype(np.int16) - 1), r"has class id (254|-1) at .*; ids must be 0 to 2"),
        (by_tifffile(TRUTH.astype(np.complex64)), r"holds complex64 values"),
        (pillow(colored(TRUTH)), r"is in colours \(4 different ones\), not class ids; say which colour is which class"),
        (pillow(TRUTH * 40, ending="jpg"), r"has class id .*; \.jpg files change values, export the mask as PNG"),
        (
            pillow(np.dstack([TRUTH] * 3 + [np.where(TRUTH == 1, 0, 255).astype(np.uint8)])),
            r"is transparent at \d+ pixels",
        ),
        (pillow(TRUTH[:, :10]), r"is 10 x 12 pixels but its image is 20 x 12; export the mask at the image's size"),
    ],
)
def test_every_refusal_names_the_reason(tmp_path, write, message):
    data = open_one(tmp_path, write)
    assert data.train.look(0).fault is not None
    with pytest.raises(DataError, match=rf"masks/a\.\w+ {message}"):
        data.train.mask(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 a\n0 b\n", "gives the value 0 twice"),
        ("0 a\n#ff0000 b\n", "mixes numbers and colours"),
    ],
)
def test_lists_that_contradict_themselves(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        parse_classes(text, tmp_path / "classes.txt")


@pytest.mark.parametrize("text", ["0", "0,0,1", "0,x,2", "0,#ff0000,2", "1,2,3,4"])
def test_mask_values_that_cannot_be(text):
    with pytest.raises(ConfigError, match="`mask_values` must be"):
        parse_mask_values(text, CLASSES)


def test_names_with_numbers_in_them_are_names(tmp_path):
    assert parse_classes("road 66\ntree\n", tmp_path) == (("road 66", "tree"), None)


def packed(values, greys, ending="png"):
    """A palette file of a grey mask, as tools make that save space: its numbers are places in a list of greys."""
    numbers = np.searchsorted(greys, values).astype(np.uint8) if list(greys) == sorted(greys) else values
    return pillow(numbers, palette=np.repeat(np.array(greys, np.uint8), 3).tobytes(), ending=ending)


def test_a_grey_mask_packed_into_a_palette(tmp_path):
    """By its greys where its numbers are no classes, by its numbers where its greys are none, else refused."""
    (tmp_path / "classes.txt").write_text("7 sky\n40 road\n33 tree\n")
    by_value = open_one(tmp_path, packed(np.where(MAPPED == 4000, 40, MAPPED), [7, 33, 40, 255]), classes=None)
    assert np.array_equal(by_value.train.mask(0), TRUTH)


def test_a_palette_of_shades_goes_by_its_numbers(tmp_path):
    values = TRUTH.clip(max=2)
    data = open_one(tmp_path, pillow(values, palette=bytes([10] * 3 + [90] * 3 + [200] * 3)))
    assert np.array_equal(data.train.mask(0), values)


def test_a_palette_that_can_be_read_in_two_ways_is_refused(tmp_path):
    values = TRUTH.clip(max=2)
    data = open_one(tmp_path, pillow(values, palette=bytes([1] * 3 + [0] * 3 + [2] * 3)))
    with pytest.raises(DataError, match=r"numbers \(0, 1, 2\) or its greys \(1, 0, 2\); save it as greyscale"):
        data.train.mask(0)
