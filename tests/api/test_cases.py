"""Inputs that people brought, at the size at which they went wrong."""

import numpy as np
import pytest
from PIL import Image

from api.fakes import FakeEncoder, tiny_config
from difal.config import Config
from difal.data.base import FileSplit
from difal.errors import ConfigError
from difal.run.loop import run
from difal.run.marks import CLOSE, GAP, NEAR, PANEL, mark, three_scales, to_jpeg
from difal.run.start import budget_line


def test_a_budget_above_the_local_picks(tmp_path):
    """Sixty pixels a round of one image, of which fifty are kept: told at the start, with what to give."""
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/masks").mkdir()
    mask = (np.mgrid[:128, :128][0] > 60).astype(np.uint8)
    Image.fromarray(np.dstack([mask * 90 + 60] * 3)).save(tmp_path / "data/images/a.png")
    Image.fromarray(mask).save(tmp_path / "data/masks/a.png")
    settings = {"data": str(tmp_path / "data"), "classes": "a,b", "budget": 60.0, "rounds": 4, "candidates": 2000}
    with pytest.raises(
        ConfigError, match=r"4 rounds x 60 = 240 pixels are to be asked, but only 50 can be: .*Give --local 240"
    ):
        run(Config(**settings, encoder="fake", out=str(tmp_path / "run")), encoder=FakeEncoder())
    assert not (tmp_path / "run").exists()
    assert "= 240 pixels, of at most 240 (240 kept of each image" in budget_line(Config(**settings, local=240), 1)
    told = []
    config = tiny_config(tmp_path / "run", **{**settings, "local": 240, "rounds": 1, "pictures": 0})
    assert run(config, encoder=FakeEncoder(), log=told.append) == "done"
    assert told[-1] == "round 0: 60 pixels queried"


def extent(picture, before):
    """Width and height of what was drawn."""
    rows, columns = np.nonzero((np.asarray(picture).astype(int) != np.asarray(before)).any(2))
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def test_marks_on_a_photograph_of_24_megapixels():
    """In proportion and small on the disk; the pixel itself, and what is around it, can be seen."""
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 200, (40, 60, 3), dtype=np.uint8)).resize((6000, 4000)))
    whole = mark(image, [(1, 3000, 2000)])
    assert whole.size == (2048, 1365)
    assert len(to_jpeg(whole)) < 1_000_000  # it was 36 MB
    drawn = extent(whole, mark(image, []))
    assert min(drawn) > 2048 / 25  # it was 56 of 6000
    assert max(drawn) < 2048 / 8
    shown, plain = np.asarray(whole), np.asarray(mark(image, []))
    at = (2000 * 2048 // 6000, 3000 * 2048 // 6000)
    assert np.array_equal(shown[at], plain[at])  # the ring leaves it free
    x, y = 3000, 2000
    image = image.copy()
    image[y, x] = (255, 0, 255)
    strip = np.asarray(three_scales(image, x, y))
    assert strip.shape == (PANEL, 3 * PANEL + 2 * GAP, 3)
    assert len(to_jpeg(three_scales(image, x, y))) < 200_000
    for panel, across in enumerate((CLOSE, NEAR)):
        scale, left = PANEL / across, panel * (PANEL + GAP)
        middle = round((across // 2 + 0.5) * scale)
        if panel == 0:
            assert tuple(strip[middle, left + middle]) == (255, 0, 255)
            square = (strip[:, left : left + PANEL] == (255, 0, 255)).all(2)
            assert abs(int(square.sum()) - scale**2) < scale  # one pixel, enlarged
        rings = (strip[:, left : left + PANEL] == (255, 255, 0)).all(2)
        assert rings.any(0).sum() > 28  # a ring that is seen, in each


def test_an_image_above_the_limit_of_pillow(tmp_path):
    """196 megapixels of one bit: read at half the side, and its mask with it."""
    picture = Image.new("1", (14000, 14000))
    picture.paste(1, (0, 7000, 14000, 14000))
    picture.save(tmp_path / "a.png", compress_level=1)
    split = FileSplit(["a"], [tmp_path / "a.png"], None, 2)
    assert split.shapes() == [(7000, 7000)]
    shown = split.image(0)
    assert shown.shape == (7000, 7000, 3)
    assert not shown[:3500].any()
    assert (shown[3500:] == 255).all()
