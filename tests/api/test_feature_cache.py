"""The feature cache against features computed the plain way, and its promises."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from api.fakes import FakeEncoder, tiny_config, tiny_data
from api.small_unets import make_unet
from difal.data.base import FunctionSplit
from difal.encoders import DiffusionEncoder
from difal.encoders.lazy import LazyEncoder
from difal.errors import ConfigError, DataError
from difal.features import build
from difal.features.build import build_cache
from difal.features.cache import Pixel, StaleCache
from difal.features.pixels import draw_candidates, to_input
from difal.threads import one_thread
from difal_kernels import maxherding


def plain_features(image, name, points, draw, seed=0):
    """(P, D) float64 by resizing everything."""
    encoder, size = FakeEncoder(), image.shape[:2]
    maps = encoder.maps(to_input(image), encoder.noise([name], *size, seed=seed, draw=draw))
    full = torch.cat([interpolate(m.double(), size, mode="bilinear", align_corners=False)[0] for m in maps])
    rows = full[:, points[:, 0], points[:, 1]].T
    return (rows / rows.norm(dim=1, keepdim=True)).numpy()


@pytest.fixture
def pool():
    return tiny_data(train=3).train


def test_it_holds_what_the_method_says(tmp_path, pool):
    config = tiny_config(tmp_path, cache_dtype="float32", noise_samples=3, batch=2)
    cache = build_cache(tmp_path, pool, FakeEncoder, config)
    none = np.zeros((0, 2), int)
    for index, name in enumerate(pool.ids):
        image = pool.image(index)
        candidates = draw_candidates(name, image.shape[:2], config, none)
        assert len({tuple(point) for point in candidates}) == config.candidates
        picks = maxherding(plain_features(image, name, candidates, 0), config.local)
        wanted = {"local": candidates[picks], "random": candidates[: config.random]}
        for pixels, points in wanted.items():
            assert np.array_equal(cache.arrays[f"{pixels}.points"][index], points)
            here = slice(index * 8, index * 8 + 8)
            assert np.allclose(cache.features(pixels)[here], plain_features(image, name, points, 0), atol=1e-6)
            for draw in (1, 2, 3):
                noisy = plain_features(image, name, points, draw)
                assert np.allclose(cache.noise(pixels)[here, draw - 1], noisy, atol=1e-6)
        assert cache.size(index) == image.shape[:2]


def test_it_never_looks_at_the_truth(tmp_path, pool):
    class Blind(FunctionSplit):
        def mask(self, index):
            raise AssertionError("looked at the truth")

    blind = build_cache(tmp_path / "a", Blind(pool.ids, pool.make), FakeEncoder, tiny_config(tmp_path))
    seeing = build_cache(tmp_path / "b", pool, FakeEncoder, tiny_config(tmp_path))
    assert np.array_equal(blind.features("local"), seeing.features("local"))


def test_void_pixels_are_avoided_on_request(tmp_path, pool):
    """As the released code does; only then does the cache depend on the masks, and it is another cache."""
    config = tiny_config(tmp_path, void="avoid")
    cache = build_cache(tmp_path / "avoid", pool, FakeEncoder, config)
    asked = build_cache(tmp_path / "ask", pool, FakeEncoder, tiny_config(tmp_path))
    void = {"avoid": 0, "ask": 0}
    for index in range(len(pool)):
        mask = pool.mask(index)
        for name, one in (("avoid", cache), ("ask", asked)):
            rows, columns = np.concatenate([one.arrays[f"{p}.points"][index] for p in ("local", "random")]).T
            void[name] += int((mask[rows, columns] == 255).sum())
    assert void["avoid"] == 0 < void["ask"]
    for folder, other in (("avoid", tiny_config(tmp_path)), ("ask", config)):
        with pytest.raises(ConfigError, match="holds features with void = "):
            build_cache(tmp_path / folder, pool, FakeEncoder, other)
    pool.has_masks = False
    with pytest.raises(ConfigError, match="use --void ask"):
        build_cache(tmp_path / "none", pool, FakeEncoder, config)


def test_candidates_depend_on_seed_and_name_alone(tmp_path):
    none = np.zeros((0, 2), int)
    config, other = tiny_config(tmp_path), tiny_config(tmp_path, feature_seed=1)
    noise_samples = [
        draw_candidates(n, (32, 32), c, none).tolist() for n, c in (("a", config), ("b", config), ("a", other))
    ]
    assert noise_samples[0] == draw_candidates("a", (32, 32), tiny_config(tmp_path, seed=5), none).tolist()
    assert noise_samples[0] != noise_samples[1]
    assert noise_samples[0] != noise_samples[2]
    with pytest.raises(DataError, match="image a has 9 candidate pixels, fewer than the 10 that are kept"):
        draw_candidates("a", (3, 3), tiny_config(tmp_path, random=10), none)


def test_local_herding_is_conditioned_on_given_pixels(tmp_path, pool):
    config = tiny_config(tmp_path, cache_dtype="float32")
    given = [Pixel(1, 5, 6), Pixel(0, 2, 3), Pixel(1, 30, 31)]
    cache = build_cache(tmp_path, pool, FakeEncoder, config, given)
    image, name = pool.image(1), pool.ids[1]
    labeled = np.array([given[0][1:], given[2][1:]])
    candidates = draw_candidates(name, image.shape[:2], config, labeled)
    assert not any((candidates == point).all(1).any() for point in labeled)
    features = plain_features(image, name, candidates, 0)
    wanted = maxherding(features, 8, labeled=plain_features(image, name, labeled, 0))
    assert np.array_equal(cache.arrays["local.points"][1], candidates[wanted])
    assert not np.array_equal(wanted, maxherding(features, 8))
    plain = [plain_features(pool.image(p.image), pool.ids[p.image], np.array([p[1:]]), 0)[0] for p in given]
    assert np.allclose(cache.features_of(given), plain, atol=1e-6)


def test_pixels_are_found_again(tmp_path, pool):
    cache = build_cache(tmp_path, pool, FakeEncoder, tiny_config(tmp_path))
    rows = [17, 3, 20]
    for pixels in ("local", "random"):
        wanted = [cache.pixel(pixels, row) for row in rows]
        assert np.array_equal(cache.features_of(wanted), cache.features(pixels)[rows])
        left = cache.open_rows(pixels, wanted)
        assert sorted({*range(24)} - {*left.tolist()}) == sorted(rows)
    with pytest.raises(ConfigError, match="not in the cache"):
        cache.features_of([Pixel(0, 31, 31)])
    assert len(cache.context(5)) == 5
    assert np.array_equal(cache.context(99), cache.features("random"))


def test_a_pass_cut_short_goes_on(tmp_path, pool):
    class Failing(FakeEncoder):
        def maps(self, images, noise):
            if self.passes > 3:
                raise KeyboardInterrupt
            return super().maps(images, noise)

    config, encoder = tiny_config(tmp_path), FakeEncoder()
    with pytest.raises(KeyboardInterrupt), one_thread():  # one image at a time: the passes are counted
        build_cache(tmp_path / "cut", pool, Failing, config)
    resumed = build_cache(tmp_path / "cut", pool, lambda: encoder, config)
    assert encoder.passes == 2 * 3  # two images left, each under the fixed noise and two noise_samples
    whole = build_cache(tmp_path / "whole", pool, FakeEncoder, config)
    for name, array in whole.arrays.items():
        assert np.array_equal(array, resumed.arrays[name]), name


@pytest.mark.parametrize("point", ["rows", "json"])
def test_a_move_into_the_arrays_cut_short_is_redone(tmp_path, pool, monkeypatch, point):
    """Between the rows and the JSON file, and between that and the deletion of the images' files."""
    config, encoder = tiny_config(tmp_path), FakeEncoder()
    whole = build_cache(tmp_path / "whole", pool, FakeEncoder, config)
    write = build.write_json

    def cut(path, value):
        if value["done"]:
            if point == "json":
                write(path, value)
            raise KeyboardInterrupt
        write(path, value)

    with monkeypatch.context() as patched:
        patched.setattr(build, "write_json", cut)
        with pytest.raises(KeyboardInterrupt):
            build_cache(tmp_path / "cut", pool, lambda: encoder, config, wave=2)
    assert encoder.passes == 2 * 3
    assert len(list((tmp_path / "cut/images").iterdir())) == 2
    resumed = build_cache(tmp_path / "cut", pool, lambda: encoder, config, wave=2)
    assert encoder.passes == 3 * 3
    assert not (tmp_path / "cut/images").exists()
    for name, array in whole.arrays.items():
        assert np.array_equal(array, resumed.arrays[name]), name


def test_half_the_bytes_lose_little(tmp_path, pool):
    half = build_cache(tmp_path / "16", pool, FakeEncoder, tiny_config(tmp_path))
    full = build_cache(tmp_path / "32", pool, FakeEncoder, tiny_config(tmp_path, cache_dtype="float32"))
    assert half.features("local").dtype == np.float16
    assert np.array_equal(half.features("local"), full.features("local").astype(np.float16))
    assert np.array_equal(half.arrays["local.points"], full.arrays["local.points"])


def test_other_weights_of_the_same_name_are_refused(tmp_path, pool):
    """By a digest of the encoder's files, or of the encoder itself."""
    config = tiny_config(tmp_path, encoder=str(tmp_path / "encoder"))
    unet = make_unet()
    for change in (0.0, 0.5):
        with torch.no_grad():
            unet.conv_in.weight[0, 0, 0, 0] += change
        encoder = DiffusionEncoder(unet, blocks=(0, 1), timesteps=(50,))
        encoder.save_pretrained(tmp_path / "encoder")
        for folder, source in (("files", LazyEncoder(config)), ("object", LazyEncoder(config, encoder))):
            if change == 0:
                build_cache(tmp_path / folder, pool, source, config)
                continue
            with pytest.raises(ConfigError, match=r"other weights: .* had the digest \w{12} then and has \w{12} now"):
                build_cache(tmp_path / folder, pool, source, config)


def test_the_digest_is_of_the_weights_and_settings_not_of_the_place(tmp_path):
    unet, digests = make_unet(), []
    for folder, timesteps in (("a", (50,)), ("b", (50,)), ("c", (60,))):
        encoder = DiffusionEncoder(unet, blocks=(0, 1), timesteps=timesteps)
        encoder.save_pretrained(tmp_path / folder)
        lazy = LazyEncoder(tiny_config(tmp_path, encoder=str(tmp_path / folder)))
        before = lazy.weights
        lazy()
        assert lazy.weights == before
        digests.append((before, encoder.fingerprint()))
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] != digests[2][1]


def test_noise_samples_are_made_where_they_are_read(tmp_path):
    """A cache without them takes one pass an image; one with them serves both kinds of run; the reverse is refused."""
    pool, config, encoder = tiny_data(train=3).train, tiny_config(tmp_path), FakeEncoder()
    plain = build_cache(tmp_path / "plain", pool, lambda: encoder, config, noise=False)
    assert "local.noise" not in plain.arrays
    assert encoder.passes == 3
    full = build_cache(tmp_path / "full", pool, FakeEncoder, config)
    for name in ("local", "random"):
        assert np.array_equal(plain.features(name), full.features(name))
    with pytest.raises(StaleCache, match="has no noise samples, which this acquisition reads"):
        build_cache(tmp_path / "plain", pool, FakeEncoder, config)
    again = build_cache(tmp_path / "full", pool, FakeEncoder, config, noise=False)
    assert np.array_equal(again.noise("local"), full.noise("local"))
    grown = build_cache(tmp_path / "full", tiny_data(train=5).train, FakeEncoder, config, noise=False)
    assert grown.noise("local").shape[0] == 5 * config.local
    assert grown.noise("local")[-1].any()
    assert np.array_equal(
        build_cache(tmp_path / "full", tiny_data(train=5).train, FakeEncoder, config).noise("random"),
        grown.noise("random"),
    )
