"""Readers of images and masks: each layout, and each thing that can be wrong with a file."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from api.fakes import write_folder
from difal.data import IGNORE, open_data
from difal.data.scenes import CLASSES, draw_scene
from difal.errors import DataError


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8), mode).save(path)


def test_scenes_come_from_their_seed():
    first, again, other = draw_scene(3), draw_scene(3), draw_scene(4)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    image, mask = first
    assert image.shape == (256, 256, 3)
    assert set(np.unique(mask)) <= {*range(len(CLASSES)), IGNORE}
    assert 0 < (mask == IGNORE).mean() < 0.2


def test_scenes_hold_every_class():
    seen = {int(c) for seed in range(12) for c in np.unique(draw_scene(seed, 64)[1])}
    assert seen == {*range(len(CLASSES)), IGNORE}


def test_scenes_by_name():
    data = open_data("scenes:3,2,0", size=64)
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.train.image(0).shape == (64, 64, 3)
    assert not np.array_equal(data.train.image(0), data.test.image(0))


@pytest.mark.parametrize("name", ["scenes:x", "scenes:0,4", "scenes:1,2,3,4", "scenes:-3"])
def test_a_wrong_scenes_name_is_refused(name):
    with pytest.raises(DataError, match="must be scenes or scenes:TRAIN,TEST,SEED"):
        open_data(name)


def test_camvid_as_published(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "a.png", np.zeros((6, 8, 3)))
        save(tmp_path / f"{split}annot" / "a.png", np.full((6, 8), 11 if split == "train" else 3))
    data = open_data(tmp_path)
    assert (len(data.classes), data.train.ids, data.classes[5]) == (11, ("a",), "tree")
    assert (data.train.mask(0) == IGNORE).all()
    assert (data.test.mask(0) == 3).all()
    shutil.rmtree(tmp_path / "trainannot")
    with pytest.raises(DataError, match="none of the known layouts"):
        open_data(tmp_path)


def test_prepared_data(tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps({"classes": ["a", "b"], "ignore": 7}))
    save(tmp_path / "train/x.png", np.zeros((4, 4, 3)))
    save(tmp_path / "train/x_label.png", [[0, 1, 7, 255]] * 4)
    data = open_data(tmp_path)
    assert (data.test, data.train.ids, data.classes) == (None, ("x",), ("a", "b"))
    assert data.train.mask(0)[0].tolist() == [0, 1, IGNORE, IGNORE]
    (tmp_path / "train/x_label.png").unlink()
    with pytest.raises(DataError, match=r"x\.png has no mask .*x_label\.png \(1 of 1"):
        open_data(tmp_path)


def test_a_plain_folder(tmp_path):
    data = open_data(write_folder(tmp_path, masks=True, test=True))
    assert data.classes == CLASSES
    assert len(data.train) == len(data.test) == 4
    assert data.train.has_masks
    save(tmp_path / "images/more/p0.png", np.zeros((5, 7, 3)))
    with pytest.raises(DataError, match=r"more/p0\.png has no mask"):
        open_data(tmp_path)
    save(tmp_path / "masks/more/p0.png", np.zeros((5, 7)))
    data = open_data(tmp_path, limit=2)
    assert data.train.ids == ("more/p0.png", "p0.png")
    assert data.train.mask(0).shape == (5, 7)
    shutil.rmtree(tmp_path / "masks")
    assert not open_data(tmp_path).train.has_masks


def test_images_alone_are_a_pool(tmp_path):
    save(tmp_path / "b.png", np.full((4, 6, 3), 2))
    save(tmp_path / "a.jpg", np.zeros((5, 7)))
    (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / "more/c.png", np.zeros((4, 4, 3)))
    data = open_data(tmp_path, classes=("x", "y"))
    assert (data.train.ids, data.train.has_masks, data.test) == (("a.jpg", "b.png", "more/c.png"), False, None)
    assert data.train.image(1).shape == (4, 6, 3)
    assert data.left_out == ["1 files that are no pictures: notes.txt"]
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n")
    assert open_data(tmp_path).classes == ("one", "two", "three")
    save(tmp_path / "images/d.png", np.zeros((4, 4, 3)))
    data = open_data(tmp_path)
    assert data.train.ids == ("d.png",)
    assert "3 files beside images/: a.jpg, b.png, notes.txt" in data.left_out


def test_masks_and_a_test_set_beside_the_images_are_used(tmp_path):
    save(tmp_path / "a.jpg", np.zeros((5, 7)))
    save(tmp_path / "masks/a.png", np.ones((5, 7)))
    save(tmp_path / "test/images/t.png", np.zeros((4, 4, 3)))
    save(tmp_path / "test/masks/t_mask.png", np.zeros((4, 4)))
    data = open_data(tmp_path, classes=("x", "y"))
    assert (data.train.ids, data.test.ids, data.left_out) == (("a.jpg",), ("t.png",), [])
    assert (data.train.mask(0) == 1).all()
    assert (data.test.mask(0) == 0).all()


def test_classes_must_be_named(tmp_path):
    write_folder(tmp_path, masks=False)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes of .* are unknown.* Write one name a line into .*classes\.txt"):
        open_data(tmp_path)
    assert open_data(tmp_path, classes=("a", "b")).classes == ("a", "b")
    with pytest.raises(DataError, match="class names must differ"):
        open_data(tmp_path, classes=("a", "a"))


def test_sizes_are_changed_alike(tmp_path):
    write_folder(tmp_path, masks=True, count=1)
    small = open_data(tmp_path, size=16)
    full = open_data(tmp_path)
    assert small.train.image(0).shape == (16, 16, 3)
    assert set(np.unique(small.train.mask(0))) <= set(np.unique(full.train.mask(0)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_photographs_are_upright(tmp_path, orientation, ending):
    """A photograph whose EXIF says how to turn it is seen, and masked, as every viewer shows it."""
    picture = Image.new("RGB", (16, 8), "black")
    picture.paste("white", (0, 0, 8, 4))
    turned = ImageOps.exif_transpose(tagged := _tagged(picture, orientation))
    (tmp_path / "images").mkdir()
    tagged.save(tmp_path / f"images/x.{ending}", quality=95, exif=tagged.getexif())
    save(tmp_path / "masks/x.png", np.zeros((turned.height, turned.width)))
    split = open_data(tmp_path, classes=("a",)).train
    assert split.image(0).shape == (turned.height, turned.width, 3)
    assert np.abs(split.image(0).astype(int) - np.asarray(turned)).max() < 32
    assert split.mask(0).shape == (turned.height, turned.width)
    assert split.look(0).fault is None


def _tagged(picture, orientation):
    picture.getexif()[0x0112] = orientation
    return picture


def test_names_and_hidden_files(tmp_path):
    save(tmp_path / "a\u202fb.png", np.zeros((4, 4, 3)))
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves beside a file")
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfsky\r\nroad\r\n")
    data = open_data(tmp_path)
    assert (data.train.ids, data.classes) == (("a\u202fb.png",), ("sky", "road"))
    (tmp_path / "classes.txt").write_bytes("h\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.txt is not UTF-8 text"):
        open_data(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\n")
    with open(os.fsencode(tmp_path) + b"/\xe9.png", "wb"):
        pass
    with pytest.raises(DataError, match=r"image name '\\udce9\.png' .* is not UTF-8; rename the file"):
        open_data(tmp_path)


def test_grey_images_are_taken(tmp_path):
    save(tmp_path / "images/g.png", np.full((4, 4), 9))
    assert (open_data(tmp_path, classes=("a",)).train.image(0) == 9).all()


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        ("text", None, r"x\.png is not a readable image .*; replace it"),
        ("cut", None, r"x\.png cannot be decoded .*; replace it"),
        (np.zeros((4, 4, 4)), None, r"x\.png is transparent at 16 pixels, such as x=0, y=0: .*without alpha"),
        (np.zeros((4, 4, 3)), np.zeros((4, 5)), r"x\.png is 5 x 4 pixels but its image is 4 x 4; export"),
        (np.zeros((4, 4, 3)), np.full((4, 4), 2), r"class id 2 at x=0, y=0 \(16 such pixels\); ids must be 0 to 1"),
        (
            np.zeros((4, 4, 3)),
            np.full((4, 4, 3), (1, 0, 0)),
            r"is in colours \(1 different ones\), not class ids; say which",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path, image, mask, message):
    path = tmp_path / "images/x.png"
    path.parent.mkdir()
    if isinstance(image, str):
        path.write_bytes(b"hello")
        if image == "cut":
            save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3)))
            path.write_bytes(path.read_bytes()[:2000])
    else:
        save(path, image)
    if mask is not None:
        save(tmp_path / "masks/x.png", mask)
    data = open_data(tmp_path, classes=("a", "b"))
    with pytest.raises(DataError, match=message):
        data.train.image(0) if mask is None else data.train.mask(0)


def test_missing_folders_say_what_is_taken(tmp_path):
    with pytest.raises(DataError, match=r"there is no data folder .*nowhere; --data takes one of\n"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="none of the known layouts"):
        open_data(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_data(tmp_path, classes=("a",))
