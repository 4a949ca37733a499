"""The script that trains `tiny`: its data are there, and an interrupted run ends as one that was not."""

import pytest
import torch

pytest.importorskip("diffusers", reason="the loop's extra is not installed: pip install 'difal-kernels[loop]'")
pytest.importorskip("skimage", reason="scikit-image is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from difal.encoders import load_encoder, train_tiny


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(train_tiny, "PIXELS", 2 * 64 * 64)
    monkeypatch.setattr(train_tiny, "SCALES", train_tiny.SCALES[3:5])
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options(folder, steps=4):
    return train_tiny.parse(
        [
            "--out",
            str(folder),
            "--steps",
            str(steps),
            "--save-minutes",
            "0",
            "--log-every",
            "2",
            "--threads",
            "1",
        ]
    )


def test_crops_are_images_and_repeat(small):
    pyramids, shares = train_tiny.load_pyramids()
    assert len(pyramids) == len(shares) == 11
    noise_samples = [
        train_tiny.draw_crops(pyramids, shares, 24, 48, torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    ]
    assert noise_samples[0].shape == (24, 3, 48, 48)
    assert float(noise_samples[0].abs().max()) <= 1
    assert float(noise_samples[0].std()) > 0.2
    assert torch.equal(noise_samples[0], noise_samples[1])
    assert not torch.equal(noise_samples[0], noise_samples[2])


def test_an_interrupted_training_resumes_to_the_same_weights(small, tmp_path, monkeypatch):
    train_tiny.train(options(tmp_path / "whole"))
    step = train_tiny.train_step

    def killed(*args):
        if args[4] == 2:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(train_tiny, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tiny.train(options(tmp_path / "parts"))
    monkeypatch.setattr(train_tiny, "train_step", step)
    train_tiny.train(options(tmp_path / "parts"))
    whole, parts = (load_encoder(tmp_path / name / "encoder", blocks=(3,)) for name in ("whole", "parts"))
    for (name, a), (_, b) in zip(whole.unet.state_dict().items(), parts.unet.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    rows = [(tmp_path / name / "loss.csv").read_text().splitlines() for name in ("whole", "parts")]
    assert [row.split(",")[:3] for row in rows[0]] == [row.split(",")[:3] for row in rows[1]]
    start = train_tiny.build_unet().state_dict()
    assert any(not torch.equal(start[k].half().float(), v) for k, v in whole.unet.state_dict().items())
