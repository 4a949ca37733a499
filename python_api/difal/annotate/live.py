"""The live model: a head trained on every answer so far, and what the page asks of it.

The rounds' heads (see `difal.run.loop`) learn from the rounds' picks alone, so that runs can be compared. The live head
learns from all answers, those that were volunteered and those given during a wait, too; it makes the guesses, the
predictions over the images, and the exported masks.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from difal.acquisition import training_dropout
from difal.config import Config
from difal.data import Data
from difal.encoders.lazy import LazyEncoder
from difal.features.cache import FeatureCache, Pixel, images_done
from difal.features.dense import dense_classes, dense_view
from difal.features.pixels import encode, pixel_features
from difal.files import read_json, write_bytes, write_json
from difal.heads import train_head
from difal.run.directory import RunDirectory
from difal.run.oracles import to_png
from difal_kernels import maxherding

VIEW_SIDE = 1024  # longer side, in pixels, of a prediction shown over its image
KEPT_MAPS = 1 << 30  # bytes of feature maps kept in memory, for predictions by the next head


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
        self.maps: OrderedDict[int, list[torch.Tensor]] = OrderedDict()
        self.clicked: dict[Pixel, np.ndarray] = {}  # features of pixels that are not in the cache
        self.cache: FeatureCache | None = None
        self.head, self.version, self.classes = run_dir.live_head(), 0, 0
        if self.head is not None:
            facts = read_json(self.folder / "head.json")
            self.version, self.classes = facts["version"], facts["classes"]

    def encoded(self) -> int:
        """How many images have their features, from the first on."""
        done = images_done(self.cache_folder)
        if done and self.cache is None:
            self.cache = FeatureCache(self.cache_folder)
        return done

    def spare(self, asked: list[list[int]], count: int) -> dict:
        """The next pixels by coverage among the images that are encoded, given those asked so far."""
        done = self.encoded()
        if not done:
            return {"questions": [], "encoded": 0}
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
        """Draw what the live head thinks of the first of `images`: class ids and uncertainty, one PNG each."""
        index = images[0]
        if self.head is None:
            return {"image": index, "version": 0}
        maps, size = self._maps(index)
        scale = min(1.0, VIEW_SIDE / max(size))
        view = tuple(max(1, round(side * scale)) for side in size)
        ids, entropy = dense_view(self.head, maps, view)
        most = math.log(max(2, self.classes))
        unsure = (entropy[0] / most * 255).clamp(0, 255).round().to(torch.uint8)
        folder = self.folder / "views"
        write_bytes(folder / f"{index}.unsure.png", to_png(Image.fromarray(unsure.numpy())))
        write_bytes(folder / f"{index}.classes.png", to_png(Image.fromarray(ids[0].numpy())))
        return {"image": index, "version": self.version}

    def prepare(self) -> bool:
        """Keep the maps of one more image, so that it is shown at once; False if all are kept or there is no room."""
        missing = [index for index in range(len(self.data.train)) if index not in self.maps]
        each = self._kept_bytes() / max(1, len(self.maps))
        if not missing or self.encoded() < len(self.data.train) or self._kept_bytes() + each > KEPT_MAPS:
            return False
        self._maps(missing[0])
        return True

    def _kept_bytes(self) -> int:
        return sum(one.nbytes for kept, _ in self.maps.values() for one in kept)

    def masks(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each image's id and predicted class ids (H, W), at the size at which the run sees it."""
        if self.head is not None:
            for index, name in enumerate(self.data.train.ids):
                maps, size = self._maps(index)
                yield name, dense_classes(self.head, maps, size)[0].numpy()

    def _maps(self, index: int) -> tuple[list[torch.Tensor], tuple[int, int]]:
        """The encoder's maps of an image, and the image's size."""
        if index in self.maps:
            self.maps.move_to_end(index)
            return self.maps[index]
        image = self.data.train.image(index)
        maps = encode(self.load_encoder(), image, self.data.train.ids[index], [0], self.config)
        self.maps[index] = maps, image.shape[:2]
        while self._kept_bytes() > KEPT_MAPS and len(self.maps) > 1:
            self.maps.popitem(last=False)
        return self.maps[index]

    def _features(self, pixels: list[Pixel]) -> np.ndarray:
        """(n, D) features: the cache's, or the encoder's for pixels that it does not hold."""
        kept = {pixel: self.cache.find(pixel) for pixel in dict.fromkeys(pixels)}
        for pixel, row in kept.items():
            if row is None and pixel not in self.clicked:
                maps, size = self._maps(pixel.image)
                rows = pixel_features(maps, np.array([pixel[1:]]), size, self.data.train.ids[pixel.image])
                self.clicked[pixel] = rows[0].astype(self.cache.arrays["local.features"].dtype)
        return np.stack([self.clicked[p] if kept[p] is None else kept[p] for p in pixels])
