"""Labeled outdoor scenes drawn from a seed: the embedded data set, with nothing to download.

Each scene is a road through a landscape in rough perspective, drawn at twice its size and reduced, with textures of
fractal noise, one light, a colour cast, sensor noise, and a void ribbon where one thing ends and another begins.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from difal.data.base import IGNORE, Data, FunctionSplit
from difal.errors import DataError
from difal.files import derive_seed

CLASSES = ("sky", "hill", "building", "tree", "grass", "road", "water", "car")
COLORS = [(120, 170, 225), (140, 125, 150), (170, 80, 60), (40, 105, 45), (150, 190, 70), (105, 75, 125),
          (40, 130, 190), (240, 190, 30)]  # fmt: skip
SKY, HILL, BUILDING, TREE, GRASS, ROAD, WATER, CAR = range(8)
SIZE = 256
TRAIN, TEST = 60, 24


def open_scenes(source: str, size: int | None = None) -> Data:
    """`scenes` or `scenes:TRAIN,TEST,SEED`."""
    try:
        words = [int(word) for word in source.partition(":")[2].split(",") if word]
    except ValueError:
        words = [-1]
    if len(words) > 3 or any(word < 0 for word in words) or 0 in words[:1]:
        raise DataError(f"`data` must be scenes or scenes:TRAIN,TEST,SEED, such as scenes:60,24,0, got {source!r}")
    train, test, seed = [*words, *(TRAIN, TEST, 0)[len(words) :]]

    def split(kind: str, count: int) -> FunctionSplit:
        names = [f"{kind}{i:04d}" for i in range(count)]
        make = lru_cache(128)(lambda i: draw_scene(derive_seed(seed, kind, i)))  # at most 34 MB
        return FunctionSplit(names, make, size)

    test_set = split("test", test) if test else None
    return Data("scenes", CLASSES, split("scene", train), test_set, np.array(COLORS, np.uint8))


def draw_scene(seed: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One scene.

    Args:
        seed: everything random comes from it.
        size: side in pixels.

    Returns:
        (size, size, 3) uint8 image, (size, size) uint8 mask of class ids with 255 along boundaries.
    """
    return _Scene(np.random.default_rng(seed), 2 * size).finish()


def fractal(rng: np.random.Generator, size: int, coarsest: float, octaves: int = 5, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise in about [-1, 1]: octaves of bicubically enlarged random grids, `stretch` wider than high."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = min(size, max(2, round(coarsest * 2**octave)))
        grid = rng.standard_normal((cells, max(2, round(cells / stretch)))).astype(np.float32)
        total += np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)) * 0.5**octave
    return total / 2


class _Scene:
    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.image = np.zeros((size, size, 3), np.float32)
        self.mask = np.full((size, size), SKY, np.uint8)
        self.rows, self.columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
        self.horizon = rng.uniform(0.38, 0.55)
        self.vanish = rng.uniform(0.3, 0.7)
        self.light = rng.uniform(-1, 1)  # from the left to from the right

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        self.sky()
        self.hills()
        self.ground()
        if self.rng.random() < 0.35:
            self.water()
        self.road()
        depths = np.sort(self.rng.uniform(0.01, 1, self.rng.integers(7, 14)))
        for depth in depths:  # far to near
            self.thing(float(depth))
        return self.expose()

    def paint(self, where: np.ndarray, color, class_id: int, texture=0.0) -> None:
        """Colour pixels; `where` is a mask or opacity, `texture` multiplies the colour by 1 + texture."""
        opacity = np.asarray(where, np.float32)[..., None]
        shade = np.asarray(color, np.float32) * (1 + np.asarray(texture, np.float32))[..., None]
        self.image = self.image * (1 - opacity) + shade * opacity
        self.mask[opacity[..., 0] > 0.5] = class_id

    def polygon(self, points) -> np.ndarray:
        picture = Image.new("L", (self.size, self.size))
        ImageDraw.Draw(picture).polygon([(x * self.size, y * self.size) for x, y in points], fill=255)
        return np.asarray(picture) > 127

    def sky(self) -> None:
        warm = self.rng.random() ** 2
        top = np.array([0.25, 0.45, 0.80]) * (1 - 0.5 * warm) + np.array([0.35, 0.35, 0.55]) * 0.5 * warm
        low = np.array([0.75, 0.83, 0.92]) * (1 - warm) + np.array([0.98, 0.78, 0.58]) * warm
        mix = np.clip(self.rows / self.horizon, 0, 1)[..., None] ** 1.3
        self.image = (top * (1 - mix) + low * mix).astype(np.float32)
        cover = self.rng.uniform(-0.5, 0.7)
        clouds = np.clip((fractal(self.rng, self.size, 3, 6, stretch=2) + cover - 0.3) * 1.6, 0, 0.92)
        shade = 0.93 + 0.07 * fractal(self.rng, self.size, 4)
        self.image = self.image * (1 - clouds[..., None]) + (shade * clouds)[..., None] * np.array([1, 0.99, 0.98])

    def hills(self) -> None:
        for distance in (1.0, 0.5)[: self.rng.integers(1, 3)]:
            ridge = np.interp(
                np.linspace(0, 1, self.size),
                np.linspace(0, 1, 9),
                self.rng.uniform(0.02, 0.07 + 0.16 * distance, 9),
            )
            ridge += 0.008 * fractal(self.rng, self.size, 12)[0]
            green = np.array([0.34, 0.42, 0.33]) * (0.8 + 0.4 * self.rng.random())
            color = green * (1 - 0.62 * distance) + np.array([0.60, 0.66, 0.76]) * 0.62 * distance
            texture = (0.16 - 0.1 * distance) * fractal(self.rng, self.size, 10, 5)
            self.paint(self.rows > self.horizon - ridge[None], color, HILL, texture)

    def ground(self) -> None:
        depth = np.clip((self.rows - self.horizon) / (1 - self.horizon), 0, 1)
        dry = self.rng.random()
        color = np.array([0.27, 0.42, 0.13]) * (1 - dry) + np.array([0.55, 0.50, 0.26]) * dry
        fine = fractal(self.rng, self.size, 60, 3) * (0.1 + 0.35 * depth)
        broad = 0.22 * fractal(self.rng, self.size, 5, 4, stretch=2.5) - 0.25 * depth * (self.rng.random() - 0.3)
        self.paint(self.rows > self.horizon, color, GRASS, fine + broad)

    def water(self) -> None:
        top = self.horizon + self.rng.uniform(0.005, 0.03)
        shore = top + self.rng.uniform(0.06, 0.2) + 0.03 * fractal(self.rng, self.size, 3)[0]
        side = self.columns < self.vanish if self.rng.random() < 0.5 else self.columns > self.vanish
        lake = (self.rows > top) & (self.rows < shore[None]) & (side if self.rng.random() < 0.6 else True)
        mirror = np.clip((2 * top - self.rows) * self.size, 0, self.size - 1).astype(int)
        picture = self.image[mirror, np.arange(self.size)[None]]
        ripples = 0.16 * fractal(self.rng, self.size, 60, 3, stretch=6)
        self.paint(lake, 1.0, WATER)
        tint = np.array([0.62, 0.75, 0.85])
        self.image = np.where(lake[..., None], picture * tint * (1 + ripples)[..., None], self.image)

    def road(self) -> None:
        near, far = self.rng.uniform(0.25, 0.5), self.rng.uniform(0.008, 0.02)
        centre, bend = self.rng.uniform(0.3, 0.7), self.rng.uniform(-0.25, 0.25)
        depth = np.clip((self.rows - self.horizon) / (1 - self.horizon), 1e-4, 1)
        middle = self.vanish + (centre - self.vanish) * depth + bend * depth * (1 - depth)
        half = far + (near - far) * depth
        self.road_at = lambda d: (
            self.vanish + (centre - self.vanish) * d + bend * d * (1 - d),
            far + (near - far) * d,
        )
        across = (self.columns - middle) / half
        below = self.rows > self.horizon
        grain = 0.10 * fractal(self.rng, self.size, 90, 2) * (0.4 + depth) + 0.08 * fractal(self.rng, self.size, 4, 4)
        self.paint(below & (np.abs(across) < 1.1), (0.52, 0.47, 0.38), GRASS, grain)  # verge
        self.paint(below & (np.abs(across) < 1), np.full(3, self.rng.uniform(0.30, 0.46)), ROAD, grain)
        dashes = np.sin(5.0 / (depth + 0.08)) > 0
        lines = (np.abs(np.abs(across) - 0.9) < 0.025) | ((np.abs(across) < 0.025) & dashes)
        self.paint(below & lines, (0.85, 0.84, 0.78), ROAD, grain)

    def thing(self, depth: float) -> None:
        """A building, tree or car standing on the ground at `depth` in (0, 1], 1 nearest."""
        foot = self.horizon + (1 - self.horizon) * depth * 0.9
        scale = 0.05 + 0.62 * depth
        middle, half = self.road_at(depth * 0.9)
        kind = self.rng.choice(["building", "tree", "tree", "car"])
        if kind == "car":
            self.car(middle + self.rng.choice([-0.5, 0.5]) * half, foot, scale * 0.28)
            return
        side = self.rng.choice([-1, 1])
        x = middle + side * (half * 1.3 + self.rng.uniform(0.3, 1.2) * (0.12 + 0.3 * scale))
        if self.mask[min(self.size - 1, int(foot * self.size)), int(np.clip(x, 0, 0.999) * self.size)] == WATER:
            return
        self.building(x, foot, scale) if kind == "building" else self.tree(x, foot, scale)

    def building(self, x: float, foot: float, scale: float) -> None:
        width, height = scale * self.rng.uniform(0.35, 0.7), scale * self.rng.uniform(0.4, 1.0)
        wall = np.array([[0.70, 0.62, 0.52], [0.62, 0.36, 0.28], [0.78, 0.76, 0.72], [0.50, 0.52, 0.56]])
        color = wall[self.rng.integers(4)] * self.rng.uniform(0.8, 1.15)
        left, top = x - width / 2, foot - height
        grain = 0.06 * fractal(self.rng, self.size, 50, 3)
        body = self.polygon([(left, foot), (left, top), (left + width, top), (left + width, foot)])
        split = left + width * self.rng.uniform(0.3, 0.7)
        shade = np.where(self.columns < split, 0.22 * self.light, -0.22 * self.light)
        self.paint(body, color, BUILDING, grain + shade)
        if self.rng.random() < 0.6:
            peak = top - 0.25 * height
            roof = self.polygon([(left - 0.03 * scale, top), (left + width / 2, peak), (left + width * 1.05, top)])
            self.paint(roof, (0.42, 0.23, 0.18), BUILDING, grain + 0.5 * shade)
        across, up = self.rng.integers(3, 7), self.rng.integers(2, 7)
        u, v = (self.columns - left) / width * across, (self.rows - top) / height * up
        panes = body & (np.abs(u % 1 - 0.5) < 0.26) & (np.abs(v % 1 - 0.5) < 0.3) & (v < up - 0.3)
        self.paint(panes, (0.20, 0.25, 0.32), BUILDING, 0.5 * fractal(self.rng, self.size, 8, 2))

    def tree(self, x: float, foot: float, scale: float) -> None:
        height, spread = scale * self.rng.uniform(0.6, 1.05), scale * self.rng.uniform(0.2, 0.34)
        trunk = 0.035 * scale
        stem = [
            (x - trunk, foot),
            (x - trunk / 2, foot - height / 2),
            (x + trunk / 2, foot - height / 2),
            (x + trunk, foot),
        ]
        self.paint(self.polygon(stem), (0.26, 0.19, 0.13), TREE, 0.25 * fractal(self.rng, self.size, 40, 2))
        crown = foot - 0.62 * height
        u, v = (self.columns - x) / spread, (self.rows - crown) / (0.45 * height)
        ragged = fractal(self.rng, self.size, 6 / spread**0.5, 5)
        if self.rng.random() < 0.35:  # a conifer
            inside = (v > -1) & (v < 1) & (np.abs(u) < (v + 1) * 0.38 + 0.12 * ragged)
        else:
            inside = u**2 + v**2 < 1 + 0.55 * ragged
        tone = (
            np.array([0.16, 0.30, 0.10]) * self.rng.uniform(0.7, 1.3)
            + np.array([0.18, 0.06, 0]) * self.rng.random() ** 3
        )
        leaves = 0.55 * fractal(self.rng, self.size, 10 / spread**0.5, 4) + 0.25 * self.light * u - 0.3 * v
        self.paint(inside, tone, TREE, np.clip(leaves, -0.8, 1.2))

    def car(self, x: float, foot: float, scale: float) -> None:
        w, h = scale, scale * 0.62
        paintwork = np.array(
            [
                [0.75, 0.10, 0.08],
                [0.85, 0.85, 0.87],
                [0.10, 0.16, 0.40],
                [0.12, 0.12, 0.13],
                [0.78, 0.66, 0.12],
            ]
        )
        color = paintwork[self.rng.integers(5)]
        shadow = ((self.columns - x) / (0.62 * w)) ** 2 + ((self.rows - foot) / (0.12 * h)) ** 2 < 1
        self.image[shadow] *= 0.45
        gloss = 0.35 * np.clip((foot - self.rows) / h - 0.4, -0.5, 0.5) + 0.04 * fractal(self.rng, self.size, 30, 2)
        body = [(-0.5, 0.08), (-0.5, 0.5), (-0.4, 0.62), (0.4, 0.62), (0.5, 0.5), (0.5, 0.08)]
        cabin = [(-0.4, 0.6), (-0.3, 1.0), (0.3, 1.0), (0.4, 0.6)]
        glass = [(-0.34, 0.63), (-0.27, 0.93), (0.27, 0.93), (0.34, 0.63)]
        place = lambda shape: self.polygon([(x + u * w, foot - v * h) for u, v in shape])  # noqa: E731
        for u in (-0.36, 0.36):
            self.paint(place([(u - 0.1, 0.2), (u - 0.1, 0), (u + 0.1, 0), (u + 0.1, 0.2)]), (0.05, 0.05, 0.05), CAR)
        self.paint(place(body) | place(cabin), color, CAR, gloss)
        self.paint(place(glass), (0.16, 0.20, 0.25), CAR, gloss)
        for u in (-0.42, 0.42):
            self.paint(
                place([(u - 0.06, 0.42), (u - 0.06, 0.3), (u + 0.06, 0.3), (u + 0.06, 0.42)]),
                (0.9, 0.3, 0.2),
                CAR,
            )

    def expose(self) -> tuple[np.ndarray, np.ndarray]:
        """Reduce by two, then what a camera adds; void where a 5 x 5 neighbourhood holds two classes."""
        size = self.size // 2
        image = np.clip(self.image, 0, 1).reshape(size, 2, size, 2, 3).mean((1, 3))
        mask = self.mask[::2, ::2]
        cast = 1 + 0.07 * self.rng.standard_normal(3)
        vignette = 1 - 0.25 * ((self.rows[::2, ::2] - 0.5) ** 2 + (self.columns[::2, ::2] - 0.5) ** 2)
        image = (image * self.rng.uniform(0.8, 1.12) * cast * vignette[..., None]) ** 0.9
        picture = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
        picture = picture.filter(ImageFilter.GaussianBlur(float(self.rng.uniform(0.2, 0.7))))
        noisy = np.asarray(picture, np.float32) + self.rng.normal(0, self.rng.uniform(1.5, 5), (size, size, 3))
        classes = Image.fromarray(mask)
        low, high = (np.asarray(classes.filter(kind(3))) for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
        return np.clip(noisy, 0, 255).astype(np.uint8), np.where(low == high, mask, IGNORE).astype(np.uint8)
