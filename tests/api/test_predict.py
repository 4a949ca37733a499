"""A run's head on images that it has not seen."""

import json

import numpy as np
import pytest
from PIL import Image

from api.fakes import FakeEncoder, tiny_config, tiny_data, write_folder
from difal.data.images import read_image
from difal.errors import ConfigError, DataError
from difal.features.dense import dense_logits
from difal.features.pixels import encode
from difal.run.directory import RunDirectory
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
    with pytest.raises(ConfigError, match="holds other predictions"):
        predict(done, images, tmp_path / "out", round=0, encoder=encoder)


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
