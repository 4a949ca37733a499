"""`bench/why_order.py`: its runs are those of the sweep, changes do what they say, and its figures are right."""

import argparse
import json

import numpy as np
import pytest
import torch

import why_order
from api.fakes import use_fake_encoder, write_folder
from difal.config import Config
from difal.features.cache import Pixel
from difal.run.directory import RunDirectory
from difal.sweep import Sweep, sweep
from why_order import Pool, best_temperature, calibration_error, finished, one_an_image, play, rank_correlation, runs_of

ACQUISITIONS = ("two-stage-edald", "entropy")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a small sweep."""
    out = tmp_path_factory.mktemp("order")
    data = write_folder(out / "data", masks=True, test=True, count=6)
    settings = {
        "data": str(data), "rounds": 3, "budget": 0.5, "candidates": 60, "local": 12, "random": 12, "threads": 1,
        "noise_samples": 2, "skips": "ask", "share": 0.8,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        use_fake_encoder(patch=patch.setattr)
        sweep(Sweep(out / "sweep", settings, acquisitions=ACQUISITIONS, seeds=(0,), jobs=1), log=len)
        yield out / "sweep"


def configs(done):
    return {folder: Config(**RunDirectory(folder).config()) for folder in runs_of(done, None, None)}


def test_a_run_without_a_change_is_that_of_the_sweep(done):
    found = configs(done)
    assert [config.acquisition for config in found.values()] == ["entropy", "two-stage-edald"]
    for folder, config in found.items():
        pool = Pool(config)
        run, again = finished(folder, pool, config), play(config, pool)
        assert again.picks == run.picks
        assert again.labels == run.labels
        assert all(torch.equal(a.project.weight, b.project.weight) for a, b in zip(run.heads, again.heads, strict=True))


def test_changes_do_what_they_say(done, tmp_path):
    out = tmp_path / "why.json"
    options = argparse.Namespace(sweep=done, out=out, acquisitions=None, seeds=[0], changes=[])
    why_order.main(options, log=len)
    why_order.main(argparse.Namespace(**{**vars(options), "changes": list(why_order.CHANGES)}), log=len)
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 2 * (1 + len(why_order.CHANGES))
    assert any(row["skipped"] for row in rows.values() if row["change"] == "")
    for row in rows.values():
        assert len(row["miou"]) == 3
        assert row["change"] != "void" or row["skipped"] == 0
        assert row["change"] != "apart" or row["images"] == 3  # the budget of a round, in 6 images
        assert bool(row["share"]) == (row["acquisition"] == "two-stage-edald")
        assert row["acquisition"] != "entropy" or row["agreement"] == pytest.approx([1] * 3)
    text = out.with_suffix(".md").read_text()
    assert text.count("| `entropy` |") == 1 + len(why_order.CHANGES)


def test_figures():
    scores = torch.tensor([[0.0, 2.0]]).repeat(1000, 1)
    truth = (torch.arange(1000) < 731).long()  # 1 / (1 + exp(-1)), as if the temperature were 2
    assert best_temperature(scores, truth) == pytest.approx(2, rel=0.06)
    confidence = np.repeat([0.95, 0.55], 100)
    assert calibration_error(confidence, np.r_[np.ones(95), np.zeros(5), np.ones(35), np.zeros(65)]) == pytest.approx(
        0.1
    )
    assert rank_correlation(np.arange(5.0), -np.arange(5.0)) == pytest.approx(-1)
    pixels = [Pixel(0, 1, 1), Pixel(0, 2, 2), Pixel(3, 1, 1), Pixel(0, 3, 3)]
    assert one_an_image(pixels, 2) == [pixels[0], pixels[2]]
    assert one_an_image(pixels, 3) == [pixels[0], pixels[2], pixels[1]]


def test_a_folder_without_such_runs_is_refused(done, tmp_path):
    out = tmp_path / "why.json"
    for folder, seeds in ((tmp_path, None), (done, [7])):
        args = argparse.Namespace(sweep=folder, acquisitions=None, seeds=seeds, out=out, changes=[])
        with pytest.raises(SystemExit, match=f"{folder} has no finished run of these"):
            why_order.main(args, log=len)
    assert not out.exists()
