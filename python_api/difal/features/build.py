"""Makes the feature cache: one pass of the encoder over the pool, on all ranks.

Memory does not grow with the pool. The pass is resumed at the image where it was cut short.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tqdm import tqdm

from difal import parallel
from difal.config import Config
from difal.data.base import IGNORE, Split
from difal.encoders.base import Encoder
from difal.errors import ConfigError, DataError
from difal.features.cache import (
    SETS,
    FeatureCache,
    Pixel,
    StaleCache,
    cache_settings,
    check_settings,
    open_array,
    settings_file,
)
from difal.features.maps import Maps, PoolMaps
from difal.features.pixels import draw_candidates, encode, pixel_features
from difal.files import TMP, crash_point, read_json, write_json, write_tensors
from difal.threads import in_hand, in_order
from difal.timing import StageClock
from difal_kernels import maxherding

WAVE = 256  # images; bounds the disk that their files take beside the arrays


def build_cache(
    folder: Path,
    pool: Split,
    load_encoder: Callable,
    config: Config,
    given: Sequence[Pixel] = (),
    wave: int = WAVE,
    noise: bool = True,
    maps: PoolMaps | None = None,
) -> FeatureCache:
    """Make the cache in `folder`, or finish one that was cut short, or open one that is complete.

    Every rank passes its share of the images through the encoder and writes a file for each; rank 0 moves the files'
    rows into the arrays, a wave of images at a time, so that the disk never holds all rows twice.

    Args:
        folder: where it is, or goes.
        pool: the images.
        load_encoder: called only if there is something left to do.
        config: `candidates`, `local`, `random`, `noise_samples`, `kernel`, `feature_seed`, `cache_dtype`, `batch`,
            `encoder`.
        given: pixels labeled before the run; local herding is conditioned on those of its image.
        wave: images that a rank encodes before rank 0 moves their rows.
        noise: whether the features under the noise samples are wanted, too; they cost a pass of the encoder each.
        maps: keeps the feature maps of the images that are encoded.

    Raises:
        ConfigError: the folder holds a cache with other settings.
        DataError: an image cannot be used; names it.
    """
    if config.void == "avoid" and not pool.has_masks:
        raise ConfigError("`void` is `avoid`, which needs masks of the pool; use --void ask")
    settings = cache_settings(config, pool, load_encoder, given, noise)
    images = PoolImages(folder, pool, load_encoder, config, given, maps)
    parallel.on_first_rank(lambda: images.create(settings))
    meta = check_settings(settings_file(folder), settings)
    if "local.noise" in meta["arrays"]:
        images.noise_samples = open_array(images.array("local.noise")).shape[2]
    images.encode_missing(range(meta["done"], len(pool)), meta, wave)
    parallel.on_first_rank(lambda: shutil.rmtree(images.folder_of_files, ignore_errors=True))
    return FeatureCache(folder)


def _reserve(paths: Sequence[Path]) -> None:
    """Have the disk set the files' bytes aside: writing to the map of a file that cannot grow kills the process."""
    total = sum(path.stat().st_size for path in paths)
    try:
        for path in paths:
            if hasattr(os, "posix_fallocate"):
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        for path in paths:
            path.unlink(missing_ok=True)
        raise ConfigError(
            f"{paths[0].parent} needs {total / 1e9:.2f} GB for the features ({error.strerror}); make room, give "
            f"another --cache folder, or keep fewer pixels by --local, --random and --noise-samples"
        ) from None


class PoolImages:
    """Computes the rows of each image, writes them to a file an image, and moves the files' rows into the arrays."""

    def __init__(
        self,
        folder: Path,
        pool: Split,
        load_encoder: Callable,
        config: Config,
        given: Sequence[Pixel],
        maps: PoolMaps | None = None,
    ):
        self.folder, self.pool, self.load_encoder, self.config = folder, pool, load_encoder, config
        self.given, self.maps, self.clock = list(given), maps, StageClock()
        self.noise_samples = 0  # of the cache, which may have more than this run needs
        self.folder_of_files = folder / "images"

    @cached_property
    def encoder(self) -> Encoder:
        return self.load_encoder()

    def create(self, settings: dict) -> None:
        """Write the JSON file and arrays of the full size, unless they are there."""
        if settings_file(self.folder).is_file():
            self._grow(settings)
            return
        images, dimension = len(self.pool), sum(self.encoder.channels)
        dtype, noise_samples = np.dtype(self.config.cache_dtype), settings["noise_samples"]
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "given.points": ((len(self.given), 3), np.dtype(np.int32)),
            "given.features": ((len(self.given), dimension), dtype),
        }
        shapes["sizes"] = ((images, 2), np.dtype(np.int32))
        for name in SETS:
            count = getattr(self.config, name)
            shapes[f"{name}.points"] = ((images, count, 2), np.dtype(np.int32))
            shapes[f"{name}.features"] = ((images, count, dimension), dtype)
            if noise_samples:
                shapes[f"{name}.noise"] = ((images, count, noise_samples, dimension), dtype)
        shutil.rmtree(self.folder_of_files, ignore_errors=True)  # of other settings, which are no longer written down
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, (shape, kind) in shapes.items():
            if 0 in shape:
                np.save(self.array(name), np.zeros(shape, kind))  # nothing cannot be mapped
            else:
                open_memmap(self.array(name), "w+", kind, shape).flush()
        _reserve([self.array(name) for name in shapes])
        if self.given:
            points = open_memmap(self.array("given.points"), "r+")
            points[:] = np.array(self.given, np.int32)
            points.flush()
        meta = {"settings": settings, "arrays": list(shapes), "done": 0, "stages": {}}
        write_json(settings_file(self.folder), meta)

    def _grow(self, settings: dict) -> None:
        """Make room for images that were added after those of the cache; the rows that are there stay."""
        path = settings_file(self.folder)
        meta = read_json(path)
        count = (
            meta["settings"].get("images") if isinstance(meta, dict) and isinstance(meta.get("settings"), dict) else 0
        )
        if not isinstance(count, int) or not 0 < count < len(self.pool):
            return
        earlier = self.pool.first(count)
        earlier.ranges = self.pool.ranges
        try:
            noise = settings["noise_samples"] > 0
            check_settings(path, cache_settings(self.config, earlier, self.load_encoder, self.given, noise))
        except StaleCache:
            return  # of other images; the caller says so
        for name in meta["arrays"]:
            if name.startswith("given"):
                continue
            old = open_array(self.array(name))
            if len(old) >= len(self.pool):  # done before the process was killed
                continue
            larger = self.array(name).with_name(f"{TMP}{name}.npy")
            new = open_memmap(larger, "w+", old.dtype, (len(self.pool), *old.shape[1:]))
            _reserve([larger])
            for start in range(0, count, 256):
                new[start : min(start + 256, count)] = old[start : min(start + 256, count)]
            new.flush()
            os.replace(larger, self.array(name))
        samples = {name: meta["settings"][name] for name in ("noise_samples",) if name in meta["settings"]}
        write_json(path, {**meta, "settings": {**settings, **samples}})

    def encode_missing(self, missing: range, meta: dict, wave: int) -> None:
        """Make the rows of the images that are not in the arrays yet."""
        total, step = len(parallel.shard(missing)), wave * parallel.world_size()
        with tqdm(desc="feature cache", total=total, unit="image", disable=not total or parallel.rank() > 0) as bar:
            for start in range(0, len(missing), step):
                images = missing[start : start + step]
                self._encode(parallel.shard(images), bar)
                parallel.barrier()
                parallel.on_first_rank(partial(self._consolidate, images, meta))

    def _encode(self, images: Sequence[int], bar: tqdm) -> None:
        """Write the files of this rank's images, but those that an interrupted pass left."""
        missing = [index for index in images if not self._file(index).is_file()]
        bar.update(len(images) - len(missing))
        if missing:
            _ = self.encoder  # loaded before the workers start
        for index, found in zip(missing, in_order(self.make, missing), strict=True):
            write_tensors(self._file(index), {name: torch.from_numpy(rows) for name, rows in found.items()})
            bar.update()
            crash_point("cache-image")

    def _consolidate(self, images: range, meta: dict) -> None:
        """Move the rows of images into the arrays; the files go last, so that it is redone where it was cut short."""
        arrays = {name: open_memmap(self.array(name), "r+") for name in meta["arrays"] if self._rows(name)}
        for index in images:
            for name, rows in self._read(index).items():
                at = self._given_of(index) if name == "given.features" else index
                if rows.size:
                    arrays[name][at] = rows
        for array in arrays.values():
            array.flush()
        self.clock.add_to(meta["stages"], torch.get_num_threads())
        meta["done"] = images.stop
        write_json(settings_file(self.folder), meta)
        crash_point("cache-wave")
        for index in images:
            self._file(index).unlink()

    def array(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _file(self, index: int) -> Path:
        return self.folder_of_files / f"{index:06d}.safetensors"

    def _rows(self, name: str) -> bool:
        return bool(self.given) or not name.startswith("given")

    def _given_of(self, index: int) -> list[int]:
        """The positions of an image's pixels among the given ones."""
        return [i for i, pixel in enumerate(self.given) if pixel.image == index]

    def _read(self, index: int) -> dict[str, np.ndarray]:
        try:
            return load_file(self._file(index))
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{self._file(index)} cannot be read ({error}); every rank must see this folder; if they all do, "
                f"delete the file, and start again"
            ) from None

    def make(self, index: int) -> dict[str, np.ndarray]:
        """Everything of one image, in the cache's number formats; several threads may be at it."""
        with in_hand.take(self.pool.pixels(index)):
            return self._make(index)

    def _make(self, index: int) -> dict[str, np.ndarray]:
        config, name = self.config, self.pool.ids[index]
        with self.clock("images"):
            image = self.pool.image(index)
        size = image.shape[:2]
        here = self._given_of(index)
        labeled = np.array([self.given[i][1:] for i in here], np.int64).reshape(-1, 2)
        void = self.pool.mask(index) == IGNORE if config.void == "avoid" else None
        candidates = draw_candidates(name, size, config, labeled, void)
        with self.clock("encoder"):
            maps = encode(self.encoder, image, name, [0], config)
        if self.maps is not None:
            self.maps.keep(index, Maps(maps, size), memory=False)
        with self.clock("hypercolumns"):
            rows = pixel_features(maps, np.concatenate([labeled, candidates]), size, name)
        given_rows, rows = rows[: len(labeled)], rows[len(labeled) :]
        with self.clock("local herding"):
            conditions = given_rows if here else None
            picks = maxherding(rows, config.local, labeled=conditions, kernel=config.kernel)
        chosen = {"local": np.asarray(picks), "random": np.arange(config.random)}
        points = np.concatenate([candidates[at] for at in chosen.values()])
        dtype = np.dtype(config.cache_dtype)
        found = {"sizes": np.array(size), "given.features": given_rows.astype(dtype)}
        for pixels, at in chosen.items():
            found |= {f"{pixels}.points": candidates[at], f"{pixels}.features": rows[at].astype(dtype)}
        if self.noise_samples:
            noise = np.split(self._noise_features(image, name, points), [config.local])
            found |= {f"{pixels}.noise": part.astype(dtype) for pixels, part in zip(chosen, noise, strict=True)}
        return found

    def _noise_features(self, image: np.ndarray, name: str, points: np.ndarray) -> np.ndarray:
        """(P, K, D) float32: the points' features under noise samples 1 to K, `batch` of them in memory at a time."""
        rows = []
        for first in range(1, self.noise_samples + 1, self.config.batch):
            noise_samples = range(first, min(first + self.config.batch, self.noise_samples + 1))
            with self.clock("encoder"):
                maps = encode(self.encoder, image, name, noise_samples, self.config)
            with self.clock("hypercolumns"):
                for at in range(len(noise_samples)):
                    rows.append(pixel_features([m[at : at + 1] for m in maps], points, image.shape[:2], name))
        return np.stack(rows, 1)
