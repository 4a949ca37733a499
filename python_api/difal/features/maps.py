"""The pool's feature maps, kept so that a new head is seen at every pixel without another pass of the encoder.

A head's linear layer commutes with resizing, so maps at their own resolution suffice; they are kept in the number
format of the cache, as those of the test set are. As many images are kept on disk as `maps_gb` has room for, a few more
in memory; the others are encoded again whenever they are wanted. Nothing here has to be there, or to last: what is
missing, damaged or of another encoder is made again.
"""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from difal.config import Config
from difal.data.base import Split
from difal.features.cache import encoder_settings
from difal.features.checks import may_be_reduced
from difal.features.pixels import encode
from difal.files import digest, write_tensors
from difal.threads import in_hand

FORMAT = 1
MADE_OF = "maps"  # the entry of a file's metadata
DISK_LEFT = 1 << 30  # bytes of the disk that maps never take: answers come first
IN_MEMORY = 1 << 29  # bytes of the maps of images for which there is no room on disk


class Maps(NamedTuple):
    """The encoder's maps of an image, (1, C, h, w) each, and the image's (height, width)."""

    maps: list[torch.Tensor]
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.maps)


def named(maps: Sequence[torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Maps in a number format under names that sort in the encoder's order."""
    return {f"map{i:03d}": one.to(dtype) for i, one in enumerate(maps)}


def unnamed(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The maps of `named`, in the encoder's order."""
    return [tensors[name] for name in sorted(tensors)]


class PoolMaps:
    """Gives the maps of images of the pool; several threads may ask at once.

    Args:
        folder: where they are kept, a file an image.
        pool: the images.
        load_encoder: gives the encoder, and in `weights` the digest of its weights.
        config: `maps_gb`, `cache_dtype`, `feature_seed`, `encoder`, `encoder_pixels`.
    """

    def __init__(self, folder: Path, pool: Split, load_encoder: Callable, config: Config):
        self.folder, self.pool, self.load_encoder, self.config = folder, pool, load_encoder, config
        self._lock = threading.Lock()
        self._memory: OrderedDict[int, Maps] = OrderedDict()
        self._on_disk: dict[int, int] | None = None  # bytes by image; None until somebody asks
        self._taken, self._room = 0, int(config.maps_gb * 1e9)  # bytes on disk, and how many there may be

    @cached_property
    def _made_of(self) -> list[str]:
        """By image, a digest of all that its maps depend on."""
        encoder = encoder_settings(self.config, self.load_encoder)
        reduced = self.config.encoder_pixels if may_be_reduced(self.pool.shapes(), self.config) else 0
        network = encoder["weights"] or encoder["encoder"]
        settings = [FORMAT, network, self.config.feature_seed, self.config.cache_dtype, reduced]
        return [digest([*settings, name]) for name in self.pool.ids]

    @contextmanager
    def _kept(self) -> Iterator[dict[int, int]]:
        """What is on disk, held; the folder is looked through the first time."""
        with self._lock:
            if self._on_disk is None:
                paths = [self._path(index) for index in range(len(self.pool))]
                found = {index: path.stat().st_size for index, path in enumerate(paths) if path.is_file()}
                self._taken = sum(found.values())
                self._on_disk = {index: size for index, size in found.items() if self._facts(index) is not None}
            yield self._on_disk

    def __contains__(self, index: int) -> bool:
        """Whether the maps of an image are there without a pass of the encoder."""
        with self._kept() as on_disk:
            return index in on_disk or index in self._memory

    def of(self, index: int) -> Maps:
        """The maps of an image, in the number format of the cache unless their values are too large for it."""
        found = self._in_memory(index) or self._read(index)
        if found is not None:
            return found
        with in_hand.take(self.pool.pixels(index)):
            image = self.pool.image(index)
            maps = encode(self.load_encoder(), image, self.pool.ids[index], [0], self.config)
        height, width = image.shape[:2]
        return self.keep(index, Maps(maps, (height, width)))

    def keep(self, index: int, made: Maps, memory: bool = True) -> Maps:
        """Keep the maps of an image where there is room for them; the maps as they are kept.

        Args:
            index: number of the image.
            made: its maps, as the encoder gives them.
            memory: whether they may be kept in memory, where they are not kept on disk.
        """
        tensors = named(made.maps, getattr(torch, self.config.cache_dtype))
        finite = all(bool(one.isfinite().all()) for one in tensors.values())
        kept = Maps(unnamed(tensors), made.size) if finite else made
        if not (finite and self._write(index, tensors, kept)) and memory:
            with self._lock:
                self._memory[index] = kept
                while self._in_memory_bytes() > IN_MEMORY and len(self._memory) > 1:
                    self._memory.popitem(last=False)
        return kept

    def has_room(self) -> bool:
        """Whether the maps of one more image like those that are kept would stay, and displace no other."""
        with self._kept() as on_disk:
            each = max([*on_disk.values(), *(one.nbytes for one in self._memory.values())], default=0)
            return self._fits(each) or self._in_memory_bytes() + each <= IN_MEMORY

    def _write(self, index: int, tensors: dict[str, torch.Tensor], made: Maps) -> bool:
        with self._kept() as on_disk:  # room is taken before it is used
            if index in on_disk:
                return True
            if not self._fits(made.nbytes):
                return False
            on_disk[index] = made.nbytes
            self._taken += made.nbytes
        try:
            write_tensors(self._path(index), tensors, {MADE_OF: json.dumps([self._made_of[index], *made.size])})
        except OSError as error:  # the folder may not be written to, or the disk is full: predictions just take longer
            warnings.warn(f"feature maps are not kept: {error}", stacklevel=2)
            self._room = 0
            self._forget(index)
            return False
        return True

    def _fits(self, size: int) -> bool:
        if self._taken + size > self._room:
            return False
        parent = next(folder for folder in (self.folder, *self.folder.parents) if folder.is_dir())
        return shutil.disk_usage(parent).free - size >= DISK_LEFT

    def _forget(self, index: int) -> None:
        with self._kept() as on_disk:
            self._taken -= on_disk.pop(index, 0)

    def _in_memory(self, index: int) -> Maps | None:
        with self._lock:
            if index in self._memory:
                self._memory.move_to_end(index)
            return self._memory.get(index)

    def _in_memory_bytes(self) -> int:
        return sum(one.nbytes for one in self._memory.values())

    def _read(self, index: int) -> Maps | None:
        with self._kept() as on_disk:
            if index not in on_disk:
                return None
        size = self._facts(index)
        if size is not None:
            with suppress(SafetensorError, OSError):
                return Maps(unnamed(load_file(self._path(index))), size)
        self._forget(index)  # damaged since
        return None

    def _facts(self, index: int) -> tuple[int, int] | None:
        """The image's (height, width), of a file that is whole and made of what is there now; else None."""
        try:
            with safe_open(self._path(index), "pt") as file:
                made_of, height, width = json.loads((file.metadata() or {}).get(MADE_OF, "null"))
                return (int(height), int(width)) if made_of == self._made_of[index] else None
        except (SafetensorError, OSError, TypeError, ValueError):
            return None

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"
