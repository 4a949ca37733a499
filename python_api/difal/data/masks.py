"""Masks of class ids: any whole-number type, byte order and file kind, palettes, and colours where a list says so."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from difal.data import tiff
from difal.data.images import (
    DEEP_MODES,
    damaged,
    is_deep_png,
    is_tiff,
    opaque,
    open_picture,
    orientation,
    png_depth,
    turn_upright,
)
from difal.data.values import IGNORE, MaskValues, show_value
from difal.errors import DataError

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")


def read_mask(
    path: Path,
    shape: tuple[int, int],
    classes: int,
    size: int | tuple[int, int] | None = None,
    void: Sequence[int] = (),
    values: MaskValues | None = None,
) -> np.ndarray:
    """Decode a mask to (H, W) uint8 class ids, 255 void.

    Args:
        path: the file.
        shape: (H, W) of its image, upright.
        classes: how many there are.
        size: resize to size x size, or to (H, W), by the nearest pixel.
        void: values that become 255.
        values: what the values mean; default: they are the class ids.

    Raises:
        DataError: another size, a value that is no class; names file, pixel and cure.
    """
    stored = read_values(path, values is not None and values.colors)
    if stored.shape[:2] != shape:
        lying = " (the image is turned upright, as its EXIF data say)" if stored.shape[:2] == shape[::-1] else ""
        raise DataError(
            f"{path} is {stored.shape[1]} x {stored.shape[0]} pixels but its image is {shape[1]} x {shape[0]}{lying}; "
            f"export the mask at the image's size (nearest neighbour)"
        )
    mask = to_classes(stored, path, classes, void, values)
    target = (size, size) if isinstance(size, int) else size
    if target is None or target == shape:
        return mask
    return np.asarray(Image.fromarray(mask).resize((target[1], target[0]), Image.Resampling.NEAREST))


def to_classes(
    stored: np.ndarray, path: Path, classes: int, void: Sequence[int] = (), values: MaskValues | None = None
) -> np.ndarray:
    """(H, W) or (H, W, 3) stored values to (H, W) uint8 class ids."""
    if stored.ndim == 3:  # one number a colour
        stored = stored.astype(np.int64)
        numbers = (stored[..., 0] << 16) | (stored[..., 1] << 8) | stored[..., 2]
        table = {(r << 16) | (g << 8) | b: to for (r, g, b), to in values.to_class.items()}
    else:
        numbers = stored.astype(np.int64)
        if stored.dtype == bool and values is not None and IGNORE in values.to_class and 1 not in values.to_class:
            numbers *= IGNORE  # one bit, which a viewer shows as black and white
        table = {i: i for i in range(classes)} if values is None else dict(values.to_class)
        table.setdefault(IGNORE, IGNORE)
        table |= dict.fromkeys(void, IGNORE)
    found, inverse = np.unique(numbers, return_inverse=True)
    unknown = [int(value) for value in found if int(value) not in table]
    if unknown:
        wrong = np.isin(numbers, unknown)
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            _unknown(path, int(numbers[row, column]), row, column, int(wrong.sum()), found, classes, values)
        )
    return np.array([table[int(value)] for value in found], np.uint8)[inverse.reshape(numbers.shape)]


def _unknown(path, value, row, column, count, found, classes, values) -> str:
    where = f"at x={column}, y={row} ({count} such pixels)"
    lossy = f"; {path.suffix} files change values, export the mask as PNG" if path.suffix.lower() in LOSSY else ""
    if values is not None:
        shown = show_value((value >> 16, value >> 8 & 255, value & 255)) if values.colors else str(value)
        return f"{path} has the value {shown} {where}, to which no class is given (known: {values.text()}){lossy}"
    held = ", ".join(map(str, found[:8])) + (" ..." if len(found) > 8 else "")
    return (
        f"{path} has class id {value} {where}; ids must be 0 to {classes - 1}, or 255 for void. It holds {held}: name "
        f"more classes, or say which value is which class by --mask-values or in classes.txt{lossy}"
    )


def read_values(path: Path, colors: bool = False) -> np.ndarray:
    """The stored numbers of a mask, (H, W), palettes by index; with `colors` the colours, (H, W, 3) uint8.

    Three equal channels are one. Whole numbers stored as float are taken.

    Raises:
        DataError: damaged, or of several channels that are not equal; says why.
    """
    stored = _stored(path, colors)
    if stored.ndim == 3 and not colors:
        if stored.shape[2] != 3 or (stored != stored[..., :1]).any():
            different = len(np.unique(stored.reshape(-1, stored.shape[2]), axis=0))
            raise DataError(
                f"{path} is in colours ({different} different ones), not class ids; say which colour is which class in "
                f"classes.txt, a line such as `#ff0000 road` each, or by --mask-values #000000,#ff0000"
            )
        stored = stored[..., 0]
    if stored.ndim == 2 and colors:
        stored = np.repeat(stored[..., None], 3, 2)
    if stored.dtype.kind == "f":
        whole = np.isfinite(stored) & (stored == np.rint(stored))
        if not whole.all():
            row, column = (int(i) for i in np.argwhere(~whole)[0])
            raise DataError(
                f"{path} has the value {stored[row, column]:g} at x={column}, y={row}, which is no class id; export "
                f"the mask as whole numbers"
            )
        stored = stored.astype(np.int64)
    return stored


def _stored(path: Path, colors: bool) -> np.ndarray:
    if is_tiff(path):
        page = tiff.read_page(path, indices=not colors)
        return turn_upright(opaque(page.values, page.alpha, path), page.orientation)
    with open_picture(path) as picture:
        how = orientation(picture, path)
        try:
            values = _decoded(path, picture, colors)
        except (OSError, SyntaxError, ValueError, RuntimeError, struct.error, MemoryError) as error:
            if isinstance(error, DataError):
                raise
            raise damaged(path, error) from None
    return turn_upright(values, how)


def _decoded(path: Path, picture: Image.Image, colors: bool) -> np.ndarray:
    if is_deep_png(path, picture):
        import imagecodecs

        values = imagecodecs.png_decode(path.read_bytes())
        alpha = values[..., -1] if values.shape[2] in (2, 4) else None
        values = values[..., :3] if values.shape[2] > 2 else values[..., 0]
        return opaque(values, alpha, path)
    if picture.mode in ("1", "L", "P", *DEEP_MODES) and not (colors and picture.mode == "P"):
        depth, color_type = png_depth(path, picture) or (8, 0)
        values = np.asarray(picture)
        if color_type == 0 and depth in (2, 4):  # Pillow spreads them over 0 to 255
            values = values // (255 // (2**depth - 1))
        return values
    if picture.mode == "PA" and not colors:
        return np.asarray(picture.getchannel(0))
    if picture.mode in ("P", "RGB", "CMYK", "YCbCr", "HSV"):
        return np.asarray(picture.convert("RGB"))
    whole = np.asarray(picture.convert("RGBA"))
    return opaque(whole[..., :3], whole[..., 3], path)
