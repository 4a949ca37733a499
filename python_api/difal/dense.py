"""Every pixel of an image through a head, and the test set, kept as the encoder's maps at their own resolution.

The head's first layer commutes with bilinear resizing, so all pixels of an image cost one projection at the maps'
resolution and a resize of 128 channels. What is worth keeping on disk is therefore the maps as the encoder gave them:
with them, testing one more head needs no UNet pass. Where they would not fit `test_cache_gb`, the heads of all rounds
are tested together in one late pass over the UNet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from difal.bank import check_settings, encode
from difal.config import Config
from difal.data.base import Split
from difal.errors import DataError
from difal.files import crash_point, digest, write_json, write_tensors
from difal.head import Head
from difal.metrics import confusion_matrix
from difal.stages import StageClock
from difal_kernels import project_then_resize


def dense_logits(head: Head, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """(B, H, W, C) float32 logits of every pixel of B images of `size`."""
    return _every_pixel(head, maps, size, head.rest)


def dense_classes(head: Head, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """(B, H, W) uint8 most likely class of every pixel; logits never exist for all of them at once."""
    return _every_pixel(head, maps, size, lambda rows: head.rest(rows).argmax(1).to(torch.uint8))


def _every_pixel(head: Head, maps: Sequence[torch.Tensor], size: tuple[int, int], tail: Callable) -> torch.Tensor:
    return project_then_resize(maps, head.project.weight, head.project.bias, size, tail=tail)


class TestSet:
    """The test images' maps: from disk where they fit, from the encoder where not."""

    __test__ = False  # for pytest, which collects classes of this name

    def __init__(self, folder: Path, split: Split, load_encoder: Callable, config: Config):
        self.folder, self.split, self.load_encoder = folder, split, load_encoder
        self.config, self.clock = config, StageClock()
        self.settings = {
            "format": 1,
            "pool": digest(split.fingerprint()),
            "encoder": config.encoder,
            **{name: getattr(config, name) for name in ("bank_seed", "bank_dtype")},
        }
        self.cached = self._plan()

    def _plan(self) -> bool:
        """Whether the maps are kept; decided once, from the size of the first image's."""
        path = self.folder / "test.json"
        if path.is_file():
            self.meta = check_settings(path, self.settings)
        else:
            total = sum(m.numel() for m in self._encode(0)) * np.dtype(self.config.bank_dtype).itemsize
            self.meta = {"settings": self.settings, "bytes": total * len(self.split), "stages": {}}
            write_json(path, self.meta)
        return self.meta["bytes"] <= self.config.test_cache_gb * 1e9

    def _encode(self, index: int) -> list[torch.Tensor]:
        with self.clock("images"):
            image = self.split.image(index)
        with self.clock("encoder"):
            return encode(self.load_encoder(), image, self.split.ids[index], [0], self.config)

    def _path(self, index: int) -> Path:
        return self.folder / "maps" / f"{index:06d}.safetensors"

    def fill(self) -> None:
        """Pass what is not there yet through the encoder, if the maps are kept."""
        missing = [i for i in range(len(self.split)) if not self._path(i).is_file()] if self.cached else []
        if not missing:
            return
        done, dtype = len(self.split) - len(missing), getattr(torch, self.config.bank_dtype)
        for index in tqdm(missing, "test images", initial=done, total=len(self.split), unit="image"):
            maps = self._encode(index)
            stored = {f"{i:03d}": m.to(dtype) for i, m in enumerate(maps)}
            if not all(bool(m.isfinite().all()) for m in stored.values()):
                raise DataError(
                    f"the encoder's maps of image {self.split.ids[index]} are not finite in {dtype}; "
                    f"check the encoder's weights, or use --bank-dtype float32"
                )
            write_tensors(self._path(index), stored)
            crash_point("test-image")
        self.clock.add_to(self.meta["stages"])
        write_json(self.folder / "test.json", self.meta)

    def maps(self, index: int) -> list[torch.Tensor]:
        if not self.cached:
            return self._encode(index)
        stored = load_file(self._path(index))
        return [stored[name] for name in sorted(stored)]

    def evaluate(self, heads: Sequence[Head], classes: int, note: str = "test") -> list[np.ndarray]:
        """Confusion matrices (C, C) of several heads over every test pixel, in one pass over the images."""
        totals = [np.zeros((classes, classes), np.int64) for _ in heads]
        for index in tqdm(range(len(self.split)), note, unit="image", leave=False):
            maps = self.maps(index)
            truth = self.split.mask(index)
            for head, total in zip(heads, totals, strict=True):
                predicted = dense_classes(head, maps, truth.shape)[0]
                total += confusion_matrix(truth, predicted.numpy(), classes)
        return totals
