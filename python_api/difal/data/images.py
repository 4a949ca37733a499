"""Photographs as (H, W, 3) uint8, whatever the file: one reader for every command.

8-bit images are taken as they are. Deeper ones, such as 16-bit grey or float, have no range of their own that a network
could expect: they are scaled by `ValueRanges`, one range for all images of a kind in the pool. What a file holds beside
the picture that is used, such as further pages or bands, is named in `Picture.unused`.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from difal.data import tiff
from difal.data.listing import HEIC_ENDINGS, reads_heic
from difal.data.profiles import profile_name
from difal.errors import DataError

LARGEST = 89_478_485  # pixels, Pillow's own limit; images above it are read reduced
DECODABLE = 2**30  # pixels of a file that has to be decoded as a whole
ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
LOW, HIGH = 0.1, 99.9  # percentiles of a pool's values that become black and white
SAMPLED = 4096  # values of an image that stand for it
DEEP_MODES = {"I;16": np.uint16, "I;16L": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}
PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
Values = TypeVar("Values", np.ndarray, None)
_limit = threading.Lock()
_large = threading.Lock()  # one large image is decoded at a time: memory


class Header(NamedTuple):
    """What a file says of its picture before it is decoded; `shape` (H, W) is upright."""

    shape: tuple[int, int]
    kind: str


class Picture(NamedTuple):
    """A decoded picture: `values` (H, W) or (H, W, 3) of the file's own type, upright."""

    values: np.ndarray
    kind: str
    reduced: int = 1
    unused: tuple[str, ...] = ()
    nodata: float | None = None


def kind_name(dtype: np.dtype, color: bool) -> str:
    """Name the kind of a picture, such as "8-bit colour", "16-bit grey" or "float grey".

    Example:
        >>> kind_name(np.dtype(np.uint16), False)
        '16-bit grey'
    """
    dtype = np.dtype(dtype)
    bits = 8 * dtype.itemsize
    depth = "float" if dtype.kind == "f" else f"{'signed ' if dtype.kind == 'i' else ''}{bits}-bit"
    return f"{depth} {'colour' if color else 'grey'}"


def is_deep(kind: str) -> bool:
    """Whether pictures of this kind have to be scaled."""
    return not kind.startswith("8-bit")


class ValueRanges(Mapping[str, tuple[float, float]]):
    """For each kind of deep picture of a pool, the values that become black and white.

    They are the 0.1 and 99.9 percentiles of the pool, by a fixed sample of pixels of every image of the kind, found
    when first asked for. With `known`, those are used, and no others.
    """

    def __init__(self, paths: Sequence[Path], known: Mapping[str, Sequence[float]] | None = None):
        self.paths, self.given = tuple(paths), known is not None
        self.known = {kind: (float(low), float(high)) for kind, (low, high) in (known or {}).items()}
        self._kinds: list[str | None] | None = None
        self._lock = threading.RLock()

    def __getitem__(self, kind: str) -> tuple[float, float]:
        with self._lock:
            if kind not in self.known:
                if self.given:
                    raise KeyError(kind)
                self.known[kind] = self._find(kind)
            return self.known[kind]

    def __iter__(self):
        with self._lock:
            return iter(sorted(self.known if self.given else {kind for kind in self._all() if kind and is_deep(kind)}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def to_json(self) -> dict[str, list[float]]:
        return {kind: list(self[kind]) for kind in self}

    def _all(self) -> list[str | None]:
        if self._kinds is None:
            self._kinds = [_kind_or_none(path) for path in self.paths]
        return self._kinds

    def _find(self, kind: str) -> tuple[float, float]:
        samples = [sample(path) for path, found in zip(self.paths, self._all(), strict=True) if found == kind]
        if not samples:
            raise KeyError(kind)
        values = np.concatenate([np.empty(0), *(one for one in samples if one is not None)])
        if not len(values):  # no number in any of them
            return 0.0, 1.0
        low, high = np.percentile(values, (LOW, HIGH))
        return float(low), float(high)


def _kind_or_none(path: Path) -> str | None:
    try:
        return read_header(path).kind
    except DataError:
        return None


def sample(path: Path) -> np.ndarray | None:
    """At most `SAMPLED` finite values of a picture, on a regular grid; None if it cannot be decoded."""
    try:
        picture = read_picture(path)
    except DataError:
        return None
    height, width = picture.values.shape[:2]
    step = max(1, math.isqrt(height * width // SAMPLED))
    values = picture.values[step // 2 :: step, step // 2 :: step].astype(np.float64).ravel()
    known = np.isfinite(values) if picture.nodata is None else np.isfinite(values) & (values != picture.nodata)
    return values[known]


def read_image(
    path: Path,
    size: int | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    largest: int = LARGEST,
) -> np.ndarray:
    """Decode a picture to (H, W, 3) uint8, upright.

    Args:
        path: the file.
        size: resize to size x size pixels, bilinear.
        ranges: the values of each deep kind that become black and white; default: those of this picture alone.
        largest: pictures of more pixels are reduced by the smallest whole number that brings them below.

    Raises:
        DataError: it cannot be used; names the file, the reason and the cure.
    """
    picture = read_picture(path, largest)
    values = picture.values
    if is_deep(picture.kind):
        low, high = range_of(picture.kind, path, ValueRanges([path]) if ranges is None else ranges)
        values = scale_to_8_bit(values, low, high, picture.nodata)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, 2)
    if size is None or values.shape[:2] == (size, size):
        return np.require(values, requirements=("C", "W"))
    return resize(Image.fromarray(np.ascontiguousarray(values)), size, Image.Resampling.BILINEAR)


def range_of(kind: str, path: Path, ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """The values of a deep kind that become black and white.

    Raises:
        DataError: the pool that `ranges` are of had no picture of this kind.
    """
    try:
        return ranges[kind]
    except KeyError:
        known = ", ".join(ranges) or "8-bit ones only"
        raise DataError(
            f"{path} is {kind}, and the pool had none of that kind to tell what is black and white in it (it had "
            f"{known}); convert the file to a kind that the pool had"
        ) from None


def scale_to_8_bit(values: np.ndarray, low: float, high: float, nodata: float | None = None) -> np.ndarray:
    """Values from `low` to `high` as 0 to 255; what is not a number, or stands for no data, is black."""
    shown = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), 512):
        part = values[top : top + 512].astype(np.float64)
        if high > low:
            scaled = np.clip((part - low) * (255 / (high - low)), 0, 255)
        else:  # one value throughout
            scaled = np.where(part == low, 128.0, np.where(part < low, 0.0, 255.0))
        empty = np.isnan(part) if nodata is None else np.isnan(part) | (part == nodata)
        scaled[empty] = 0
        shown[top : top + 512] = np.rint(scaled)
    return shown


def read_header(path: Path) -> Header:
    """Shape, upright, and kind of a picture, without decoding it."""
    if is_tiff(path):
        found = tiff.read_header(path)
        shape = (found.width, found.height) if found.orientation in LYING else (found.height, found.width)
        return Header(shape, kind_name(found.dtype, found.color))
    with open_picture(path) as picture:
        turned = orientation(picture, path) in LYING
        shape = (picture.width, picture.height) if turned else (picture.height, picture.width)
        depth, color_type = png_depth(path, picture) or (8, 0)
        if depth == 16:
            return Header(shape, kind_name(np.dtype(np.uint16), color_type in (2, 6)))
        color = picture.mode not in ("1", "L", "LA", "La", *DEEP_MODES)
        return Header(shape, kind_name(_dtype(picture), color))


def _dtype(picture: Image.Image) -> np.dtype:
    """The type of the file's values; Pillow reads 16 bits of PNG and PGM as 32 in some versions."""
    if picture.mode == "I" and picture.format in ("PNG", "PPM"):
        return np.dtype(np.uint16)
    return np.dtype(DEEP_MODES.get(picture.mode, np.uint8))


def reduction(shape: tuple[int, int], largest: int = LARGEST) -> int:
    """The whole number by which a picture of `shape` is read smaller: 1 up to `largest` pixels."""
    factor = max(1, math.isqrt(max(0, shape[0] * shape[1] - 1) // largest))
    while -(-shape[0] // factor) * -(-shape[1] // factor) > largest:
        factor += 1
    return factor


def read_shape(path: Path, largest: int = LARGEST) -> tuple[int, int]:
    """(H, W) that `read_image` gives."""
    shape = read_header(path).shape
    factor = reduction(shape, largest)
    return -(-shape[0] // factor), -(-shape[1] // factor)


def read_picture(path: Path, largest: int = LARGEST) -> Picture:
    """Decode a picture, upright, in the file's own type; large ones reduced.

    Raises:
        DataError: damaged, transparent, or of a kind that is not read.
    """
    if is_tiff(path):
        found = tiff.read_header(path)
        factor = reduction((found.height, found.width), largest)
        with _one_at_a_time(factor > 1):
            page = tiff.read_page(path, factor)
        values = opaque(page.values, page.alpha, path)
        values = turn_upright(values, page.orientation)
        parts = (*page.unused, page.profile) if page.profile else page.unused
        return Picture(values, kind_name(values.dtype, values.ndim == 3), factor, parts, page.nodata)
    with open_picture(path) as picture:
        factor = reduction((picture.height, picture.width), largest)
        unused: tuple[str, ...] = ()
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            unused = (f"frames 2 to {frames}" if frames > 2 else "frame 2",)
        if profile := profile_name(picture.info.get("icc_profile")):
            unused = (*unused, profile)
        with _one_at_a_time(factor > 1):
            try:
                if is_deep_png(path, picture):
                    _check_decodable(path, picture)
                    values = _read_deep_png(path, orientation(picture, path), factor)
                else:
                    values = _read_plain(path, picture, factor)
            except (OSError, SyntaxError, ValueError, struct.error, MemoryError) as error:
                if isinstance(error, DataError):
                    raise
                raise damaged(path, error) from None
        return Picture(values, kind_name(values.dtype, values.ndim == 3), factor, unused)


def damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be decoded ({error}); replace it or take it out of the folder")


def open_picture(path: Path) -> Image.Image:
    """Pillow's image of a file, of whatever size; not decoded yet."""
    if path.suffix.lower() in HEIC_ENDINGS:
        reads_heic()
    try:
        with _without_limit():
            return Image.open(path)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; it was there when the folder was listed") from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise DataError(f"{path} is not a readable image ({error}); replace it or take it out of the folder") from None


@contextmanager
def _without_limit():
    """Pillow's guard against files from strangers, lifted while one of the user's own is opened."""
    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _one_at_a_time(large: bool):
    if not large:
        yield
        return
    with _large:
        yield


def orientation(picture: Image.Image, path: Path) -> int:
    """1 to 8, how the EXIF data say that the picture lies."""
    try:
        found = picture.getexif().get(ORIENTATION)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise damaged(path, error) from None
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turn_upright(values: np.ndarray, how: int) -> np.ndarray:
    """An array as EXIF orientation `how` says that it is to be shown."""
    if how in LYING:
        values = values.swapaxes(0, 1)
    if how in (3, 4, 7, 8):
        values = values[::-1]
    if how in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def resize(picture: Image.Image, size: int | None, how: Image.Resampling) -> np.ndarray:
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), how)
    return np.array(picture)


def is_tiff(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; it was there when the folder was listed") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); replace it or take it out of the folder") from None


def png_depth(path: Path, picture: Image.Image) -> tuple[int, int] | None:
    """Bits a channel and colour type (0 grey, 2 colour, 3 palette, 4 and 6 with alpha) of a PNG; else None."""
    if picture.format != "PNG":
        return None
    with open(path, "rb") as file:
        start = file.read(26)
    return (start[24], start[25]) if len(start) == 26 else None


def is_deep_png(path: Path, picture: Image.Image) -> bool:
    """Whether this is a PNG of 16 bits of which Pillow would drop half; it reads grey ones in full."""
    depth, color = png_depth(path, picture) or (8, 0)
    return depth == 16 and color != 0


def _read_deep_png(path: Path, how: int, factor: int) -> np.ndarray:
    import imagecodecs

    try:
        values = imagecodecs.png_decode(path.read_bytes())
    except RuntimeError as error:
        raise damaged(path, error) from None
    alpha = values[..., -1] if values.ndim == 3 and values.shape[2] in (2, 4) else None
    values = values if alpha is None else values[..., :-1]
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    return turn_upright(tiff.block_mean(opaque(values, alpha, path), factor), how)


def _read_plain(path: Path, picture: Image.Image, factor: int) -> np.ndarray:
    if picture.mode not in (*PLAIN_MODES, *ALPHA_MODES, *DEEP_MODES):
        raise DataError(
            f"{path} has channels {'+'.join(picture.getbands())} ({picture.mode}), which are not read; export it in RGB"
        )
    target = -(-picture.height // factor), -(-picture.width // factor)
    if factor > 1 and picture.format == "JPEG":
        picture.draft(picture.mode, (target[1], target[0]))  # decoded at a half, a quarter or an eighth
    elif factor > 1:
        _check_decodable(path, picture)
    how = orientation(picture, path)
    transparency = picture.info.get("transparency")
    if picture.mode in DEEP_MODES:
        values = np.asarray(picture).astype(_dtype(picture), copy=False)
        if transparency is not None:
            opaque(values, (values != transparency).astype(np.uint8) * 255, path)
        return turn_upright(tiff.block_mean(values, factor), how)
    if picture.mode in ALPHA_MODES or transparency is not None:
        whole = picture if picture.mode in ("LA", "PA", "RGBA") else picture.convert("RGBA")
        opaque(None, np.asarray(whole.getchannel("A")), path)
    mode = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
    if factor > 1 and picture.format == "JPEG":
        plain = picture.convert(mode).resize((target[1], target[0]), Image.Resampling.BOX)
        return turn_upright(np.asarray(plain), how)
    step = tiff.STRIP * factor if factor > 1 else picture.height
    parts = []
    for top in range(0, picture.height, step):
        box = (0, top, picture.width, min(top + step, picture.height))
        parts.append(
            tiff.block_mean(_converted(picture if step == picture.height else picture.crop(box), mode), factor)
        )
    return turn_upright(np.concatenate(parts) if len(parts) > 1 else parts[0], how)


def _converted(picture: Image.Image, mode: str) -> np.ndarray:
    if picture.mode in ("La", "RGBa"):  # multiplied by alpha, which has been found to be 1
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    return np.asarray(picture if picture.mode == mode else picture.convert(mode))


def _check_decodable(path: Path, picture: Image.Image) -> None:
    if picture.width * picture.height > DECODABLE:
        raise DataError(
            f"{path} is {picture.width} x {picture.height} pixels, and a {picture.format} has to be decoded whole; "
            f"save it as a tiled TIFF"
        )


def opaque(values: Values, alpha: np.ndarray | None, path: Path) -> Values:
    """The values, where the alpha channel beside them hides nothing; else DataError."""
    if alpha is None:
        return values
    full = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    hidden = alpha < full
    if hidden.any():
        row, column = (int(i) for i in np.argwhere(hidden)[0])
        raise DataError(
            f"{path} is transparent at {int(hidden.sum())} pixels, such as x={column}, y={row}: what is to be seen "
            f"there is not in the file; put it on a background and save it without alpha"
        )
    return values
