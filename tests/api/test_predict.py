"""A run's head on images that it has not seen."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from api.fakes import FakeEncoder, tiny_config, tiny_data, write_folder
from api.small_unets import make_unet
from difal.data.images import read_image
from difal.encoders import DiffusionEncoder
from difal.errors import ConfigError, DataError
from difal.features.dense import dense_logits
from difal.features.pixels import encode
from difal.run.directory import RunDirectory
from difal.run.labels import not_predicted
from difal.run.loop import run
from difal.run.predict import predict


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(tiny_config(folder, rounds=2), data=tiny_data(), encoder=FakeEncoder(), log=lambda line: None)
    return folder


@pytest.fixture
def images(tmp_path):
    write_folder(tmp_path / "data", masks=False)
    return tmp_path / "data" / "images"


def test_masks_are_the_heads_classes(done, images, tmp_path):
    count = predict(done, images, tmp_path / "out", encoder=FakeEncoder())
    files = sorted(images.iterdir())
    assert count == len(files) > 1
    config = tiny_config(done)
    head = RunDirectory(done).rounds()[-1].head()
    colors = np.array(RunDirectory(done).facts()["colors"])
    for path in files:
        image = read_image(path)
        maps = encode(FakeEncoder(), image, path.stem, [0], config)
        expected = dense_logits(head, maps, image.shape[:2])[0].argmax(2).numpy()
        with Image.open(tmp_path / "out/masks" / f"{path.stem}.png") as mask:
            ids = np.array(mask)
            shown = np.array(mask.convert("RGB"))
        assert (ids == expected).mean() > 0.999  # equal logits may fall either way
        assert np.array_equal(shown, colors[ids])
        with Image.open(tmp_path / "out/pictures" / f"{path.stem}.jpg") as picture:
            assert picture.size == image.shape[1::-1]
    assert json.loads((tmp_path / "out/predict.json").read_text())["round"] == 1


def test_goes_on_where_it_was(done, images, tmp_path):
    encoder = FakeEncoder()
    count = predict(done, images, tmp_path / "out", encoder=encoder)
    masks = sorted((tmp_path / "out/masks").iterdir())
    before = masks[0].read_bytes()
    masks[0].unlink()
    encoder.passes = 0
    assert predict(done, images, tmp_path / "out", encoder=encoder) == count
    assert encoder.passes == 1
    assert masks[0].read_bytes() == before


def files_of(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}


def made_again(before, out):
    now = files_of(out)
    return sorted(name for name in now if now[name] != before.get(name))


def test_what_does_not_match_is_made_again_and_the_rest_stays(done, images, tmp_path):
    """Whatever went into a mask: the image, the head, the settings."""
    out, encoder, told = tmp_path / "out", FakeEncoder(), []
    again = partial(predict, out=out, encoder=encoder, log=told.append)
    again(done, images)
    before = files_of(out)
    again(done, images)
    assert made_again(before, out) == []
    changed = np.array(Image.open(images / "p1.png"))
    changed[0, 0] ^= 1  # of the same size in bytes or not
    Image.fromarray(changed).save(images / "p1.png")
    told.clear()
    again(done, images)
    assert made_again(before, out) == ["p1.png"]
    assert any(line.startswith("1 masks made of another head, encoder, setting or image before") for line in told)
    before = files_of(out)
    last = (out / "masks/p0.png").read_bytes()
    again(done, images, round=0)
    assert made_again(before, out) == sorted(before)
    assert json.loads((out / "predict.json").read_text())["round"] == 0
    again(done, images)
    assert (out / "masks/p0.png").read_bytes() == last
    moved = shutil.copytree(images, tmp_path / "moved")
    before = files_of(out)
    again(shutil.copytree(done, tmp_path / "run"), moved)
    assert made_again(before, out) == []
    facts = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps({**facts, "colors": facts["colors"][::-1]}))
    again(tmp_path / "run", moved)
    assert made_again(before, out) == sorted(before)


def test_masks_that_were_changed_by_hand_stay_and_are_named(done, images, tmp_path):
    out, told = tmp_path / "out", []
    predict(done, images, out, encoder=FakeEncoder())
    with Image.open(out / "masks/p2.png") as mask:
        corrected = np.array(mask)
        corrected[:4] = 1
        Image.fromarray(corrected).save(out / "masks/p2.png")
    kept = (out / "masks/p2.png").read_bytes()
    (out / "masks/p3.png").write_bytes(b"half a fi")
    (out / "pictures/p0.jpg").unlink()
    predict(done, images, out, round=0, encoder=FakeEncoder(), log=told.append)
    assert (out / "masks/p2.png").read_bytes() == kept
    assert any(line.startswith("1 masks changed by hand since, and left as they are") for line in told)
    assert (out / "pictures/p0.jpg").is_file()
    with Image.open(out / "masks/p3.png") as mask:
        mask.load()


def test_masks_of_other_images_do_not_pass_for_new_ones(done, images, tmp_path):
    out = tmp_path / "out"
    predict(done, images, out, encoder=FakeEncoder())
    (images / "p1.png").rename(images / "new.png")
    with pytest.raises(ConfigError, match=r"out holds masks of other images than these, p1; delete them"):
        predict(done, images, out, encoder=FakeEncoder())
    (out / "masks/p1.png").unlink()
    assert predict(done, images, out, encoder=FakeEncoder()) == len(list((out / "masks").iterdir()))
    (out / "predict.json").write_text(json.dumps({"run": "r", "round": 1, "images": "photos"}))
    with pytest.raises(ConfigError, match="do not say what made them"):
        predict(done, images, out, encoder=FakeEncoder())


def test_everything_is_looked_at_first(done, images, tmp_path):
    """Two files that cannot be used are both named, and nothing is written."""
    told = []
    Image.fromarray(np.full((32, 32, 4), 90, np.uint8)).save(images / "clear.png")
    (images / "cut.png").write_bytes((images / "p0.png").read_bytes()[:200])
    (images / "photo.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"2 of 6 images cannot be used:\n  .*clear.png is transparent.*\n  .*cut.png "):
        predict(done, images, tmp_path / "out", encoder=FakeEncoder())
    assert not (tmp_path / "out").exists()
    (images / "cut.png").unlink()
    Image.fromarray(np.full((32, 32, 4), 255, np.uint8)).save(images / "clear.png")
    predict(done, images, tmp_path / "out", encoder=FakeEncoder(), log=told.append)
    assert told == [
        "images: 5 images, 8-bit colour, 32 x 32 pixels",
        "left out: 1 .heic files (pip install 'difal-kernels[heic]'): photo.heic",
        f"no label was of {not_predicted(RunDirectory(done).round(1).metrics()['unlabeled'])}",
    ]


def deep(path, low, high, dtype=np.uint16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.linspace(low, high, 32 * 32).reshape(32, 32).astype(dtype)).save(path)


def test_deep_images_are_shown_as_the_pool_was(tmp_path):
    """One that is brighter than the pool is white throughout; by its own range it would look like any other."""
    for i in range(3):
        deep(tmp_path / f"pool/{i}.png", 300, 4000)
        Image.fromarray((np.mgrid[:32, :32][0] > 15).astype(np.uint8)).save(_made(tmp_path / f"pool/masks/{i}.png"))
    config = tiny_config(tmp_path / "run", data=str(tmp_path / "pool"), classes="a,b", rounds=1)
    run(config, encoder=FakeEncoder(), log=len)
    low, high = RunDirectory(tmp_path / "run").facts()["ranges"]["16-bit grey"]
    assert (low, high) == pytest.approx((300, 4000), abs=10)
    deep(tmp_path / "new/same.png", 300, 4000)
    deep(tmp_path / "new/bright.png", 5000, 60000)
    predict(tmp_path / "run", tmp_path / "new", tmp_path / "out", encoder=FakeEncoder())
    assert json.loads((tmp_path / "out/predict.json").read_text())["ranges"] == {"16-bit grey": [low, high]}
    shown = {}
    for name in ("same", "bright"):
        image = read_image(tmp_path / f"new/{name}.png", None, {"16-bit grey": (low, high)})
        maps = encode(FakeEncoder(), image, name, [0], config)
        expected = dense_logits(RunDirectory(tmp_path / "run").rounds()[-1].head(), maps, (32, 32))[0].argmax(2)
        with Image.open(tmp_path / f"out/masks/{name}.png") as mask:
            assert (np.array(mask) == expected.numpy()).mean() > 0.999
        shown[name] = image
    assert (shown["bright"] == 255).all()
    assert shown["same"].std() > 50
    deep(tmp_path / "new/float.tif", 0, 1, np.float32)
    with pytest.raises(DataError, match=r"float.tif is float grey, and the pool had none .* \(it had 16-bit grey\)"):
        predict(tmp_path / "run", tmp_path / "new", tmp_path / "other", encoder=FakeEncoder())
    assert not (tmp_path / "other").exists()


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_the_encoder_may_have_moved(tmp_path, images):
    """And another one in its place is refused before anything is written."""
    encoder, other = tmp_path / "encoder", tmp_path / "other"
    for seed, folder in enumerate((encoder, other)):
        DiffusionEncoder(make_unet(seed=seed), blocks=(1,), timesteps=(50,)).save_pretrained(folder)
    run(tiny_config(tmp_path / "run", rounds=1, encoder=str(encoder)), data=tiny_data(), log=len)
    encoder.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"`--encoder`: there is no folder"):
        predict(tmp_path / "run", images, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"other weights .* give --encoder with where the old ones are"):
        predict(tmp_path / "run", images, tmp_path / "out", encoder=other)
    assert not (tmp_path / "out").exists()
    assert predict(tmp_path / "run", images, tmp_path / "out", encoder=str(tmp_path / "moved")) == 4


def test_an_image_of_another_size(done, images, tmp_path):
    """A run that resizes its images answers at the size of the file."""
    path = next(images.iterdir())
    with Image.open(path) as picture:
        picture.resize((50, 34)).save(tmp_path / "one.png")
    settings = RunDirectory(done).config()
    copy = tmp_path / "copy"
    (copy / "rounds/000").mkdir(parents=True)
    for name in ("run.json", "rounds/000/picks.jsonl", "rounds/000/head.safetensors"):
        (copy / name).write_bytes((done / name).read_bytes())
    RunDirectory(copy).begin(
        tiny_config(copy, **{k: v for k, v in settings.items() if k not in ("size", "out")}, size=32)
    )
    assert predict(copy, tmp_path / "one.png", tmp_path / "out", encoder=FakeEncoder()) == 1
    with Image.open(tmp_path / "out/masks/one.png") as mask:
        assert mask.size == (50, 34)


def test_what_cannot_be_done_is_said_first(done, images, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/diary.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no run folder"):
        predict(tmp_path / "nowhere", images, tmp_path / "out")
    with pytest.raises(ConfigError, match="0 to 1, got 7"):
        predict(done, images, tmp_path / "out", round=7)
    with pytest.raises(DataError, match="no image folder"):
        predict(done, tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(DataError, match="holds no image"):
        predict(done, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="new or empty folder"):
        predict(done, images, tmp_path / "full", encoder=FakeEncoder())
    assert not (tmp_path / "out").exists()
