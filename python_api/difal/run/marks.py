"""Pictures to label by: an image with the numbers of its pixels, and each pixel at three scales."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 1024, 2048  # pixels of the longer side of a picture with marks
PANEL, GAP = 448, 8  # pixels of a side of a panel, and between two
CLOSE, NEAR = 48, 240  # pixels of the image across the first two panels
QUALITY = 92


def mark(image: np.ndarray, points: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Draw the image with a numbered ring and cross hairs around each (number, x, y), the pixel itself left free.

    Small images are enlarged by a whole number and large ones reduced, to 1024 to 2048 pixels on the longer side. Marks
    are in proportion to the picture.
    """
    longer = max(image.shape[:2])
    zoom = -(-SMALLEST // longer) if longer < SMALLEST else min(1.0, LARGEST / longer)
    size = tuple(max(1, round(side * zoom)) for side in (image.shape[1], image.shape[0]))
    how = Image.Resampling.NEAREST if zoom >= 1 else Image.Resampling.LANCZOS
    picture = Image.fromarray(image).resize(size, how)
    draw, ring = ImageDraw.Draw(picture), max(12.0, max(size) / 60, 2 * zoom)
    font = ImageFont.load_default(size=max(22, round(1.2 * ring)))
    for number, x, y in points:
        u, v = (x + 0.5) * zoom, (y + 0.5) * zoom
        _ring(draw, u, v, ring)
        right, below = u < picture.width - 3 * ring, v > 3 * ring
        corner = (u + ring + 8 if right else u - ring - 8, v - ring - 4 if below else v + ring + 4)
        anchor = ("l" if right else "r") + ("d" if below else "a")
        draw.text(corner, str(number), fill="yellow", font=font, anchor=anchor, stroke_width=3, stroke_fill="black")
    return picture


def three_scales(image: np.ndarray, x: int, y: int) -> Image.Image:
    """One pixel in three panels side by side: 48 pixels across, 240 across, and the whole image, each with a ring."""
    height, width = image.shape[:2]
    strip = Image.new("RGB", (3 * PANEL + 2 * GAP, PANEL), (40, 40, 40))
    for i, across in enumerate((CLOSE, NEAR, max(height, width))):
        left, top = (x - across // 2, y - across // 2) if i < 2 else (0, 0)
        box = (max(0, left), max(0, top), min(width, left + across), min(height, top + across))
        scale = PANEL / across
        part = Image.fromarray(image[box[1] : box[3], box[0] : box[2]])
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        part = part.resize([max(1, round(side * scale)) for side in part.size], how)
        panel = Image.new("RGB", (PANEL, PANEL), (40, 40, 40))
        panel.paste(part, (round((box[0] - left) * scale), round((box[1] - top) * scale)))
        _ring(ImageDraw.Draw(panel), (x - left + 0.5) * scale, (y - top + 0.5) * scale, max(14.0, scale))
        strip.paste(panel, (i * (PANEL + GAP), 0))
    return strip


def to_jpeg(picture: Image.Image, quality: int = QUALITY) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _ring(draw: ImageDraw.ImageDraw, u: float, v: float, ring: float) -> None:
    thin = max(2, round(ring / 8))
    for width, color in ((2 * thin + 1, "black"), (thin, "yellow")):
        draw.ellipse((u - ring, v - ring, u + ring, v + ring), outline=color, width=width)
        for du, dv in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            far = 2 * ring
            draw.line((u + du * ring, v + dv * ring, u + du * far, v + dv * far), fill=color, width=width)
