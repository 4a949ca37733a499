"""Pixels for the page: the whole image at most so large, and windows of it exactly as they are."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

import numpy as np
from PIL import Image

from difal.data.base import Split

OVERVIEW_SIDE = 1280  # longer side in pixels, from which on the page gets the whole image reduced
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
        self._overviews: OrderedDict[int, bytes] = OrderedDict()
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
        with self._lock:
            if index in self._overviews:
                self._overviews.move_to_end(index)
                return self._overviews[index]
        image = self.decoded(index)
        longest = max(image.shape[:2])
        picture = Image.fromarray(image)
        if longest > OVERVIEW_SIDE:
            sides = [max(1, round(side * OVERVIEW_SIDE / longest)) for side in picture.size]
            picture = picture.resize(sides, Image.Resampling.LANCZOS, reducing_gap=2.0)
        content = _png(picture)
        with self._lock:
            self._overviews[index] = content
            while sum(map(len, self._overviews.values())) > KEPT // 8 and len(self._overviews) > 1:
                self._overviews.popitem(last=False)
        return content

    def window(self, index: int, x: int, y: int) -> bytes:
        """The pixels of `window_at(...)` as PNG, exactly as they are."""
        image = self.decoded(index)
        left, top, width, height = window_at(x, y, image.shape[1], image.shape[0])
        return _png(Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width])))


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
