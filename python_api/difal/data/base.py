"""What the loop needs of a data set: splits of images and masks, looked at and read one at a time."""

from __future__ import annotations

import abc
import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from difal.data.images import (
    LARGEST,
    ValueRanges,
    is_deep,
    range_of,
    read_header,
    read_image,
    read_picture,
    read_shape,
    resize,
)
from difal.data.masks import read_mask
from difal.data.values import IGNORE, MaskValues
from difal.errors import DataError
from difal.threads import in_hand

__all__ = ["IGNORE", "Data", "FileSplit", "FunctionSplit", "Look", "Split", "distinct_colors"]


class Look(NamedTuple):
    """What one image and its mask hold; `fault` says why they cannot be used, or is None."""

    fault: str | None = None
    shape: tuple[int, int] = (0, 0)  # (H, W) in the file, upright
    kind: str = "8-bit colour"
    reduced: int = 1
    unused: tuple[str, ...] = ()
    counts: np.ndarray | None = None  # (256,) pixels of each class id of the mask, 255 void


class Split(abc.ABC):
    """Images in a fixed order, each with an id, and perhaps masks. Nothing is kept in memory."""

    ids: tuple[str, ...]
    has_masks: bool
    size: int | None = None  # every image is resized to so many pixels a side
    ranges: ValueRanges | None = None  # of the values of deep images

    def __len__(self) -> int:
        return len(self.ids)

    @abc.abstractmethod
    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8."""

    @abc.abstractmethod
    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8: class ids, 255 where there is none. Only if `has_masks`."""

    @abc.abstractmethod
    def first(self, count: int) -> Split:
        """The first `count` images as a split."""

    def fingerprint(self) -> dict:
        """What must be equal for features computed earlier to be used again."""
        return {"ids": list(self.ids)}

    def shapes(self) -> list[tuple[int, int]]:
        """(H, W) of each image as it is read, where the files' headers say so; else nothing."""
        return []

    def pixels(self, index: int) -> int:
        """Pixels of an image as it is decoded, where its file's header says so; else 0."""
        return 0

    def look(self, index: int) -> Look | None:
        """What an image and its mask hold, asked of all before any is encoded; None where they are made, not read."""
        return None


@dataclass
class Data:
    """A pool to label (`train`), a test set or None, and what the class ids mean."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    colors: np.ndarray | None = None  # (C, 3) uint8
    left_out: list[str] = field(default_factory=list)  # lines: what of the folder is not used, and why
    named_here: bool = False  # the user named the classes, so that each should be in a mask
    values: MaskValues | None = None

    def __post_init__(self) -> None:
        if self.colors is None:
            self.colors = distinct_colors(len(self.classes))


class FileSplit(Split):
    """Image files, and mask files beside them or none.

    Args:
        ids: a name for each image.
        images, masks: the files.
        classes: how many classes the masks may hold.
        size: resize everything to size x size pixels.
        void: values of masks that are void, besides 255.
        values: what the values of masks mean; default: they are class ids.
        largest: images of more pixels are read reduced.
    """

    def __init__(
        self,
        ids: Sequence[str],
        images: Sequence[Path],
        masks: Sequence[Path] | None,
        classes: int,
        size: int | None = None,
        void: Sequence[int] = (),
        values: MaskValues | None = None,
        largest: int = LARGEST,
    ):
        self.ids, self.images, self.masks = tuple(ids), tuple(images), None if masks is None else tuple(masks)
        self.classes, self.size, self.void, self.values, self.largest = classes, size, tuple(void), values, largest
        self.has_masks = masks is not None
        self.ranges: ValueRanges = ValueRanges(self.images)
        self._shapes: list[tuple[int, int]] | None = None
        if len(set(self.ids)) < len(self.ids):
            twice = next(name for name in self.ids if self.ids.count(name) > 1)
            raise DataError(f"two images have the name {twice!r} ({self.images[0].parent}); rename one")
        for name in self.ids:
            if any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes that Python could not decode
                raise DataError(f"the image name {name!r} ({self.images[0].parent}) is not UTF-8; rename the file")

    def image(self, index: int) -> np.ndarray:
        return read_image(self.images[index], self.size, self.ranges, self.largest)

    def original(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 as in the file, not resized; large ones reduced."""
        return read_image(self.images[index], None, self.ranges, self.largest)

    def shapes(self) -> list[tuple[int, int]]:
        if self._shapes is None:
            self._shapes = [self._shape(path) for path in self.images]
        return self._shapes

    def _shape(self, path: Path) -> tuple[int, int]:
        try:
            return (self.size, self.size) if self.size else read_shape(path, self.largest)
        except DataError:  # `look` says why
            return 0, 0

    def pixels(self, index: int) -> int:
        height, width = read_shape(self.images[index], self.largest)
        return height * width

    def file_shape(self, index: int) -> tuple[int, int]:
        """(H, W) of the image in its file, upright."""
        return read_header(self.images[index]).shape

    def mask(self, index: int) -> np.ndarray:
        if self.masks is None:
            raise ValueError(f"{self.ids[index]} has no mask")
        size = self.size or read_shape(self.images[index], self.largest)
        shape = self.file_shape(index)
        return read_mask(self.masks[index], shape, self.classes, size, self.void, self.values)

    def first(self, count: int) -> FileSplit:
        return self.take(range(min(count, len(self))))

    def take(self, indices: Sequence[int]) -> FileSplit:
        """The images of these indices, in this order, as a pool of their own."""
        masks = None if self.masks is None else [self.masks[i] for i in indices]
        ids, images = [self.ids[i] for i in indices], [self.images[i] for i in indices]
        return FileSplit(ids, images, masks, self.classes, self.size, self.void, self.values, self.largest)

    def look(self, index: int) -> Look:
        try:
            with in_hand.take(self.pixels(index)):
                picture = read_picture(self.images[index], self.largest)
                if is_deep(picture.kind):
                    range_of(picture.kind, self.images[index], self.ranges)
                counts = np.bincount(self.mask(index).ravel(), minlength=256) if self.has_masks else None
            shape = self.file_shape(index)
        except DataError as error:
            return Look(str(error))
        return Look(None, shape, picture.kind, picture.reduced, picture.unused, counts)

    def file_sizes(self) -> list[int]:
        """Bytes of each image file."""
        return [path.stat().st_size for path in self.images]

    def fingerprint(self) -> dict:
        ranges = self.ranges.to_json()
        facts = {"ids": list(self.ids), "size": self.size, "bytes": sum(self.file_sizes())}
        return facts | ({"ranges": ranges} if ranges else {})


class FunctionSplit(Split):
    """Images and masks made by a function `make(index) -> (image, mask)`."""

    has_masks = True

    def __init__(
        self,
        ids: Sequence[str],
        make: Callable[[int], tuple[np.ndarray, np.ndarray]],
        size: int | None = None,
    ):
        self.ids, self.make, self.size = tuple(ids), make, size

    def image(self, index: int) -> np.ndarray:
        return resize(Image.fromarray(self.make(index)[0]), self.size, Image.Resampling.BILINEAR)

    def mask(self, index: int) -> np.ndarray:
        return resize(Image.fromarray(self.make(index)[1]), self.size, Image.Resampling.NEAREST)

    def first(self, count: int) -> FunctionSplit:
        return FunctionSplit(self.ids[:count], self.make, self.size)


# Okabe and Ito's palette, less black, then Paul Tol's muted one: told apart with every common colour blindness.
PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (136, 34, 85), (68, 170, 153), (153, 153, 51), (51, 34, 136), (136, 204, 238), (204, 102, 119), (221, 204, 119),
    (17, 119, 51), (170, 68, 153),
)  # fmt: skip


def distinct_colors(count: int) -> np.ndarray:
    """(count, 3) uint8: PALETTE, and beyond it hues by the golden angle, alternating in lightness."""
    more = [
        colorsys.hsv_to_rgb(0.58 + i * 0.61803, (0.65, 0.45, 0.85)[i % 3], (0.85, 0.95, 0.6)[i % 3])
        for i in range(len(PALETTE), count)
    ]
    rows = [*PALETTE[:count], *(np.array(more).reshape(-1, 3) * 255).round()]
    return np.array(rows).reshape(count, 3).astype(np.uint8)
