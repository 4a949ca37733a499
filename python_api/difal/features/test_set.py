"""The test set, kept as the encoder's maps at their own resolution.

With the maps on disk, testing one more head needs no pass over the encoder. Where they would not fit `test_cache_gb`,
the heads of all rounds are tested together in one late pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from difal.config import Config
from difal.data.base import Split
from difal.errors import DataError
from difal.features.cache import FORMAT, check_settings, encoder_settings
from difal.features.dense import dense_classes
from difal.features.pixels import encode, pixel_features
from difal.files import crash_point, derive_seed, digest, write_json, write_tensors
from difal.heads import Head, make_head
from difal.metrics import confusion_matrix
from difal.ranks import Job, in_order, workers
from difal.threads import in_order as in_order_here


class TestImages(Job):
    """What is kept of a test image: its maps in the encoder's order, or `points` and `features`."""

    __test__ = False  # for pytest, which collects classes of this name
    name = "test"

    def __init__(self, split: Split, load_encoder: Callable, config: Config):
        super().__init__()
        self.split, self.load_encoder, self.config = split, load_encoder, config

    def order(self) -> tuple[dict, dict[str, torch.Tensor]]:
        weights = getattr(self.load_encoder, "weights", None)
        return {"config": self.config.to_dict(), "pool": digest(self.split.fingerprint()), "weights": weights}, {}

    def make(self, index: int) -> dict[str, torch.Tensor]:
        name, dtype = self.split.ids[index], getattr(torch, self.config.cache_dtype)
        with self.clock("images"):
            image = self.split.image(index)
        with self.clock("encoder"):
            maps = encode(self.load_encoder(), image, name, [0], self.config)
        if self.config.test_pixels is None:
            kept = {f"map{i:03d}": m.to(dtype) for i, m in enumerate(maps)}
        else:
            with self.clock("hypercolumns"):
                pixels = image.shape[0] * image.shape[1]
                rng = np.random.default_rng(derive_seed("test pixels", self.config.feature_seed, name))
                flat = np.sort(rng.choice(pixels, min(self.config.test_pixels, pixels), replace=False))
                points = np.stack(np.divmod(flat, image.shape[1]), 1)
                features = torch.from_numpy(pixel_features(maps, points, image.shape[:2], name)).to(dtype)
                kept = {"points": torch.from_numpy(points), "features": features}
        if not all(bool(tensor.isfinite().all()) for tensor in kept.values()):
            raise DataError(
                f"the encoder's maps of image {name} are not finite in {dtype}; check the encoder's weights, or use "
                f"--cache-dtype float32"
            )
        return kept


class Counting(Job):
    """The confusion matrices (heads, C, C) of heads over an image of which `keep(index)` is what `TestImages` keeps."""

    name = "count"

    def __init__(self, images: TestImages, heads: Sequence[Head], classes: int, keep: Callable | None = None):
        super().__init__()
        self.images, self.heads, self.classes, self.keep = images, heads, classes, keep or images.make

    def order(self) -> tuple[dict, dict[str, torch.Tensor]]:
        facts, _ = self.images.order()
        tensors = {f"{i} {name}": one for i, head in enumerate(self.heads) for name, one in head.state_dict().items()}
        return {**facts, "heads": [(head.name, head.shape) for head in self.heads], "classes": self.classes}, tensors

    def make(self, index: int) -> dict[str, torch.Tensor]:
        kept, truth = self.keep(index), self.images.split.mask(index)
        if "points" in kept:
            features, truth = kept["features"].numpy(), truth[tuple(kept["points"].numpy().T)]
            found = [head.logits(features, np.arange(len(truth))).argmax(1) for head in self.heads]
        else:
            maps = [kept[name] for name in sorted(kept)]
            found = [dense_classes(head, maps, truth.shape)[0] for head in self.heads]
        counts = [confusion_matrix(truth, one.numpy(), self.classes) for one in found]
        return {"counts": torch.from_numpy(np.stack(counts))}


def heads_of(described: Sequence[tuple[str, Sequence[int]]], tensors: dict[str, torch.Tensor]) -> list[Head]:
    """The heads of a `Counting.order`."""
    heads = []
    for i, (name, shape) in enumerate(described):
        own = {key.partition(" ")[2]: one for key, one in tensors.items() if key.partition(" ")[0] == str(i)}
        heads.append(make_head(name, tuple(shape), own))
    return heads


class TestSet:
    """The test images' maps, or features of random pixels: from disk where they fit, else from the encoder."""

    __test__ = False

    def __init__(self, folder: Path, split: Split, load_encoder: Callable, config: Config):
        self.folder, self.split, self.load_encoder, self.config = folder, split, load_encoder, config
        self.images = TestImages(split, load_encoder, config)
        self.settings = {
            "format": FORMAT,
            "pool": digest(split.fingerprint()),
            **encoder_settings(config, load_encoder),
            **{name: getattr(config, name) for name in ("feature_seed", "cache_dtype", "test_pixels")},
        }
        self.cached = self._plan()

    def _plan(self) -> bool:
        """Whether the cache is kept; decided once, from the size of the first image's."""
        path = self.folder / "test.json"
        if path.is_file():
            self.meta = check_settings(path, self.settings)
        else:
            size = sum(tensor.nbytes for tensor in self.images.make(0).values())
            self.meta = {"settings": self.settings, "bytes": size * len(self.split), "stages": {}}
            write_json(path, self.meta)
        return self.meta["bytes"] <= self.config.test_cache_gb * 1e9

    def _path(self, index: int) -> Path:
        return self.folder / "images" / f"{index:06d}.safetensors"

    def _load(self, index: int) -> dict[str, torch.Tensor]:
        try:
            return load_file(self._path(index))
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self._path(index)} cannot be read ({error}); delete it and run again") from None

    def fill(self) -> None:
        """Pass what is not there yet through the encoder, if the cache is kept."""
        missing = [i for i in range(len(self.split)) if not self._path(i).is_file()] if self.cached else []
        if not missing:
            return
        done = len(self.split) - len(missing)
        self.load_encoder()  # before the workers, once
        with tqdm(desc="test images", initial=done, total=len(self.split), unit="image") as bar:
            for index, kept in zip(missing, in_order(self.images, missing), strict=True):
                write_tensors(self._path(index), kept)
                self.images.clock.add_to(self.meta["stages"], workers())
                bar.update()
                crash_point("test-image")
        write_json(self.folder / "test.json", self.meta)

    def evaluate(self, heads: Sequence[Head], classes: int, note: str = "test") -> list[np.ndarray]:
        """Confusion matrices (C, C) of several heads over the test pixels, in one pass over the images."""
        images = range(len(self.split))
        if self.cached:  # the files are rank 0's, and reading them is most of it
            job = Counting(self.images, heads, classes, self._load)
            found = in_order_here(job.make, images)
        else:
            self.load_encoder()
            found = in_order(Counting(self.images, heads, classes), images)
        totals = np.zeros((len(heads), classes, classes), np.int64)
        for counted in tqdm(found, note, total=len(images), unit="image", leave=False):
            totals += counted["counts"].numpy()
        return list(totals)
