"""What the encoder gets of large images: bounded, told, kept with the run, and the same wherever one is encoded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from api.fakes import FakeEncoder, tiny_config
from difal.config import Config, resumed_config
from difal.data.tiff import block_mean
from difal.errors import ConfigError
from difal.features.cache import StaleCache
from difal.features.checks import check_sizes, may_be_reduced
from difal.features.pixels import encode, encoder_reduction
from difal.run.directory import RunDirectory
from difal.run.loop import run
from difal.run.predict import predict
from resident import needs_status, said_by


def silent(line):
    pass


def a_photograph(path, height=64, width=96, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


class Shrinks:
    """Sees every image at 10 pixels of its shorter side, or enlarged three times where that is less."""

    def working_size(self, height, width):
        factor = min(3, 10 / min(height, width))
        return round(height * factor), round(width * factor)


class Strict:
    """Takes multiples of 8 alone."""

    def working_size(self, height, width):
        if height % 8 or width % 8:
            raise ValueError("not a multiple of 8")
        return height, width


@pytest.mark.parametrize(
    ("encoder", "size", "most", "expected"),
    [
        (FakeEncoder(), (64, 96), 6144, 1),
        (FakeEncoder(), (64, 96), 6143, 2),
        (FakeEncoder(), (64, 96), 1000, 3),  # 22 x 32
        (FakeEncoder(), (64, 96), 0, 1),
        (Shrinks(), (100, 100), 5000, 2),  # the image is too large, whatever the network makes of it
        (Shrinks(), (4, 1000), 4000, 1),  # not enlarged more than 2.5 times, to 10 x 2500, which is too many
        (Strict(), (64, 96), 1536, 2),
        (Strict(), (64, 96), 1000, 4),  # a third is no multiple of 8
    ],
)
def test_the_smallest_whole_number_that_helps(encoder, size, most, expected):
    if size == (4, 1000):
        expected = next(f for f in range(1, 99) if np.prod(encoder.working_size(-(-4 // f), -(-1000 // f))) <= most)
        assert expected > 1
    assert encoder_reduction(encoder, *size, most) == expected


def test_a_size_that_the_encoder_cannot_take_is_still_refused():
    with pytest.raises(ConfigError, match="cannot take 65 x 64 pixels: not a multiple of 8"):
        check_sizes(Strict(), Config(encoder_pixels=100), [(64, 65)])


def test_maps_are_those_of_the_reduced_image():
    image = np.random.default_rng(0).integers(0, 255, (64, 97, 3), dtype=np.uint8)
    found = encode(FakeEncoder(), image, "a", [0, 1], Config(encoder_pixels=800))
    expected = encode(FakeEncoder(), block_mean(image, 3), "a", [0, 1], Config(encoder_pixels=0))
    assert found[1].shape[2:] == (11, 17)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_it_is_told_kept_and_used_throughout(tmp_path):
    """A run asks for pixels of the whole image, and predicts at its size, with features of the reduced one."""
    a_photograph(tmp_path / "data/large.png")
    a_photograph(tmp_path / "data/small.png", 20, 30, seed=1)
    config = tiny_config(tmp_path / "run", data=str(tmp_path / "data"), classes="a,b", encoder_pixels=1000, pictures=0)
    told, encoder = [], Recording()
    assert run(config, encoder=encoder, log=told.append) == "waiting"
    line = "encoder: it gets 1 images at 1/3 of the side, so that none has more than 1,000 pixels (--encoder-pixels)"
    assert any(one.startswith(line) for one in told)
    assert encoder.sizes == {(22, 32), (20, 30)}
    picks = [pick for pick in RunDirectory(tmp_path / "run").round(0).picks() if pick.image == "large.png"]
    assert {(pick.height, pick.width) for pick in picks} == {(64, 96)}
    assert max(pick.y for pick in picks) > 22  # not positions of what the encoder got
    path = tmp_path / "run/to_label.jsonl"
    rows = [json.loads(one) for one in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "class_id": row["rank"] % 2}) + "\n" for row in rows))
    stored = RunDirectory(tmp_path / "run").config()
    assert stored["encoder_pixels"] == 1000
    run(resumed_config(stored, {"rounds": 1}), resume=True, encoder=encoder, log=silent)
    seen = Recording()
    predict(tmp_path / "run", tmp_path / "data", tmp_path / "out", encoder=seen, log=told.append)
    assert seen.sizes == {(22, 32), (20, 30)}
    assert told[-1].startswith(line)
    with Image.open(tmp_path / "out/masks/large.png") as mask:
        assert mask.size == (96, 64)
    with pytest.raises(ConfigError, match="`encoder_pixels` was 1000 when the run began and is 2000 now"):
        resumed_config(stored, {"encoder_pixels": 2000})


class Recording(FakeEncoder):
    """Keeps the (H, W) that it is given."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def maps(self, images, noise):
        self.sizes.add(tuple(images.shape[2:]))
        return super().maps(images, noise)


def test_features_of_another_bound_are_not_taken_for_these(tmp_path):
    a_photograph(tmp_path / "data/large.png")
    shared = {"data": str(tmp_path / "data"), "classes": "a,b", "cache": str(tmp_path / "cache")}
    run(tiny_config(tmp_path / "one", encoder_pixels=1000, **shared), encoder=FakeEncoder(), log=silent)
    with pytest.raises(StaleCache, match="encoder_pixels = 1000, this run has 0"):
        run(tiny_config(tmp_path / "two", encoder_pixels=0, **shared), encoder=FakeEncoder(), log=silent)


def test_runs_and_features_of_earlier_versions_go_on(tmp_path):
    """They had no bound: a cache does not say so, and a run keeps what it was made with."""
    a_photograph(tmp_path / "data/a.png", 20, 30)
    run(tiny_config(tmp_path / "run", data=str(tmp_path / "data"), classes="a,b"), encoder=FakeEncoder(), log=silent)
    settings = tmp_path / "run/cache/pool/cache.json"
    meta = json.loads(settings.read_text())
    assert meta["settings"].pop("encoder_pixels") == 0  # no image is large
    settings.write_text(json.dumps(meta))
    stored = tmp_path / "run/config.yaml"
    lines = stored.read_text().splitlines(keepends=True)
    stored.write_text("".join(line for line in lines if not line.startswith("encoder_pixels")))
    config = RunDirectory(tmp_path / "run").config()
    assert config["encoder_pixels"] == 0
    assert run(Config(**config), resume=True, encoder=FakeEncoder(), log=silent) == "waiting"


@pytest.mark.parametrize(
    ("size", "bound", "expected"),
    [
        ((2048, 2048), 1 << 22, False),
        ((2048, 2049), 1 << 22, True),
        ((100, 401), 1 << 22, True),  # long beside its shorter side, to which networks shrink or enlarge
        ((8, 8), 1000, True),  # the network may enlarge it
        ((9000, 9000), 0, False),
    ],
)
def test_whether_the_bound_may_matter(size, bound, expected):
    assert may_be_reduced([(10, 10), size], Config(encoder_pixels=bound)) is expected


MEASURE = """
import json, sys
from pathlib import Path
import torch
from api.fakes import FakeEncoder, tiny_config
from difal.run.loop import run
from difal.run.predict import predict
from resident import Peak

def begin(data, bound):
    out = Path(f"run-{data}-{bound}")
    config = tiny_config(out, data=data, classes="a,b", rounds=1, encoder_pixels=bound, pictures=0)
    run(config, encoder=FakeEncoder(), log=lambda line: None)
    rows = [json.loads(line) for line in (out / "to_label.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "class_id": row["rank"] % 2}) for row in rows]
    (out / "to_label.jsonl").write_text("\\n".join(lines))
    run(config, resume=True, encoder=FakeEncoder(), log=lambda line: None)
    predict(out, data, f"out-{data}-{bound}", threads=1, encoder=FakeEncoder())

torch.set_num_threads(1)
begin("small", 1 << 18)  # what libraries take once
with Peak() as peak:
    begin("large", int(sys.argv[1]))
print(peak.took)
"""
SIDE = 1600


@needs_status
def test_memory_is_what_the_documentation_says(tmp_path):
    """Of a run and its prediction, on 2.6 megapixels: 16 bytes a pixel, and what the encoder takes for its share."""
    for name, side in (("small", 64), ("large", SIDE)):
        (tmp_path / name).mkdir()
        Image.effect_noise((side, side), 60).convert("RGB").save(tmp_path / name / "a.png", compress_level=1)
    assert int(said_by(MEASURE, tmp_path, str(1 << 18))) < 16 * SIDE**2 + (48 << 20)
