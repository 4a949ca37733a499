"""Files of every kind that people bring, each with what a viewer shows of it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import Image


class Kind(NamedTuple):
    """A kind of file.

    `write(path, picture)` writes an (H, W, 3) uint8 picture and returns what a viewer shows of the file: (H, W, 3)
    uint8, or of kinds with more depth (`deep` names the kind) the values as they are stored, (H, W) or (H, W, 3).
    """

    ending: str
    write: Callable[[Path, np.ndarray], np.ndarray]
    deep: str | None = None
    fault: str | None = None  # why it cannot be used
    unused: tuple[str, ...] = ()  # what of the file is not used
    tolerance: int = 0


def grey(picture):
    return np.repeat(picture[..., :1], 3, 2)


def raw_png(path: Path, samples: np.ndarray, depth: int, color: int, **chunks: bytes) -> None:
    """A PNG of samples (H, W, channels), of any depth and colour type: 0 grey, 2 colour, 3 palette, 4 and 6 alpha."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(height, -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    others = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    data = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + others + data)


def by_pillow(mode, tolerance=0, **options):
    """Written by Pillow in a mode whose conversion to RGB says what is shown."""

    def write(path, picture):
        one = Image.fromarray(picture).convert(mode)
        one.save(path, **options)
        return np.asarray(one.convert("RGB"))

    return write


def with_alpha(path, picture, hole=False, **options):
    whole = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    if hole:
        whole[0, 0, 3] = 100
    Image.fromarray(whole).save(path, **options)
    return picture


def palette(path, picture, transparent=None):
    """Eight colours; `transparent` is the index that the file says is not there."""
    table = np.random.default_rng(5).integers(0, 255, (8, 3), dtype=np.uint8)
    indices = picture[..., 0] % 7  # the eighth is not used
    indices[0, 0] = 0
    trns = {} if transparent is None else {"tRNS": bytes([255] * transparent + [0])}
    raw_png(path, indices[..., None], 4, 3, PLTE=table.tobytes(), **trns)
    return table[indices]


def few_bits(path, picture, depth):
    values = picture[..., :1] >> (8 - depth)
    raw_png(path, values, depth, 0)
    return np.repeat(values * (255 // (2**depth - 1)), 3, 2)


def png_16(path, picture, channels=1, alpha=None, transparent=None):
    values = picture.astype(np.uint16)[..., :channels] * 16 + 3
    samples = values if alpha is None else np.dstack([values, np.full(picture.shape[:2], alpha, np.uint16)])
    kind = {(1, False): 0, (3, False): 2, (1, True): 4, (3, True): 6}[channels, alpha is not None]
    chunks = {} if transparent is None else {"tRNS": struct.pack(">H", transparent)}
    raw_png(path, samples, 16, kind, **chunks)
    return values.squeeze()


def upright(path, picture, how):
    """Stored so that the EXIF orientation `how` turns it as it should be."""
    stored = picture
    if how in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    if how in (3, 4, 7, 8):
        stored = stored[::-1]
    if how >= 5:
        stored = stored.swapaxes(0, 1)
    one = Image.fromarray(np.ascontiguousarray(stored))
    one.getexif()[0x0112] = how
    one.save(path, exif=one.getexif(), quality=100, subsampling=0)
    return picture


def tiff(path, picture, dtype="uint8", channels=3, scale=1, offset=0, order="<", shown=None, **options):
    """Written by tifffile; `channels` are the file's, of which `shown` makes what a viewer shows."""
    values = picture if channels == 3 else picture[..., 0] if channels == 1 else stacked(picture, channels)
    values = (values.astype(np.float64) * scale + offset).astype(dtype)
    options = {"photometric": "rgb" if channels >= 3 else "minisblack", "metadata": None, **options}
    planar = options.get("planarconfig") == "separate"
    tifffile.imwrite(path, np.moveaxis(values, 2, 0) if planar else values, byteorder=order, **options)
    if shown is not None:
        return shown(picture)
    values = values[..., :3] if values.ndim == 3 else values
    return values if dtype != "uint8" else np.repeat(values[..., None], 3, 2) if values.ndim == 2 else values


def stacked(picture, channels):
    return np.dstack([picture, *[picture[..., 0] // 2 + i for i in range(channels - 3)]])


def opaque_tiff(path, picture, dtype="uint8"):
    top = np.iinfo(dtype).max
    whole = np.dstack([picture.astype(dtype), np.full(picture.shape[:2], top, dtype)])
    tifffile.imwrite(path, whole, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    return whole[..., :3]


def pages(path, picture):
    tifffile.imwrite(path, np.stack([picture, picture // 2, picture // 3]), photometric="rgb")
    return picture


def pyramid(path, picture):
    """A smaller level of the picture is no page that is left out."""
    with tifffile.TiffWriter(path) as file:
        file.write(picture, photometric="rgb", subifds=1, metadata=None)
        file.write(picture[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    return picture


def color_map(path, picture):
    table = np.random.default_rng(6).integers(0, 255, (3, 256), dtype=np.uint16) * 257
    tifffile.imwrite(path, picture[..., 0], photometric="palette", colormap=table, metadata=None)
    return (table.T[picture[..., 0]] >> 8).astype(np.uint8)


def cmyk_tiff(path, picture):
    ink = np.dstack([255 - picture, np.zeros(picture.shape[:2], np.uint8)])
    tifffile.imwrite(path, ink, photometric="separated", metadata=None)
    return picture


def one_bit_tiff(path, picture):
    values = picture[..., 0] > 127
    tifffile.imwrite(path, values, photometric="minisblack", metadata=None)
    return np.repeat(values[..., None].astype(np.uint8) * 255, 3, 2)


def no_data(path, picture):
    values = picture[..., 0].astype(np.float32) * 2 + 7
    values[0, 0], values[-1, -1] = np.nan, -9999
    tifffile.imwrite(path, values, metadata=None, extratags=[(42113, 2, 0, "-9999", True)])
    values[-1, -1] = np.nan
    return values


def frames(path, picture):
    first = Image.fromarray(picture[..., 0])
    first.save(path, save_all=True, append_images=[Image.fromarray(picture[..., 1])])
    return grey(picture)


def jpeg_2000(path, picture):
    path.write_bytes(imagecodecs.jpeg2k_encode(picture, level=0))
    return picture


def pgm_16(path, picture):
    values = picture[..., 0].astype(np.uint16) * 250 + 5
    path.write_bytes(b"P5\n%d %d\n65535\n" % (values.shape[1], values.shape[0]) + values.astype(">u2").tobytes())
    return values


def cut(path, picture):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    return picture


def empty(path, picture):
    path.write_bytes(b"")
    return picture


def text(path, picture):
    path.write_text("hello")
    return picture


def complex_numbers(path, picture):
    tifffile.imwrite(path, picture[..., 0].astype(np.complex64), metadata=None)
    return picture


KINDS = {
    "jpeg": Kind("jpg", by_pillow("RGB", quality=100, subsampling=0), tolerance=8),
    "jpeg grey": Kind("jpeg", by_pillow("L", quality=100), tolerance=4),
    "jpeg cmyk": Kind("jpg", by_pillow("CMYK", quality=100, subsampling=0), tolerance=8),
    **{f"jpeg turned {how}": Kind("jpg", partial(upright, how=how), tolerance=8) for how in (3, 5, 6, 8)},
    "png": Kind("png", by_pillow("RGB")),
    "png grey": Kind("PNG", by_pillow("L")),
    "png turned": Kind("png", partial(upright, how=7)),
    **{f"png {depth} bit": Kind("png", partial(few_bits, depth=depth)) for depth in (1, 2, 4)},
    "png palette": Kind("png", palette),
    "png palette, an unused colour transparent": Kind("png", partial(palette, transparent=7)),
    "png palette, a used colour transparent": Kind("png", partial(palette, transparent=0), fault="is transparent at"),
    "png opaque": Kind("png", with_alpha),
    "png with a hole": Kind(
        "png", partial(with_alpha, hole=True), fault="is transparent at 1 pixels, such as x=0, y=0"
    ),
    "png 16 bit": Kind("png", png_16, "16-bit grey"),
    "png 16 bit colour": Kind("png", partial(png_16, channels=3), "16-bit colour"),
    "png 16 bit opaque": Kind("png", partial(png_16, channels=3, alpha=65535), "16-bit colour"),
    "png 16 bit grey opaque": Kind("png", partial(png_16, alpha=65535), "16-bit grey"),
    "png 16 bit with a hole": Kind("png", partial(png_16, alpha=9), "16-bit grey", fault="is transparent at"),
    "png 16 bit, an unused value transparent": Kind("png", partial(png_16, transparent=65000), "16-bit grey"),
    "bmp": Kind("bmp", by_pillow("RGB")),
    "webp": Kind("webp", by_pillow("RGB", lossless=True)),
    "webp opaque": Kind("webp", partial(with_alpha, lossless=True)),
    "gif of two frames": Kind("gif", frames, unused=("frame 2",)),
    "jpeg 2000": Kind("jp2", jpeg_2000),
    "ppm": Kind("ppm", by_pillow("RGB")),
    "pgm 16 bit": Kind("pgm", pgm_16, "16-bit grey"),
    "tga": Kind("tga", by_pillow("RGB")),
    "tiff": Kind("tif", tiff),
    "tiff big endian": Kind("tiff", partial(tiff, order=">")),
    "tiff in planes": Kind("tif", partial(tiff, planarconfig="separate")),
    "tiff in tiles": Kind("tif", partial(tiff, tile=(16, 16), compression="lzw", predictor=True)),
    "tiff of four bands": Kind("tif", partial(tiff, channels=4, extrasamples=["unspecified"]), unused=("band 4",)),
    "tiff of six bands": Kind("tif", partial(tiff, channels=6, extrasamples=[0, 0, 0]), unused=("bands 4 to 6",)),
    "tiff opaque": Kind("tif", opaque_tiff),
    "tiff 16 bit opaque": Kind("tif", partial(opaque_tiff, dtype="uint16"), "16-bit colour"),
    "tiff of three pages": Kind("tif", pages, unused=("pages 2 to 3",)),
    "tiff pyramid": Kind("tif", pyramid),
    "tiff palette": Kind("tif", color_map),
    "tiff cmyk": Kind("tif", cmyk_tiff),
    "tiff 1 bit": Kind("tif", one_bit_tiff),
    "tiff grey": Kind("tif", partial(tiff, channels=1)),
    "tiff white is zero": Kind(
        "tif", partial(tiff, channels=1, photometric="miniswhite", shown=lambda p: 255 - grey(p))
    ),
    "tiff 12 bit colour": Kind("tif", partial(tiff, dtype="uint16", scale=16), "16-bit colour"),
    "tiff 12 bit colour, big endian": Kind("tif", partial(tiff, dtype="uint16", scale=16, order=">"), "16-bit colour"),
    **{
        f"tiff {dtype} {order}": Kind(
            "tif", partial(tiff, dtype=dtype, channels=1, scale=scale, offset=offset, order=order), kind
        )
        for dtype, scale, offset, kind in (
            ("uint16", 200, 9, "16-bit grey"),
            ("int16", 100, -9000, "signed 16-bit grey"),
            ("uint32", 9999, 1, "32-bit grey"),
            ("float32", 0.001, -0.1, "float grey"),
            ("float64", 1e6, 5, "float grey"),
        )
        for order in "<>"
    },
    "tiff float16": Kind("tif", partial(tiff, dtype="float16", channels=1, scale=0.5), "float grey"),
    "tiff int8": Kind("tif", partial(tiff, dtype="int8", channels=1, scale=0.5, offset=-64), "signed 8-bit grey"),
    "tiff float colour": Kind("tif", partial(tiff, dtype="float32", scale=0.01), "float colour"),
    "tiff without data here and there": Kind("tif", no_data, "float grey"),
    "tiff of complex numbers": Kind("tif", complex_numbers, fault="holds complex64 values"),
    "png cut short": Kind("png", cut, fault="cannot be decoded"),
    "nothing": Kind("webp", empty, fault="is not a readable image"),
    "text": Kind("jpg", text, fault="is not a readable image"),
}


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(H, W, 3) uint8: `low` black and `high` white, and black where there is no number."""
    shown = np.clip((values.astype(np.float64) - low) * 255 / (high - low), 0, 255)
    shown = np.rint(np.nan_to_num(shown)).astype(np.uint8)
    return np.repeat(shown[..., None], 3, 2) if shown.ndim == 2 else shown
