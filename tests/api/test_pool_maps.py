"""Feature maps of the pool, kept for predictions: what is missing, damaged or of something else is made again."""

import os

import numpy as np
import pytest
import torch

from api.fakes import FakeEncoder, tiny_config, tiny_data
from difal.data.base import FunctionSplit
from difal.features import maps as module
from difal.features.build import build_cache
from difal.features.maps import PoolMaps
from difal.features.pixels import encode

POOL = tiny_data(train=4).train


class Weights:
    """Gives an encoder, and says which weights it has."""

    def __init__(self, weights="a"):
        self.encoder, self.weights = FakeEncoder(), weights

    def __call__(self):
        return self.encoder


def pool_maps(folder, source, **changes):
    return PoolMaps(folder / "maps", POOL, source, tiny_config(folder, **changes))


def file(folder, index):
    return folder / "maps" / f"{index:06d}.safetensors"


def same(one, other):
    return one.size == other.size and all(torch.equal(*both) for both in zip(one.maps, other.maps, strict=True))


def test_the_pass_of_the_pool_keeps_the_maps_that_prediction_reads(tmp_path):
    """They are the encoder's, in the cache's number format and of the image's size; no image is encoded twice."""
    source, config = Weights(), tiny_config(tmp_path)
    kept = pool_maps(tmp_path, source)
    build_cache(tmp_path, POOL, source, config, noise=False, maps=kept)
    assert source.encoder.passes == len(POOL)
    for index, name in enumerate(POOL.ids):
        found = pool_maps(tmp_path, source).of(index)
        image = POOL.image(index)
        wanted = encode(FakeEncoder(), image, name, [0], config)
        assert found.size == image.shape[:2]
        assert [one.dtype for one in found.maps] == [torch.float16] * 4
        assert all(torch.equal(one, other.half()) for one, other in zip(found.maps, wanted, strict=True))
    assert source.encoder.passes == len(POOL)


def test_they_are_the_same_whether_they_were_kept_or_not(tmp_path):
    kept, lost = pool_maps(tmp_path, Weights()), pool_maps(tmp_path, Weights(), maps_gb=0)
    assert all(same(kept.of(index), lost.of(index)) for index in range(4))


def test_height_and_width_are_told_apart(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    pool, config = FunctionSplit(["wide"], lambda index: (image, None)), tiny_config(tmp_path)
    for passes in (1, 0):  # made, then read
        source = Weights()
        assert PoolMaps(tmp_path / "maps", pool, source, config).of(0).size == (24, 40)
        assert source.encoder.passes == passes


DAMAGE = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "of its header alone": lambda path: os.truncate(path, 8),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
    "another image's": lambda path: path.write_bytes(path.with_name("000002.safetensors").read_bytes()),
}


@pytest.mark.parametrize("when", ["before it is opened", "meanwhile"])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_are_made_again(tmp_path, how, when):
    source = Weights()
    first = pool_maps(tmp_path, source)
    wanted = [first.of(index) for index in range(4)]
    whole = file(tmp_path, 1).read_bytes()
    opened = pool_maps(tmp_path, source)
    if when == "meanwhile":
        assert 1 in opened
    DAMAGE[how](file(tmp_path, 1))
    before = source.encoder.passes
    assert same(opened.of(1), wanted[1])
    assert source.encoder.passes == before + 1
    assert file(tmp_path, 1).read_bytes() == whole  # and kept
    assert same(opened.of(1), wanted[1])
    assert source.encoder.passes == before + 1


@pytest.mark.parametrize("change", [{"feature_seed": 1}, {"cache_dtype": "float32"}, {"encoder_pixels": 100}, None])
def test_maps_of_another_encoder_or_setting_are_made_again(tmp_path, change):
    first = pool_maps(tmp_path, Weights("a"))
    before = [first.of(index) for index in range(4)]
    other = Weights("a" if change else "b")
    changed = pool_maps(tmp_path, other, **(change or {}))
    assert not any(index in changed for index in range(4))
    found = [changed.of(index) for index in range(4)]
    assert other.encoder.passes == 4
    assert all(same(one, two) for one, two in zip(before, found, strict=True)) == (change is None)  # one fake network
    assert same(pool_maps(tmp_path, other, **(change or {})).of(3), found[3])
    assert other.encoder.passes == 4


def test_disk_and_memory_are_bounded(tmp_path, monkeypatch):
    """What does not fit is encoded whenever it is wanted."""
    each = pool_maps(tmp_path / "all", Weights()).of(0).nbytes
    monkeypatch.setattr(module, "IN_MEMORY", 1.5 * each)
    source = Weights()
    kept = pool_maps(tmp_path, source, maps_gb=2.5 * each / 1e9)
    room = []
    for index in range(4):
        kept.of(index)
        room.append(kept.has_room())
    assert room == [True, True, False, False]  # two on disk, one in memory
    assert [index in kept for index in range(4)] == [True, True, False, True]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [file(tmp_path, i).name for i in range(2)]
    before = source.encoder.passes
    for index in (0, 1, 3, 2):
        kept.of(index)
    assert source.encoder.passes == before + 1
    again = pool_maps(tmp_path, source, maps_gb=2.5 * each / 1e9)  # what is there counts
    again.of(2)
    assert not file(tmp_path, 2).exists()
    monkeypatch.setattr(module, "DISK_LEFT", 1 << 62)  # the disk is nearly full
    build_cache(tmp_path / "full", POOL, source, tiny_config(tmp_path), maps=pool_maps(tmp_path / "full", source))
    assert not (tmp_path / "full/maps").exists()


def test_a_folder_that_takes_no_files_costs_time_alone(tmp_path):
    (tmp_path / "maps").write_text("in the way")
    source = Weights()
    kept = pool_maps(tmp_path, source)
    with pytest.warns(UserWarning, match="feature maps are not kept"):
        found = kept.of(0)
    assert same(kept.of(0), found)
    assert source.encoder.passes == 1  # in memory
    again = pool_maps(tmp_path, source)
    with pytest.warns(UserWarning, match="feature maps are not kept"):
        again.keep(1, found, memory=False)
    assert 1 not in again  # nowhere
    assert same(pool_maps(tmp_path / "other", Weights()).of(0), found)


def test_maps_beyond_half_precision_are_kept_in_memory_as_they_are(tmp_path):
    source = Weights()
    source.encoder.filters = [1e5 * one for one in source.encoder.filters]
    kept = pool_maps(tmp_path, source)
    assert kept.of(0).maps[0].dtype == torch.float32
    assert np.isfinite(kept.of(0).maps[0].numpy()).all()
    assert (0 in kept, source.encoder.passes) == (True, 1)  # else they would be made again while nothing is asked
    assert not (tmp_path / "maps").exists()
