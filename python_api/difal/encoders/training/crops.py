"""Training crops: the pool's images, shrunk once into one file, and random boxes of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from difal.data.base import Split
from difal.errors import DataError
from difal.files import TMP, digest, read_json, write_json
from difal.threads import in_order

ZOOM = 2.0  # crops are cut from the image at 1 to ZOOM times the resolution at which features are read
ASPECT = 1.25  # boxes are up to this much wider or narrower than the crop
SHOWN = 10


class CropSource:
    """The images of a pool in one memory-mapped file, so that memory does not grow with the pool.

    Args:
        pool: the images; their masks are not read.
        folder: where the file goes, or is, from an earlier call with the same pool.
        resolution: shorter side in pixels at which features are read.
        stride: crops have sides that are multiples of it.
        shares: of the crops, by image; default: all images alike.
        jitter: random gamma, saturation, white balance, contrast and brightness.

    Raises:
        DataError: images that cannot be decoded, or are smaller than the smallest crop; names them.
    """

    def __init__(
        self,
        pool: Split,
        folder: Path,
        resolution: int,
        stride: int,
        shares: Sequence[float] | None = None,
        jitter: bool = False,
    ):
        # The whole side twice as often as the smaller two: features are read off whole images.
        parts = [max(stride, round(resolution * part / stride) * stride) for part in (1.0, 1.0, 0.75, 0.5)]
        self.sides, self.resolution, self.jitter = tuple(parts), resolution, jitter
        self.shares = None if shares is None else torch.tensor(shares, dtype=torch.float64)
        index, pixels = folder / "images.json", folder / "images.bin"
        shorter, least = round(ZOOM * resolution), min(self.sides)
        key = {"pool": digest(pool.fingerprint()), "shorter": shorter, "least": least}
        stored = read_json(index) if index.is_file() and pixels.is_file() else None
        if stored is None or stored["key"] != key:
            stored = {"key": key, "shapes": _store(pool, pixels, shorter, least)}
            write_json(index, stored)
        self.shapes = [tuple(shape) for shape in stored["shapes"]]
        self.starts = np.concatenate([[0], np.cumsum([height * width * 3 for height, width in self.shapes])])
        self.pixels = np.memmap(pixels, np.uint8, "r", shape=int(self.starts[-1]))

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, a view of the file."""
        return self.pixels[self.starts[index] : self.starts[index + 1]].reshape(*self.shapes[index], 3)

    def draw(self, full_crops: int, rng: torch.Generator) -> torch.Tensor:
        """(N, 3, side, side) float32 in [-1, 1], as many pixels as `full_crops` crops of the largest side have."""
        side = self.sides[_below(len(self.sides), rng)]
        count = full_crops * max(self.sides) ** 2 // side**2
        if self.shares is None:
            images = torch.randint(len(self.shapes), (count,), generator=rng)
        else:
            images = torch.multinomial(self.shares, count, replacement=True, generator=rng)
        stored = np.stack([self._crop(index, side, rng) for index in images.tolist()])
        crops = torch.from_numpy(stored).permute(0, 3, 1, 2).float() / 255
        flip = torch.rand(count, generator=rng) < 0.5
        crops[flip] = crops[flip].flip(-1)
        return (jittered(crops, rng) if self.jitter else crops) * 2 - 1

    def _crop(self, index: int, side: int, rng: torch.Generator) -> np.ndarray:
        """A box of the image at a random scale and aspect, resized to side x side."""
        image, (height, width) = self.image(index), self.shapes[index]
        scale, stretch, down, right = torch.rand(4, generator=rng, dtype=torch.float64).tolist()
        shorter = min(height, width)
        largest = min(ZOOM * self.resolution, shorter)
        working = min(self.resolution, shorter) * (largest / min(self.resolution, shorter)) ** scale
        box, stretch = side * shorter / working, ASPECT ** (stretch - 0.5)
        rows, columns = min(height, max(1, round(box / stretch))), min(width, max(1, round(box * stretch)))
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        part = np.ascontiguousarray(image[top : top + rows, left : left + columns])
        return np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BILINEAR))


def jittered(crops: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Crops in [0, 1] with colours that another camera, another light might have given."""
    count = len(crops)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(count, *shape, generator=rng)

    crops = crops.pow(torch.exp(uniform(-0.5, 0.5, 1, 1, 1)))  # gamma
    gray = crops.mean(1, keepdim=True)
    crops = gray + (crops - gray) * uniform(0.2, 1.6, 1, 1, 1)  # saturation
    crops = crops * torch.exp(uniform(-0.15, 0.15, 3, 1, 1))  # white balance
    crops = (crops - 0.5) * uniform(0.6, 1.3, 1, 1, 1) + 0.5 + uniform(-0.15, 0.15, 1, 1, 1)
    return crops.clamp(0, 1)


def _below(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=rng))


def _store(pool: Split, path: Path, shorter: int, least: int) -> list[tuple[int, int]]:
    """Write every image, shrunk to `shorter` pixels of its shorter side, one after the other; return their sizes."""

    def read(index: int) -> np.ndarray | str:
        try:
            image = pool.image(index)
        except DataError as error:
            return str(error)
        height, width = image.shape[:2]
        if min(height, width) < least:
            return f"image {pool.ids[index]} is {width} x {height} pixels; a crop has {least}: take it out"
        shrink = shorter / min(height, width)
        if shrink >= 1:
            return image
        size = (max(shorter, round(width * shrink)), max(shorter, round(height * shrink)))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))

    path.parent.mkdir(parents=True, exist_ok=True)
    neighbour, shapes, faults = path.with_name(TMP + path.name), [], []
    with open(neighbour, "wb") as file:
        for image in tqdm(in_order(read, range(len(pool))), "reading images", len(pool), leave=False, unit="image"):
            if isinstance(image, str):
                faults.append(image)
            elif not faults:
                shapes.append(image.shape[:2])
                file.write(np.ascontiguousarray(image).data)
        file.flush()
        os.fsync(file.fileno())
    if faults:
        neighbour.unlink()
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise DataError("\n  ".join([f"{len(faults)} of {len(pool)} images cannot be used:", *faults[:SHOWN], *more]))
    os.replace(neighbour, path)
    return shapes
