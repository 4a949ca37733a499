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
from difal.data.values import IGNORE, MaskValues, Value, show_value
from difal.errors import DataError

STRIP = 1 << 22  # pixels whose values are looked up at a time
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
    stored, greys = read_values(path, values is not None and values.colors)
    if stored.shape[:2] != shape:
        lying = " (the image is turned upright, as its EXIF data say)" if stored.shape[:2] == shape[::-1] else ""
        raise DataError(
            f"{path} is {stored.shape[1]} x {stored.shape[0]} pixels but its image is {shape[1]} x {shape[0]}{lying}; "
            f"export the mask at the image's size (nearest neighbour)"
        )
    if greys is not None:
        stored = _index_or_grey(stored, greys, _table(classes, void, values), path)
    mask = to_classes(stored, path, classes, void, values)
    target = (size, size) if isinstance(size, int) else size
    if target is None or target == shape:
        return mask
    return np.asarray(Image.fromarray(mask).resize((target[1], target[0]), Image.Resampling.NEAREST))


def to_classes(
    stored: np.ndarray, path: Path, classes: int, void: Sequence[int] = (), values: MaskValues | None = None
) -> np.ndarray:
    """(H, W) or (H, W, 3) stored values to (H, W) uint8 class ids."""
    table = _table(classes, void, values)
    # One bit, which a viewer shows as black and white, where the list has 255 and not 1.
    ones = IGNORE if stored.dtype == bool and values is not None and IGNORE in table and 1 not in table else 1
    mask = np.empty(stored.shape[:2], np.uint8)
    known = np.array(sorted(table), np.int64)
    ids = np.array([table[int(value)] for value in known], np.uint8)
    unknown, first = 0, None
    for top in range(0, len(stored), step := max(1, STRIP // max(1, stored.shape[1]))):
        numbers = _numbers(stored[top : top + step]) * ones
        at = np.searchsorted(known, numbers).clip(max=len(known) - 1)
        wrong = known[at] != numbers
        if wrong.any():
            unknown += int(wrong.sum())
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            first = first or (int(numbers[row, column]), top + row, column)
        mask[top : top + step] = ids[at]
    if first is not None:
        raise DataError(_unknown(path, *first, unknown, np.unique(_numbers(stored)), classes, values))
    return mask


def _table(classes: int, void: Sequence[int], values: MaskValues | None) -> dict[int, int]:
    """The class of each number that a mask may hold."""
    table = {i: i for i in range(classes)}
    if values is not None:
        table = {_one_number(value): to for value, to in values.to_class.items()}
        if values.colors:
            return table
    table.setdefault(IGNORE, IGNORE)
    return table | dict.fromkeys(void, IGNORE)


def _index_or_grey(stored: np.ndarray, greys: np.ndarray, table: dict[int, int], path: Path) -> np.ndarray:
    """A palette of greys: its own numbers, or, as where a tool has packed a grey mask, the greys.

    Raises:
        DataError: either could be meant.
    """
    used = np.unique(stored)
    shown = greys[used]
    one_to_one = len(np.unique(shown)) == len(used)
    if np.array_equal(used, shown) or not one_to_one or (used.tolist(), shown.tolist()) == ([0, 1], [0, 255]):
        return stored
    by_index, by_grey = (all(int(value) in table for value in found) for found in (used, shown))
    if by_index and by_grey:
        raise DataError(
            f"{path} is a palette of greys, and its classes could be its numbers ({_some(used)}) or its greys "
            f"({_some(shown)}); save it as greyscale, without a palette"
        )
    return greys[stored] if by_grey else stored


def _some(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:8])) + (" ..." if len(values) > 8 else "")


def _numbers(stored: np.ndarray) -> np.ndarray:
    """(H, W) int64; of colours, one number each."""
    if stored.ndim == 2:
        return stored.astype(np.int64)
    red, green, blue = (stored[..., band].astype(np.int64) for band in range(3))
    return red << 16 | green << 8 | blue


def _one_number(value: Value) -> int:
    return value if isinstance(value, int) else value[0] << 16 | value[1] << 8 | value[2]


def _unknown(path, value, row, column, count, found, classes, values) -> str:
    where = f"at x={column}, y={row} ({count} such pixels)"
    lossy = f"; {path.suffix} files change values, export the mask as PNG" if path.suffix.lower() in LOSSY else ""
    if values is not None:
        shown = show_value((value >> 16, value >> 8 & 255, value & 255)) if values.colors else str(value)
        return f"{path} has the value {shown} {where}, to which no class is given (known: {values.text()}){lossy}"
    return (
        f"{path} has class id {value} {where}; ids must be 0 to {classes - 1}, or 255 for void. It holds "
        f"{_some(found)}: name more classes, or say which value is which class by --mask-values or in classes.txt"
        f"{lossy}"
    )


def read_values(path: Path, colors: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """The stored numbers of a mask, (H, W), palettes by index; with `colors` the colours, (H, W, 3) uint8.

    Three equal channels are one. Whole numbers stored as float are taken. Beside them, where the file has a palette
    whose colours in use are all grey, the grey of each number; else None.

    Raises:
        DataError: damaged, or of several channels that are not equal; says why.
    """
    stored, palette = _stored(path, colors)
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
    return stored, None if colors or palette is None else _greys(palette, stored)


def _greys(palette: np.ndarray, stored: np.ndarray) -> np.ndarray | None:
    used = np.unique(stored)
    if used[-1] >= len(palette) or (palette[used] != palette[used, :1]).any():
        return None
    return palette[:, 0]


def _stored(path: Path, colors: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers as they are stored, upright, and the palette (n, 3) of a file that has one."""
    if is_tiff(path):
        page = tiff.read_page(path, indices=not colors)
        _one_only(path, page.unused)
        return turn_upright(opaque(page.values, page.alpha, path), page.orientation), page.palette
    with open_picture(path) as picture:
        how = orientation(picture, path)
        frames = getattr(picture, "n_frames", 1)
        _one_only(path, (f"{frames} frames",) if frames > 1 else ())
        try:
            values = _decoded(path, picture, colors)
        except (OSError, SyntaxError, ValueError, RuntimeError, struct.error, MemoryError) as error:
            if isinstance(error, DataError):
                raise
            raise damaged(path, error) from None
        palette = np.array(picture.getpalette() or (), np.uint8).reshape(-1, 3) if picture.mode == "P" else None
    return turn_upright(values, how), palette


def _one_only(path: Path, unused: Sequence[str]) -> None:
    """Which of several pages or bands holds the classes cannot be known."""
    if unused:
        raise DataError(f"{path} is a mask with {' and '.join(unused)}; export one page of one band with the class ids")


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
