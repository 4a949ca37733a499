"""The live model: a head trained on every answer so far, and what the page asks of it.

The rounds' heads (see `difal.run.loop`) learn from the rounds' picks alone, so that runs can be compared. The live head
learns from all answers, those that were volunteered and those given during a wait, too; it makes the guesses, the
predictions over the images, and the exported masks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from difal.acquisition import training_dropout
from difal.annotate.images import reduced, within
from difal.config import Config
from difal.data import Data
from difal.encoders.lazy import LazyEncoder
from difal.features.cache import SETS, FeatureCache, Pixel, images_done
from difal.features.dense import dense_classes, dense_view
from difal.features.maps import Maps, PoolMaps
from difal.features.pixels import draw_candidates, pixel_features
from difal.files import TMP, read_json, write_json
from difal.heads import Head, train_head
from difal.run.directory import RunDirectory
from difal.run.oracles import to_png
from difal.threads import in_order
from difal_kernels import maxherding

FIRST_ASKED = 4  # images that the first questions are about, before any is encoded
SKETCH_SIDE = 80  # longer side, in cells, of a sketched prediction
# How far a pixel's class reaches in a sketch: as a share of the longer side, and in levels of a colour.
SKETCH_REACH, SKETCH_LEVELS = 0.06, 25.0
VIEW_SIDE = 1024  # longer side, in pixels, of a prediction shown over its image
TILE_SIDE = 256  # the same among all images


class LiveModel:
    """Computes for the page; used by one thread.

    Args:
        config: the run's settings.
        data: the pool.
        load_encoder: gives the encoder.
        run_dir: the run.
        feature_folder: where its feature cache is, or is being made.
    """

    def __init__(
        self, config: Config, data: Data, load_encoder: LazyEncoder, run_dir: RunDirectory, feature_folder: Path
    ):
        self.config, self.data, self.load_encoder = config, data, load_encoder
        self.folder = run_dir.folder / "annotate"
        self.cache_folder = feature_folder / "pool"
        self.maps = PoolMaps(self.cache_folder / "maps", data.train, load_encoder, config)
        self.clicked: dict[Pixel, np.ndarray] = {}  # features of pixels that are not in the cache
        self.small: dict[int, np.ndarray] = {}  # images at the size of their sketches
        self._cache: FeatureCache | None = None
        self.head, self.version, self.classes = run_dir.live_head(), 0, 0
        if self.head is not None:
            facts = read_json(self.folder / "head.json")
            self.version, self.classes = facts["version"], facts["classes"]

    def encoded(self) -> int:
        """How many images have their features, from the first on."""
        done = images_done(self.cache_folder)
        if done and self._cache is None:
            self._cache = FeatureCache(self.cache_folder)
        return done

    @property
    def cache(self) -> FeatureCache:
        """The feature cache, of which `encoded` images can be read."""
        if self._cache is None:
            raise ValueError("no image is encoded yet")
        return self._cache

    def spare(self, asked: list[list[int]], count: int) -> dict:
        """The next pixels by coverage among the images that are encoded, given those asked so far."""
        done = self.encoded()
        if not done:
            return {"questions": self._first(asked, count), "encoded": 0}
        points = self.cache.arrays["local.points"][:done]
        features = np.asarray(self.cache.arrays["local.features"][:done], np.float32)
        given = [Pixel(*place) for place in asked if place[0] < done]
        taken = np.zeros(points.shape[:2], bool)
        for image, row, column in given:
            taken[image] |= (points[image] == (row, column)).all(1)
        open_rows = np.flatnonzero(~taken)
        count = min(count, len(open_rows))
        labeled = self._features(given) if given else None
        rows = maxherding(
            features.reshape(-1, features.shape[-1]),
            count,
            labeled=labeled,
            candidates=open_rows,
            kernel=self.config.kernel,
        )
        found = []
        for row in np.asarray(rows):
            image, at = divmod(int(row), points.shape[1])
            found.append([image, *map(int, points[image, at]), *self.cache.size(image)])
        return {"questions": found, "encoded": done}

    def _first(self, asked: list[list[int]], count: int) -> list[list[int]]:
        """What to ask before an image is encoded: among the pixels that the cache will keep of the first images
        whatever their features are, those that cover colours and positions."""
        if self.config.labels is not None or self.config.void == "avoid":
            return []  # those pixels are drawn another way
        places, rows = [], []
        for index, name in enumerate(self.data.train.ids[:FIRST_ASKED]):
            image = self.data.train.image(index)
            size = image.shape[:2]
            points = draw_candidates(name, size, self.config, np.zeros((0, 2), np.int64))[: self.config.random]
            colors = image[points[:, 0], points[:, 1]] / 255
            rows.append(np.concatenate([colors, points / max(size)], 1))
            places += [[index, *map(int, point), *size] for point in points]
        features, known = np.concatenate(rows).astype(np.float32), {tuple(place) for place in asked}
        given = np.array([tuple(place[:3]) in known for place in places])
        if given.all():
            return []
        picks = maxherding(
            features,
            min(count, int((~given).sum())),
            labeled=features[given] if given.any() else None,
            candidates=np.flatnonzero(~given),
            kernel="rbf",
        )
        return [places[at] for at in np.asarray(picks)]

    def live(self, labels: list[list[int]], classes: int, lines: int) -> dict:
        """Train the live head on (image, row, column, class) labels; `lines` of the journal made them."""
        if self.encoded() < len(self.data.train):
            return {"version": self.version, "lines": 0}
        if labels:
            features = self._features([Pixel(*label[:3]) for label in labels])
            targets = np.array([label[3] for label in labels])
            dropout = training_dropout(self.config)
            head = train_head(features, targets, self.cache.context(), classes, self.config, "live", dropout=dropout)
            self.version += 1
            facts = {"version": self.version, "classes": classes, "lines": lines, "labels": len(labels)}
            write_json(self.folder / "head.json", facts)  # first: a head that is there has its facts
            head.save(self.folder / "head.safetensors")
            self.head, self.classes = head, classes
        return {"version": self.version, "lines": lines}

    def guess(self, pixels: list[list[int]]) -> dict:
        """The live head's most likely class and its probability at each pixel of the cache."""
        if self.head is None or not pixels or self.encoded() < len(self.data.train):
            return {"version": 0, "guesses": []}
        features = self._features([Pixel(*pixel) for pixel in pixels])
        chances = self.head.logits(features, np.arange(len(pixels))).softmax(1)
        best = chances.max(1)
        pairs = zip(pixels, best.indices.tolist(), best.values.tolist(), strict=True)
        return {"version": self.version, "guesses": [[*pixel, one, round(chance, 4)] for pixel, one, chance in pairs]}

    def predict(self, images: list[int]) -> dict:
        """Draw what the live head thinks of images: class ids and uncertainty, one PNG each."""
        if self.head is None:
            return {"images": images, "version": 0}
        for index, (maps, size) in zip(images, self._maps(images), strict=True):
            ids, entropy = dense_view(self.head, maps, within(size, VIEW_SIDE))
            most = math.log(max(2, self.classes))
            unsure = (entropy[0] / most * 255).clamp(0, 255).round().to(torch.uint8)
            self._draw(f"{index}.unsure.png", unsure.numpy())
            self._draw(f"{index}.classes.png", ids[0].numpy())
        return {"images": images, "version": self.version}

    def _draw(self, name: str, values: np.ndarray) -> None:
        """Write a picture, whole or not at all; it need not outlive the machine: it is drawn again when asked for."""
        folder = self.folder / "views"
        folder.mkdir(parents=True, exist_ok=True)
        neighbour = folder / f"{TMP}{name}"
        neighbour.write_bytes(to_png(Image.fromarray(values)))
        os.replace(neighbour, folder / name)

    def sketch(self, images: list[int]) -> dict:
        """Draw small pictures of what the live head thinks of images, without encoding them: class ids, one PNG each.

        Where an image's maps are kept the head sees every pixel of the picture; those images are `exact`. Elsewhere it
        sees the pixels of the cache alone, a hundred or so of an image. Every other pixel gets the mean of their
        probabilities, weighted by how close they are in position and in colour.
        """
        if self.head is None or self.encoded() < len(self.data.train):
            return {"images": images, "version": 0, "exact": []}
        exact = [index for index in images if index in self.maps]
        for index, (maps, size) in zip(exact, self._maps(exact), strict=True):
            self._draw(f"{index}.sketch.png", dense_classes(self.head, maps, within(size, TILE_SIDE))[0].numpy())
        for index in images:
            if index not in exact:
                self._draw(f"{index}.sketch.png", self._sketch(self.head, index))
        return {"images": images, "version": self.version, "exact": exact}

    def _sketch(self, head: Head, index: int) -> np.ndarray:
        """(h, w) uint8 class ids."""
        points = np.concatenate([self.cache.arrays[f"{name}.points"][index] for name in SETS])
        features = np.concatenate([self.cache.arrays[f"{name}.features"][index] for name in SETS])
        logits = head.logits(np.asarray(features, np.float32), np.arange(len(points)))
        if index not in self.small:
            self.small[index] = np.asarray(reduced(self.data.train.image(index), SKETCH_SIDE))
        small = self.small[index]
        height, width = small.shape[:2]
        at = ((points + 0.5) * np.array(small.shape[:2]) / self.cache.size(index)).astype(int)
        rows = np.moveaxis(np.mgrid[:height, :width], 0, -1) / (SKETCH_REACH * max(height, width))
        cells = np.concatenate([rows, small / SKETCH_LEVELS], -1).reshape(-1, 5).astype(np.float32)
        kept = cells.reshape(height, width, 5)[at[:, 0], at[:, 1]]
        apart = (cells**2).sum(1)[:, None] + (kept**2).sum(1) - 2 * cells @ kept.T
        weights = np.exp((apart.min(1, keepdims=True) - apart) / 2)
        return (weights @ logits.softmax(1).numpy()).argmax(1).reshape(height, width).astype(np.uint8)

    def prepare(self) -> bool:
        """Keep the maps of one more image, so that it is shown at once; False if all are kept or there is no room."""
        if self.encoded() < len(self.data.train) or not self.maps.has_room():
            return False
        missing = next((index for index in range(len(self.data.train)) if index not in self.maps), None)
        if missing is not None:
            self._maps([missing])
        return missing is not None

    def masks(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each image's id and predicted class ids (H, W), at the size at which the run sees it."""
        if self.head is not None:
            for index, name in enumerate(self.data.train.ids):
                [(maps, size)] = self._maps([index])
                yield name, dense_classes(self.head, maps, size)[0].numpy()

    def _maps(self, images: list[int]) -> list[Maps]:
        """The encoder's maps of images, several of which are read or encoded at a time."""
        if not all(index in self.maps for index in images):
            _ = self.load_encoder()  # before there are several threads
        return list(in_order(self.maps.of, images))

    def _features(self, pixels: list[Pixel]) -> np.ndarray:
        """(n, D) features: the cache's, or the encoder's for pixels that it does not hold."""
        rows_of: dict[Pixel, np.ndarray] = {}
        for pixel in dict.fromkeys(pixels):
            row = self.cache.find(pixel)
            if row is None and pixel not in self.clicked:
                [(maps, size)] = self._maps([pixel.image])
                rows = pixel_features(maps, np.array([pixel[1:]]), size, self.data.train.ids[pixel.image])
                self.clicked[pixel] = rows[0].astype(self.cache.arrays["local.features"].dtype)
            rows_of[pixel] = self.clicked[pixel] if row is None else row
        return np.stack([rows_of[pixel] for pixel in pixels])
