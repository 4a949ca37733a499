"""Small stand-ins for what a run needs: an encoder of random filters, a pool of tiny scenes, a folder of images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from PIL import Image

from difal.config import Config
from difal.data import Data
from difal.data.base import FunctionSplit
from difal.data.scenes import CLASSES, draw_scene
from difal.encoders import lazy
from difal.files import derive_seed


class FakeEncoder:
    """Implements the `Encoder` protocol: random convolutions of the noised image at two resolutions."""

    channels = (6, 4, 6, 4)

    def __init__(self):
        rng = torch.Generator().manual_seed(5)
        self.filters = [torch.randn(6, 3, 5, 5, generator=rng), torch.randn(4, 3, 3, 3, generator=rng)]
        self.passes = 0

    def noise(self, image_ids, height, width, *, seed, draw):
        def one(name):
            rng = torch.Generator().manual_seed(derive_seed(seed, name, draw))
            return torch.randn(2, 3, height, width, generator=rng)

        return torch.stack([one(name) for name in image_ids])

    def maps(self, images, noise):
        self.passes += len(images)
        found = []
        for step in range(noise.shape[1]):
            noisy = images + 0.2 * (1 + step) * noise[:, step]
            for filters, stride in zip(self.filters, (4, 2), strict=True):
                found.append(torch.conv2d(noisy, filters, stride=stride, padding=filters.shape[-1] // 2).relu())
        return found


def use_fake_encoder(make=FakeEncoder, patch=setattr):
    """Have every encoder name mean `make()`; `patch` is `monkeypatch.setattr` where this has to end with a test."""
    patch(lazy, "load_encoder", lambda name, device: make())
    patch(lazy, "fingerprint", lambda name: None)


@cache
def _scene(kind: str, index: int, size: int):
    return draw_scene(derive_seed(kind, index), size)


def tiny_data(train: int = 5, test: int = 2, size: int = 32) -> Data:
    """Scenes drawn small."""

    def split(kind, count):
        return FunctionSplit([f"{kind}{i}" for i in range(count)], lambda i: _scene(kind, i, size))

    return Data("tiny scenes", CLASSES, split("train", train), split("test", test) if test else None)


def tiny_config(out: Path, **changes) -> Config:
    """Settings of a run of less than a second."""
    values = {
        "data": "scenes", "encoder": "fake", "out": str(out), "rounds": 3, "budget": 1.0, "candidates": 80,
        "local": 8, "random": 8, "noise_samples": 2, "epochs": 3, "context": 16, "pictures": 1, "threads": 1,
    }  # fmt: skip
    return Config(**{**values, **changes})


def write_folder(root: Path, *, masks: bool, test: bool = False, count: int = 4, size: int = 32) -> Path:
    """A data folder in the generic layout."""
    for folder in (root, *([root / "test"] if test else [])):
        (folder / "images").mkdir(parents=True)
        if masks:
            (folder / "masks").mkdir()
        for i in range(count):
            image, mask = draw_scene(i + (100 if folder.name == "test" else 0), size)
            Image.fromarray(image).save(folder / "images" / f"p{i}.png")
            if masks:
                Image.fromarray(mask).save(folder / "masks" / f"p{i}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def outcome(run: Path) -> dict[str, bytes]:
    """What a run decided: the content of every file of its rounds but the times."""
    files = sorted(run.glob("rounds/*/*"))
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != "stages.json"}
