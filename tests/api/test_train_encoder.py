"""Training an encoder on a pool: the same weights however it was interrupted, bad input refused, masks not read."""

import numpy as np
import pytest
import torch
from PIL import Image

from api.fakes import tiny_data

pytest.importorskip("diffusers", reason="the loop's extra is not installed: pip install 'difal-kernels[loop]'")

from difal.cli import main
from difal.data import open_data
from difal.encoders import load_encoder
from difal.encoders.training import SIZES, new_encoder, train_encoder, trainer
from difal.encoders.training.crops import CropSource
from difal.encoders.training.networks import Size
from difal.encoders.training.objective import Stopwatch
from difal.encoders.training.photographs import open_photographs
from difal.errors import DataError

SMALL = Size((8, 16), 1, (1, 2), 16, 1e-3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A network of a few thousand weights for 16-pixel crops, whose losses are logged every other step."""
    monkeypatch.setitem(SIZES, "tiny", SMALL)
    monkeypatch.setattr(trainer, "LOG_EVERY", 2)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pool():
    return tiny_data(train=5).train


def train(pool, out, steps, **options):
    return train_encoder(pool, out, **{"steps": steps, "start": "scratch", "threads": 1, **options})


def weights(out):
    return load_encoder(out).unet.state_dict()


def assert_equal_weights(one, other):
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def losses(out):
    """The rows of loss.csv without their seconds."""
    return [row.rpartition(",")[0] for row in (out / "loss.csv").read_text().splitlines()]


def test_the_folder_is_an_encoder_that_has_learned(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "WARMUP", 1)
    found = train(pool, tmp_path, 40, learning_rate=5e-3)
    assert (found.steps, found.loss) == (40, pytest.approx(float(losses(tmp_path)[-1].split(",")[1]), abs=1e-5))
    column = [float(row.split(",")[1]) for row in losses(tmp_path)[1:]]
    assert len(column) == 20
    assert np.mean(column[-5:]) < 0.8 * np.mean(column[:5])
    encoder = load_encoder(tmp_path)
    assert (encoder.blocks, encoder.timesteps, encoder.resolution) == (SMALL.blocks, (50, 150, 250), 16)
    assert encoder.scheduler.config.prediction_type == "v_prediction"
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.width > 100
    untrained = new_encoder("tiny", 0).unet.state_dict()
    assert any(not torch.equal(tensor, untrained[name]) for name, tensor in encoder.unet.state_dict().items())


def test_weights_do_not_depend_on_interruptions_or_threads(pool, tmp_path, monkeypatch):
    train(pool, tmp_path / "whole", 5, batch=12)

    def killed(point):
        if point == "train-step" and (tmp_path / "parts" / "training" / "state.pt").is_file():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "crash_point", killed)
        patch.setattr(trainer, "SAVE_SECONDS", 0.0)
        for _ in range(2):  # each time a step after the first that was saved
            with pytest.raises(KeyboardInterrupt):
                train(pool, tmp_path / "parts", 5, batch=12)
    assert train(pool, tmp_path / "parts", 5, batch=12, threads=3).steps == 5
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_finished_training_is_prolonged(pool, tmp_path):
    train(pool, tmp_path / "whole", 4)
    train(pool, tmp_path / "parts", 3)
    assert train(pool, tmp_path / "parts", 3).steps == 3  # nothing left to do
    train(pool, tmp_path / "parts", 4)
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_the_minutes_of_all_calls_count_together(pool, tmp_path, monkeypatch):
    class Watch(Stopwatch):
        """Goes on by a fiftieth of a second whenever it is read, however busy the machine is."""

        def __init__(self, wall=0.0, cpu=0.0):
            super().__init__(wall, cpu)
            self.now = wall

        @property
        def wall(self):
            self.now += 0.02
            return self.now

    monkeypatch.setattr(trainer, "Stopwatch", Watch)
    first = train(pool, tmp_path, None, minutes=0.01)
    assert 0.6 <= first.seconds < 0.9
    second = train(pool, tmp_path, None, minutes=0.02)
    assert first.steps < second.steps < 3 * first.steps
    assert 1.2 <= second.seconds < 1.5
    assert train(pool, tmp_path, None, minutes=0.02).steps == second.steps


def test_the_seed_decides_and_an_encoder_can_be_the_start(pool, tmp_path):
    train(pool, tmp_path / "zero", 1)
    train(pool, tmp_path / "one", 1, seed=1)
    names = ("zero", "one")
    zero, one = (weights(tmp_path / name) for name in names)
    assert any(not torch.equal(tensor, one[name]) for name, tensor in zero.items())
    train(pool, tmp_path / "further", 1, start=str(tmp_path / "one"))
    assert load_encoder(tmp_path / "further").blocks == SMALL.blocks
    train(pool, tmp_path / "one", 2, seed=1)  # and so the start of the other training is another now
    with pytest.raises(ValueError, match="start_weights"):
        train(pool, tmp_path / "further", 2, start=str(tmp_path / "one"))


def test_masks_are_not_read(tmp_path, monkeypatch):
    pool = tiny_data(train=3).train

    def mask(index):
        raise AssertionError("a mask was read")

    monkeypatch.setattr(pool, "mask", mask)
    assert train(pool, tmp_path, 1).steps == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": None}, "`minutes` or `steps`"),
        ({"steps": 0}, "`steps` must be above 0"),
        ({"minutes": float("nan")}, "`minutes` must be above 0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be above 0"),
        ({"size": "huge"}, "`size` must be one of tiny, small, base"),
        ({"batch": 6}, "`batch` must be a multiple of 4"),
        ({"seed": -1}, "`seed` and `threads`"),
        ({"start": "tiny", "size": "small"}, "`size` is for a start from scratch"),
        ({"start": "no-such-folder"}, "`start`: there is no folder"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(pool, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(pool, tmp_path / "out", **{"steps": 1, **options})
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(pool, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`out` must be a new or empty folder"):
        train(pool, tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_training_goes_on_with_its_own_settings_alone(pool, tmp_path):
    train(pool, tmp_path, 1)
    for options, name in (
        ({"batch": 4}, "batch"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"seed": 2}, "seed"),
        ({"resolution": 8}, "resolution"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` was .* now"):
            train(pool, tmp_path, 2, **options)
    with pytest.raises(ValueError, match="`data` was"):
        train(pool.first(4), tmp_path, 2)
    state = tmp_path / "training" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        train(pool, tmp_path, 2)


@pytest.mark.parametrize("every", [2, 1000])
def test_a_loss_that_is_no_number_ends_the_training(pool, tmp_path, monkeypatch, every):
    monkeypatch.setattr(trainer, "LOG_EVERY", every)
    with pytest.raises(ValueError, match="lower --learning-rate"):
        train(pool, tmp_path, 30, learning_rate=1e30)
    assert not (tmp_path / "config.json").exists()


def test_a_training_of_few_steps_has_a_loss_curve(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "LOG_EVERY", 3)
    found = train(pool, tmp_path, 2)
    (row,) = losses(tmp_path)[1:]
    assert row.split(",")[:2] == ["2", f"{found.loss:.5f}"]
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.width > 100
    train(pool, tmp_path, 4)
    assert [row.split(",")[0] for row in losses(tmp_path)[1:]] == ["3"]


def test_images_that_cannot_be_used_are_named_together(tmp_path):
    for name, size in (("good", (40, 30)), ("small", (40, 7))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    pool = open_data(tmp_path, classes=("any",)).train
    with pytest.raises(DataError, match=r"(?s)2 of 3 images.*small.*40 x 7.*torn\.png"):
        train(pool, tmp_path / "out", 1)
    assert not list((tmp_path / "out" / "training").glob("images*"))


def test_crops_are_images_and_repeat(pool, tmp_path):
    source = CropSource(pool, tmp_path, resolution=16, stride=4)
    assert set(source.sides) == {16, 12, 8}
    seen = set()
    for seed in range(8):
        one, same = (source.draw(8, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(one, same)
        assert float(one.abs().max()) <= 1
        assert one.shape == (8 * 16**2 // one.shape[2] ** 2, 3, one.shape[2], one.shape[2])
        seen.add(one.shape[2])
    assert seen == {16, 12, 8}
    again = CropSource(pool, tmp_path, resolution=16, stride=4)  # from the file
    one, same = (each.draw(4, torch.Generator().manual_seed(0)) for each in (again, source))
    assert torch.equal(one, same)


def test_images_are_shrunk_to_twice_the_resolution(tmp_path):
    ramp = np.tile(np.arange(0, 250, 2, dtype=np.uint8)[:, None, None], (1, 60, 3))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    source = CropSource(open_data(tmp_path, classes=("any",)).train, tmp_path / "work", resolution=16, stride=4)
    assert source.shapes == [(67, 32)]
    assert (np.diff(source.image(0)[:, :, 0].astype(int), axis=0) >= 0).all()


def test_shares_and_colours_of_crops(pool, tmp_path):
    only = CropSource(pool.first(2), tmp_path, 16, 4, shares=[0.0, 1.0])
    assert torch.equal(
        only.shares.multinomial(50, replacement=True, generator=torch.Generator().manual_seed(0)), torch.ones(50).long()
    )
    plain, jittered = (CropSource(pool.first(2), tmp_path, 16, 4, jitter=j) for j in (False, True))
    one, other = (source.draw(4, torch.Generator().manual_seed(3)) for source in (plain, jittered))
    assert one.shape == other.shape
    assert float(other.abs().max()) <= 1
    assert not torch.equal(one, other)


def test_the_photographs_of_tiny_are_there():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pool, shares = open_photographs()
    assert len(pool) == len(shares) == 11
    assert all(min(pool.image(i).shape[:2]) >= 64 for i in range(11))


def test_the_command(tmp_path, capsys):
    out = tmp_path / "encoder"
    words = ["train-encoder", "--data", "scenes:3,0,0", "--out", str(out), "--threads", "1"]
    assert main([*words, "--start", "scratch", "--steps", "2"]) == 0
    assert f"--encoder {out}" in capsys.readouterr().out
    assert load_encoder(out).resolution == 16
    assert main([*words, "--start", "tiny", "--steps", "2"]) == 1
    assert "`start` was 'scratch'" in capsys.readouterr().err
    assert main([*words, "--device", "abacus", "--steps", "2"]) == 1
    assert "--device abacus" in capsys.readouterr().err
