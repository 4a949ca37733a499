"""The feature cache: everything a round needs of the pool, kept on disk by `features.build`.

For each pool image two sets of pixels, drawn without a look at the ground truth (unless `void` is "avoid"):

    local    what MaxHerding keeps of the image's random candidates (stage 1a)
    random   the first of those candidates: BatchNorm context, and the pool of acquisitions without stage 1

each with `points` (N, m, 2) int32 (row, column), `features` (N, m, D) under the fixed noise and, where a run reads
them, `noise` (N, m, K, D) under the K noise samples behind DALD, as `.npy` memory maps beside a JSON file. `given`
holds the features of pixels that were labeled before the run. The settings that a cache was made with are in its JSON
file; it is used again where they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from difal.config import RENAMED, Config
from difal.data.base import Split
from difal.errors import ConfigError
from difal.features.checks import may_be_reduced
from difal.files import derive_seed, digest, read_json
from difal_kernels._npy import load_npy

SETS = ("local", "random")
FORMAT = 2


class Pixel(NamedTuple):
    """A pixel of the pool: index of the image, row, column."""

    image: int
    row: int
    column: int


class FeatureCache:
    """An open, complete cache. Arrays are read-only memory maps."""

    def __init__(self, folder: Path):
        self.meta = read_json(settings_file(folder))
        self.images = self.meta["settings"]["images"]
        self.arrays = {name: open_array(folder / f"{name}.npy") for name in self.meta["arrays"]}
        for name, array in self.arrays.items():  # arrays grow before the settings say so
            self.arrays[name] = array if name.startswith("given") else array[: self.images]

    @property
    def dimension(self) -> int:
        return self.arrays["local.features"].shape[-1]

    def features(self, pixels: str) -> np.ndarray:
        """(N m, D) under the fixed noise, image after image."""
        array = self.arrays[f"{pixels}.features"]
        return array.reshape(-1, array.shape[-1])

    def noise(self, pixels: str) -> np.ndarray:
        """(N m, K, D) under the noise samples."""
        array = self.arrays[f"{pixels}.noise"]
        return array.reshape(-1, *array.shape[-2:])

    def pixel(self, pixels: str, row: int) -> Pixel:
        points = self.arrays[f"{pixels}.points"]
        image, position = divmod(int(row), points.shape[1])
        return Pixel(image, *map(int, points[image, position]))

    def size(self, image: int) -> tuple[int, int]:
        height, width = self.arrays["sizes"][image]
        return int(height), int(width)

    def open_rows(self, pixels: str, queried: Sequence[Pixel]) -> np.ndarray:
        """Return the rows of a set, ascending, but those of the pixels queried so far."""
        points = self.arrays[f"{pixels}.points"]
        is_open = np.ones(points.shape[:2], bool)
        for image, row, column in queried:
            is_open[image] &= ~(points[image] == (row, column)).all(1)
        return np.flatnonzero(is_open)

    def find(self, pixel: Pixel) -> np.ndarray | None:
        """(D,) features of a pixel of either set or of the given ones; None for any other."""
        given = (self.arrays["given.points"] == pixel).all(1)
        if given.any():
            return self.arrays["given.features"][int(given.argmax())]
        for name in SETS:
            found = (self.arrays[f"{name}.points"][pixel.image] == pixel[1:]).all(1)
            if found.any():
                return self.arrays[f"{name}.features"][pixel.image, int(found.argmax())]
        return None

    def features_of(self, wanted: Sequence[Pixel]) -> np.ndarray:
        """(n, D) features of pixels of either set or of the given ones."""
        rows = np.empty((len(wanted), self.dimension), self.arrays["local.features"].dtype)
        for at, pixel in enumerate(wanted):
            found = self.find(pixel)
            if found is None:
                raise ConfigError(f"pixel {tuple(pixel)} is not in the cache; was the cache made for another run?")
            rows[at] = found
        return rows

    def context(self, rows: int = 8192) -> np.ndarray:
        """At most `rows` random unlabeled features, a fixed choice spread over the images."""
        everything = self.features("random")
        if len(everything) <= rows:
            return np.asarray(everything)
        chosen = np.random.default_rng(derive_seed("context", len(everything))).choice(len(everything), rows, False)
        return everything[np.sort(chosen)]


def encoder_settings(config: Config, load_encoder: Callable) -> dict:
    """The encoder's name and, if `load_encoder` knows it, the digest of its weights and settings."""
    return {"encoder": config.encoder, "weights": getattr(load_encoder, "weights", None)}


def cache_settings(
    config: Config, pool: Split, load_encoder: Callable, given: Sequence[Pixel], noise: bool = True
) -> dict:
    """What must be equal for a cache to be used again; one with noise samples serves runs that need none, too."""
    names = ("candidates", "local", "random", "kernel", "feature_seed", "cache_dtype")
    return {
        "format": FORMAT,
        "images": len(pool),
        "pool": digest(pool.fingerprint()),
        **encoder_settings(config, load_encoder),
        "given": digest(sorted(map(tuple, given))) if given else None,
        **{name: getattr(config, name) for name in names},
        "encoder_pixels": config.encoder_pixels if may_be_reduced(pool.shapes(), config) else 0,
        "noise_samples": config.noise_samples if noise else 0,
        **({} if config.void == "ask" else {"void": config.void}),
    }


def settings_file(folder: Path) -> Path:
    """The JSON file of the cache in `folder`; one that an earlier version made is `bank.json`."""
    earlier = folder / "bank.json"
    return earlier if earlier.is_file() else folder / "cache.json"


class StaleCache(ConfigError):
    """The cache in a folder was made with other settings, or of other images, than are wanted now."""


def images_done(folder: Path) -> int:
    """How many images, from the first on, have their rows in the cache in `folder`, which may still be under way."""
    path = settings_file(folder)
    return int(read_json(path)["done"]) if path.is_file() else 0


def check_settings(path: Path, wanted: dict) -> dict:
    """The JSON at `path`, if it was made with the wanted settings."""
    meta = read_json(path)
    if not isinstance(meta, dict) or not isinstance(meta.get("settings"), dict):
        raise StaleCache(f"{path} is damaged; delete {path.parent} to have the features made again")
    settings = {RENAMED.get(name, name): value for name, value in meta["settings"].items()}
    settings.setdefault("encoder_pixels", 0)  # earlier versions passed every image whole
    for name, value in {**dict.fromkeys(settings), **wanted}.items():
        found = settings.get(name)
        if name == "encoder" and wanted.get("weights") and wanted["weights"] == settings.get("weights"):
            continue  # the same network from another place
        if name == "noise_samples" and value == 0:
            continue  # they are there and not needed
        if name == "noise_samples" and found == 0:
            raise StaleCache(
                f"{path.parent} has no noise samples, which this acquisition reads; give it another --cache, or make "
                f"that cache by `difal encode`, with them"
            )
        if found != value and name == "format":
            raise StaleCache(
                f"{path.parent} was made by another version of this package; delete it, or give another --cache"
            )
        if found != value and name == "weights":
            raise StaleCache(
                f"{path.parent} holds features of other weights: encoder {wanted['encoder']!r} had the digest {found} "
                f"then and has {value} now; put the old weights back, or give another --cache folder"
            )
        if found != value and name in ("images", "pool"):
            raise StaleCache(
                f"{path.parent} holds features of other images (names, contents and --size count): put them back as "
                f"they were, or delete {path.parent}, or give another --cache folder"
            )
        if found != value:
            raise StaleCache(
                f"{path.parent} holds features with {name} = {found!r}, this run has {value!r}; "
                f"give it the old setting, or another --cache folder"
            )
    return meta


def open_array(path: Path) -> np.ndarray:
    """Open an array of a cache as a read-only memory map.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return _map(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); delete {path.parent} to have the features made again"
        ) from None


def _map(path: Path) -> np.ndarray:
    """A read-only memory map; `given` is read, since it may have no rows, and nothing cannot be mapped."""
    return load_npy(path, mapped=not path.stem.startswith("given"))
