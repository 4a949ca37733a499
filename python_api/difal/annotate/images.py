"""Pixels for the page: the whole image at most so large, and windows of it exactly as they are."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from PIL import Image

from difal.data.base import Split

OVERVIEW_SIDE = 1280  # longer side in pixels, from which on the page gets the whole image reduced
THUMBNAIL_SIDE = 240  # longer side, in pixels, of an image among all images
WINDOW = 320  # side in pixels of the window around a question
KEPT = 600 << 20  # bytes of decoded images kept


class Images:
    """The pool's images as the run sees them, decoded once for several questions; safe for several threads.

    Args:
        split: the pool.
    """

    def __init__(self, split: Split):
        self.split = split
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()
        self._reduced: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # by image and side
        self._lock = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}

    def decoded(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        with self._lock:
            if index in self._decoded:
                self._decoded.move_to_end(index)
                return self._decoded[index]
            own = self._locks.setdefault(index, threading.Lock())
        with own:
            with self._lock:
                if index in self._decoded:
                    return self._decoded[index]
            image = self.split.image(index)
            with self._lock:
                self._decoded[index] = image
                while sum(one.nbytes for one in self._decoded.values()) > KEPT and len(self._decoded) > 1:
                    self._decoded.popitem(last=False)
            return image

    def size(self, index: int) -> tuple[int, int]:
        height, width = self.decoded(index).shape[:2]
        return height, width

    def overview(self, index: int) -> bytes:
        """The whole image as PNG: exact if no side is above `OVERVIEW_SIDE`, else reduced."""
        return self._at_most(index, OVERVIEW_SIDE)

    def thumbnail(self, index: int) -> bytes:
        """The whole image as PNG, its longer side at most `THUMBNAIL_SIDE`."""
        return self._at_most(index, THUMBNAIL_SIDE)

    def _at_most(self, index: int, side: int) -> bytes:
        with self._lock:
            if (index, side) in self._reduced:
                self._reduced.move_to_end((index, side))
                return self._reduced[index, side]
        content = _png(reduced(self.decoded(index), side))
        with self._lock:
            self._reduced[index, side] = content
            while sum(map(len, self._reduced.values())) > KEPT // 8 and len(self._reduced) > 1:
                self._reduced.popitem(last=False)
        return content

    def window(self, index: int, x: int, y: int) -> bytes:
        """The pixels of `window_at(...)` as PNG, exactly as they are."""
        image = self.decoded(index)
        left, top, width, height = window_at(x, y, image.shape[1], image.shape[0])
        return _png(Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width])))


def reduced(image: np.ndarray, side: int) -> Image.Image:
    """An image (H, W, 3) as it is, or resized to a longer side of `side` pixels if it is larger."""
    picture, (height, width) = Image.fromarray(image), within(image.shape[:2], side)
    if (width, height) == picture.size:
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


def within(size: Sequence[int], side: int) -> tuple[int, int]:
    """(height, width) of an image of `size`, reduced to a longer side of `side` pixels if it is larger."""
    height, width = (max(1, round(length * min(side, max(size)) / max(size))) for length in size)
    return height, width


def window_at(x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the window around a pixel: inside the image, `WINDOW` wide where there is room.

    The page computes the same.
    """
    left = max(0, min(x - WINDOW // 2, width - WINDOW))
    top = max(0, min(y - WINDOW // 2, height - WINDOW))
    return left, top, min(WINDOW, width), min(WINDOW, height)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
