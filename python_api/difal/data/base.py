"""What the loop needs of a data set, and reading one image or mask with every check."""

from __future__ import annotations

import abc
import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from difal.errors import DataError

IGNORE = 255
ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height


class Split(abc.ABC):
    """Images in a fixed order, each with an id, and perhaps masks. Nothing is kept in memory."""

    ids: tuple[str, ...]
    has_masks: bool

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

    def fault(self, index: int) -> str | None:
        """Why the image or its mask cannot be used, or None: asked of every image before any is encoded."""
        return None


@dataclass
class Data:
    """A pool to label (`train`), a test set or None, and what the class ids mean."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    colors: np.ndarray | None = None  # (C, 3) uint8

    def __post_init__(self) -> None:
        if self.colors is None:
            self.colors = distinct_colors(len(self.classes))


class FileSplit(Split):
    """Image files, and mask files beside them or none."""

    def __init__(
        self,
        ids: Sequence[str],
        images: Sequence[Path],
        masks: Sequence[Path] | None,
        classes: int,
        size: int | None = None,
        void: Sequence[int] = (),
    ):
        self.ids, self.images, self.masks = tuple(ids), tuple(images), None if masks is None else tuple(masks)
        self.classes, self.size, self.void = classes, size, tuple(void)
        self.has_masks = masks is not None
        if len(set(self.ids)) < len(self.ids):
            twice = next(name for name in self.ids if self.ids.count(name) > 1)
            raise DataError(f"two images have the name {twice!r} ({self.images[0].parent}); rename one")
        for name in self.ids:
            if any("\ud800" <= letter <= "\udfff" for letter in name):  # bytes that Python could not decode
                raise DataError(f"the image name {name!r} ({self.images[0].parent}) is not UTF-8; rename the file")

    def image(self, index: int) -> np.ndarray:
        return read_image(self.images[index], self.size)

    def original(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 as in the file, not resized."""
        return read_image(self.images[index])

    def mask(self, index: int) -> np.ndarray:
        shape = image_shape(self.images[index])
        return read_mask(self.masks[index], shape, self.classes, self.size, self.void)

    def first(self, count: int) -> FileSplit:
        masks = None if self.masks is None else self.masks[:count]
        return FileSplit(self.ids[:count], self.images[:count], masks, self.classes, self.size, self.void)

    def fault(self, index: int) -> str | None:
        try:
            self.image(index)
            if self.has_masks:
                self.mask(index)
        except DataError as error:
            return str(error)
        return None

    def fingerprint(self) -> dict:
        return {
            "ids": list(self.ids),
            "size": self.size,
            "bytes": sum(path.stat().st_size for path in self.images),
        }


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
        return _resize(Image.fromarray(self.make(index)[0]), self.size, Image.Resampling.BILINEAR)

    def mask(self, index: int) -> np.ndarray:
        return _resize(Image.fromarray(self.make(index)[1]), self.size, Image.Resampling.NEAREST)

    def first(self, count: int) -> FunctionSplit:
        return FunctionSplit(self.ids[:count], self.make, self.size)


def read_image(path: Path, size: int | None = None) -> np.ndarray:
    """Decode an RGB (or grey, or palette) image to (H, W, 3) uint8, upright: turned as its EXIF orientation says."""
    with _open(path) as picture:
        if picture.mode not in ("RGB", "L", "P", "1"):
            raise DataError(
                f"{path} has channels {'+'.join(picture.getbands())} ({picture.mode}), the encoder needs red, green "
                f"and blue; convert it, for example with Pillow: Image.open(...).convert('RGB').save(...)"
            )
        try:
            upright = ImageOps.exif_transpose(picture)
            return _resize(upright.convert("RGB"), size, Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace it or take it out of the folder") from None


def image_shape(path: Path) -> tuple[int, int]:
    """(H, W) that `read_image` gives, without decoding the image."""
    with _open(path) as picture:
        try:
            turned = picture.getexif().get(ORIENTATION) in LYING
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace it or take it out of the folder") from None
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def read_mask(
    path: Path, shape: tuple[int, int], classes: int, size: int | None = None, void: Sequence[int] = ()
) -> np.ndarray:
    """Decode a mask of class ids to (H, W) uint8, its ids checked; ids in `void` become 255."""
    with _open(path) as picture:
        if picture.mode not in ("L", "P", "I", "I;16", "1"):
            raise DataError(
                f"{path} has channels {'+'.join(picture.getbands())}; a mask needs one channel that holds class "
                f"ids 0 to {classes - 1} (255 void): convert its colours to ids first"
            )
        try:
            mask = np.asarray(picture).astype(np.int64)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace it or take it out of the folder") from None
    if mask.shape != shape:
        raise DataError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels but its image is {shape[1]} x {shape[0]}; "
            f"export the mask at the image's size (nearest neighbour)"
        )
    mask[np.isin(mask, void)] = IGNORE
    wrong = (mask != IGNORE) & ((mask < 0) | (mask >= classes))
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{path} has class id {mask[row, column]} at x={column}, y={row} ({int(wrong.sum())} such pixels); ids "
            f"must be 0 to {classes - 1}, or 255 for void: name more classes or mend the mask"
        )
    return _resize(Image.fromarray(mask.astype(np.uint8)), size, Image.Resampling.NEAREST)


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; it was there when the folder was listed") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error}); replace it or take it out of the folder") from None


def _resize(picture: Image.Image, size: int | None, how: Image.Resampling) -> np.ndarray:
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), how)
    return np.array(picture)


def distinct_colors(count: int) -> np.ndarray:
    """(count, 3) uint8: hues by the golden angle, alternating in lightness."""
    rows = [
        colorsys.hsv_to_rgb(0.58 + i * 0.61803, (0.65, 0.45, 0.85)[i % 3], (0.85, 0.95, 0.6)[i % 3])
        for i in range(count)
    ]
    return (np.array(rows).reshape(count, 3) * 255).round().astype(np.uint8)
