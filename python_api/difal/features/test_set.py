"""The test set, kept as the encoder's maps at their own resolution.

With the maps on disk, testing one more head needs no pass over the encoder. Where they would not fit `test_cache_gb`,
the heads of all rounds are tested together in one late pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from difal import parallel
from difal.config import Config
from difal.data.base import Split
from difal.errors import DataError
from difal.features.cache import FORMAT, check_settings, encoder_settings
from difal.features.checks import may_be_reduced
from difal.features.dense import dense_classes
from difal.features.maps import named, unnamed
from difal.features.pixels import encode, pixel_features
from difal.files import crash_point, derive_seed, digest, write_json, write_tensors
from difal.heads import Head
from difal.metrics import confusion_matrix
from difal.threads import in_hand, in_order, one_thread
from difal.timing import StageClock

CHUNK = 1024  # rows of features that a head is given at a time


class TestSet:
    """The test images' maps, or features of random pixels: from disk where they fit, else from the encoder."""

    __test__ = False  # for pytest, which collects classes of this name

    def __init__(self, folder: Path, split: Split, load_encoder: Callable, config: Config):
        self.folder, self.split, self.load_encoder, self.config = folder, split, load_encoder, config
        self.clock = StageClock()
        self.settings = {
            "format": FORMAT,
            "pool": digest(split.fingerprint()),
            **encoder_settings(config, load_encoder),
            **{name: getattr(config, name) for name in ("feature_seed", "cache_dtype", "test_pixels")},
            "encoder_pixels": config.encoder_pixels if may_be_reduced(split.shapes(), config) else 0,
        }
        parallel.on_first_rank(self._plan)
        self.meta = check_settings(self._settings_file(), self.settings)
        self.cached = self.meta["bytes"] <= config.test_cache_gb * 1e9

    def _plan(self) -> None:
        """Write how large the cache would be, by the size of the first image's part."""
        if not self._settings_file().is_file():
            size = sum(tensor.nbytes for tensor in self._make(0).values())
            write_json(
                self._settings_file(), {"settings": self.settings, "bytes": size * len(self.split), "stages": {}}
            )

    def _settings_file(self) -> Path:
        return self.folder / "test.json"

    def _path(self, index: int) -> Path:
        return self.folder / "images" / f"{index:06d}.safetensors"

    def _load(self, index: int) -> dict[str, torch.Tensor]:
        try:
            return load_file(self._path(index))
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self._path(index)} cannot be read ({error}); delete it and run again") from None

    def fill(self) -> None:
        """Pass what is not there yet through the encoder, if the cache is kept; each rank its own images."""
        own = parallel.shard(range(len(self.split))) if self.cached else range(0)
        missing = [index for index in own if not self._path(index).is_file()]
        if missing:
            self.load_encoder()  # before the workers, once
        show = bool(missing) and parallel.rank() == 0
        with tqdm(desc="test images", initial=len(own) - len(missing), total=len(own), disable=not show) as bar:
            for index, kept in zip(missing, in_order(self._make, missing), strict=True):
                write_tensors(self._path(index), kept)
                bar.update()
                crash_point("test-image")
        parallel.on_first_rank(self._add_stages)

    def _add_stages(self) -> None:
        if self.clock.seconds:
            self.clock.add_to(self.meta["stages"], torch.get_num_threads())
            write_json(self._settings_file(), self.meta)

    def evaluate(self, heads: Sequence[Head], classes: int, note: str = "test") -> list[np.ndarray]:
        """Return the confusion matrices (C, C) of several heads over the test pixels, in one pass over the images."""
        if not self.cached:
            self.load_encoder()
        own = parallel.shard(range(len(self.split)))
        found = in_order(partial(self._counts, heads, classes), own)
        totals = np.zeros((len(heads), classes, classes), np.int64)
        for counts in tqdm(found, note, len(own), leave=False, unit="image", disable=parallel.rank() > 0):
            totals += counts
        return list(parallel.sum_over_ranks(totals))

    def _counts(self, heads: Sequence[Head], classes: int, index: int) -> np.ndarray:
        """(heads, C, C) of one image."""
        kept, truth = self._load(index) if self.cached else self._make(index), self.split.mask(index)
        if "points" in kept:
            features, truth = kept["features"].float(), truth[tuple(kept["points"].numpy().T)]
            found = [_classes_of(head, features) for head in heads]
        else:
            maps = unnamed(kept)
            found = [dense_classes(head, maps, truth.shape)[0] for head in heads]
        return np.stack([confusion_matrix(truth, one.numpy(), classes) for one in found])

    def _make(self, index: int) -> dict[str, torch.Tensor]:
        """What is kept of an image: its maps in the encoder's order, or `points` and `features`."""
        with in_hand.take(self.split.pixels(index)):
            return self._made(index)

    def _made(self, index: int) -> dict[str, torch.Tensor]:
        name, dtype = self.split.ids[index], getattr(torch, self.config.cache_dtype)
        with self.clock("images"):
            image = self.split.image(index)
        with self.clock("encoder"):
            maps = encode(self.load_encoder(), image, name, [0], self.config)
        if self.config.test_pixels is None:
            kept = named(maps, dtype)
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


@one_thread()
@torch.no_grad()
def _classes_of(head: Head, features: torch.Tensor) -> torch.Tensor:
    """(P,) most likely class of each row of (P, D) float32 features, which need no copy as `Head.logits` makes one."""
    device = head.project.weight.device
    return torch.cat([head(some.to(device)).argmax(1).cpu() for some in features.split(CHUNK)])
