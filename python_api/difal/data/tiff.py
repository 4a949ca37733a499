"""TIFF files, by tifffile: the first page as red, green and blue or grey, of any depth, byte order and compression."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from difal.data.profiles import profile_name
from difal.errors import DataError

ORIENTATION_TAG = 274
ALPHA = (1, 2)  # EXTRASAMPLES: associated and unassociated alpha
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
STRIP = 64  # rows of what is made of a large page, which are reduced at a time
_DAMAGE = (OSError, ValueError, IndexError, KeyError, TypeError, RuntimeError, struct.error, zlib.error, MemoryError)


class Page(NamedTuple):
    """The first page: `values` (H, W) or (H, W, 3), `alpha` (H, W) or None, as stored and not yet turned upright."""

    values: np.ndarray
    alpha: np.ndarray | None
    orientation: int
    nodata: float | None
    unused: tuple[str, ...]
    palette: np.ndarray | None = None  # (n, 3) uint8
    profile: str | None = None  # of its colours, which is not applied


class Header(NamedTuple):
    height: int  # as stored
    width: int
    dtype: np.dtype
    color: bool
    orientation: int


def _open(path: Path):
    import tifffile

    try:
        return tifffile.TiffFile(path)
    except FileNotFoundError:
        raise
    except (*_DAMAGE, tifffile.TiffFileError) as error:
        raise DataError(f"{path} is not a readable TIFF ({error}); replace it or take it out of the folder") from None


def read_header(path: Path) -> Header:
    """Size, type and orientation of the first page, from its tags."""
    with _open(path) as file:
        page = _first(file, path)
        color = page.photometric in (RGB, PALETTE, CMYK, YCBCR) or page.samplesperpixel >= 3
        dtype = np.dtype(np.uint8) if page.photometric == PALETTE else np.dtype(page.dtype).newbyteorder("=")
        return Header(page.imagelength, page.imagewidth, dtype, color, _orientation(page))


def read_page(path: Path, reduce: int = 1, indices: bool = False) -> Page:
    """Decode the first page.

    Args:
        path: the file.
        reduce: give the mean of every `reduce` x `reduce` pixels; a pyramid's smaller levels are used where they do.
        indices: keep the numbers of a palette, and take one pixel of each block instead of the mean: for masks.

    Raises:
        DataError: damaged, or of a kind that is not read; names the kind.
    """
    import tifffile

    with _open(path) as file:
        page = _first(file, path)
        pages = _frames(file, page)
        unused = [f"pages 2 to {pages}" if pages > 2 else "page 2"] if pages > 1 else []
        nodata = page.nodata if page.tags.get("GDAL_NODATA") is not None else None
        _check_kind(page, path)
        _check_whole(page, path)
        orientation, palette, profile = _orientation(page), _palette(page), profile_name(page.iccprofile)
        size = (-(-page.imagelength // reduce), -(-page.imagewidth // reduce))
        source, factor = (page, reduce) if indices else _level(file, page, reduce)
        try:
            stored = source.asarray(out="memmap" if factor > 1 else None)
        except (*_DAMAGE, tifffile.TiffFileError) as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace it or take it out of the folder") from None
        stored = _last_is_samples(stored, source.axes, path)
        parts = []
        for top in range(0, stored.shape[0], step := STRIP * factor if factor > 1 else stored.shape[0]):
            values, alpha, bands = _shown(stored[top : top + step], page, indices)
            shrink = every if indices else block_mean
            parts.append((shrink(values, factor), None if alpha is None else alpha[::factor, ::factor]))
        values = np.concatenate([part for part, _ in parts])
        alpha = None if parts[0][1] is None else np.concatenate([part for _, part in parts])
    if values.shape[:2] != size:  # a level of a pyramid, a pixel off
        raise_to = size[0] / values.shape[0], size[1] / values.shape[1]
        rows, columns = ((np.arange(n) / r).astype(int) for n, r in zip(size, raise_to, strict=True))
        values = values[rows][:, columns]
        alpha = None if alpha is None else alpha[rows][:, columns]
    return Page(values, alpha, orientation, nodata, (*unused, *bands), palette, profile)


def block_mean(values: np.ndarray, factor: int) -> np.ndarray:
    """The mean of every `factor` x `factor` pixels, those at the far edges of what is left of a block."""
    if factor == 1:
        return values
    step = STRIP * factor  # bounds the memory of the sums
    if values.shape[0] > step:
        return np.concatenate([block_mean(values[top : top + step], factor) for top in range(0, len(values), step)])
    height, width, *channels = values.shape
    by_rows = np.zeros((-(-height // factor), width, *channels))
    for row in range(factor):
        part = values[row::factor]
        by_rows[: len(part)] += part
    sums = np.zeros((len(by_rows), -(-width // factor), *channels))
    for column in range(factor):
        part = by_rows[:, column::factor]
        sums[:, : part.shape[1]] += part
    rows, columns = (np.diff([*range(0, side, factor), side]) for side in (height, width))
    sums /= np.outer(rows, columns).reshape(*sums.shape[:2], *[1] * len(channels))
    return np.rint(sums).astype(values.dtype) if values.dtype.kind in "iu" else sums.astype(values.dtype)


def every(values: np.ndarray, factor: int) -> np.ndarray:
    """One pixel of every `factor` x `factor`."""
    return values[::factor, ::factor]


def _first(file, path: Path):
    if not len(file.pages):
        raise DataError(f"{path} is a TIFF without pages; replace it or take it out of the folder")
    return file.pages.first


def _frames(file, page) -> int:
    """How many pictures of full size the file holds: levels of a pyramid and thumbnails are none."""
    count = sum(1 for one in file.pages if not one.aspage().is_reduced) if len(file.pages) > 1 else 1
    series = file.series[0] if file.series else None
    if series is not None and series.kind in ("imagej", "shaped", "stk", "ome"):
        samples = page.samplesperpixel * page.imagelength * page.imagewidth
        count = max(count, int(np.prod(series.shape, dtype=np.int64)) // max(1, samples))
    return count


def _orientation(page) -> int:
    tag = page.tags.get(ORIENTATION_TAG)
    value = 1 if tag is None else int(tag.value)
    return value if 1 <= value <= 8 else 1


def _check_kind(page, path: Path) -> None:
    kind = np.dtype(page.dtype).kind if page.dtype is not None else "?"
    if kind not in "biuf":
        raise DataError(f"{path} holds {page.dtype or 'unknown'} values, which no picture shows; export real numbers")
    if page.photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR):
        named = getattr(page.photometric, "name", page.photometric)
        raise DataError(f"{path} is a TIFF in the colours {named}, which are not read; export it in RGB")
    if page.imagedepth > 1:
        raise DataError(f"{path} is a TIFF of {page.imagedepth} layers in one page; export the layer to use")


def _check_whole(page, path: Path) -> None:
    """A file that was cut short: tifffile fills what lies beyond its end."""
    ends = [at + count for at, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if ends and max(ends) > path.stat().st_size:
        raise DataError(f"{path} cannot be decoded (it is cut short); replace it or take it out of the folder")


def _level(file, page, reduce: int):
    """The smallest stored level that is at least as large as what is wanted, and by what it is still reduced."""
    best, factor = page, reduce
    levels = file.series[0].levels[1:] if reduce > 1 and file.series else []
    for level in levels:
        smaller = level.pages[0].aspage() if level.pages[0] is not None else None
        if smaller is None or smaller.photometric != page.photometric or smaller.dtype != page.dtype:
            continue
        shrunk = round(page.imagewidth / max(1, smaller.imagewidth))
        if shrunk <= reduce and reduce % shrunk == 0:
            best, factor = smaller, reduce // shrunk
    return best, factor


def _last_is_samples(stored: np.ndarray, axes: str, path: Path) -> np.ndarray:
    """(H, W) or (H, W, S)."""
    if axes == "SYX":
        return np.moveaxis(stored, 0, 2)
    if axes in ("YX", "YXS"):
        return stored
    raise DataError(f"{path} has the axes {axes}, not those of a picture; export one page as RGB or grey")


def _shown(stored: np.ndarray, page, indices: bool) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """What a viewer shows of some rows: grey or colour, alpha, and the bands that are not used."""
    palette = _palette(page)
    if palette is not None:
        return stored if indices else palette[stored], None, ()
    if stored.ndim == 2:
        stored = stored[..., None]
    if page.photometric == CMYK and stored.shape[2] >= 4:
        top = 255.0 if stored.dtype == np.uint8 else float(np.iinfo(stored.dtype).max)
        ink = stored[..., :4] / top
        shown = ((1 - ink[..., :3]) * (1 - ink[..., 3:]) * 255).round().astype(np.uint8)
        return shown, None, _bands(range(4, stored.shape[2]))
    samples = stored.shape[2]
    color = 3 if samples >= 3 else 1
    values = stored[..., :3] if color == 3 else stored[..., 0]
    extra = list(page.extrasamples) if len(page.extrasamples) else []
    kinds = dict(zip(range(samples - len(extra), samples), extra, strict=True))
    alphas = [band for band in range(color, samples) if kinds.get(band) in ALPHA]
    alpha = stored[..., alphas[0]] if alphas else None
    if page.photometric == MIN_IS_WHITE:
        values = _inverted(values)
    if values.dtype == bool and not indices:
        values = values.astype(np.uint8) * 255
    return values, alpha, _bands(band for band in range(color, samples) if band not in alphas[:1])


def _palette(page) -> np.ndarray | None:
    return (np.asarray(page.colormap).T >> 8).astype(np.uint8) if page.photometric == PALETTE else None


def _inverted(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return ~values
    return np.iinfo(values.dtype).max - values if values.dtype.kind == "u" else -values


def _bands(unused) -> tuple[str, ...]:
    numbers = [band + 1 for band in unused]
    if not numbers:
        return ()
    return (f"band {numbers[0]}" if len(numbers) == 1 else f"bands {numbers[0]} to {numbers[-1]}",)
