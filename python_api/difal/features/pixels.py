"""Pixels of one image: random candidates, the encoder's feature maps, and the features read from them."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from PIL import Image

from difal.config import Config
from difal.data.tiff import block_mean
from difal.errors import DataError
from difal.files import derive_seed
from difal.threads import one_thread
from difal_kernels import hypercolumns

_ONE_AT_A_TIME = threading.Lock()  # for encoders that are not `thread_safe`


def draw_candidates(
    name: str, size: tuple[int, int], config: Config, labeled: np.ndarray, void: np.ndarray | None = None
) -> np.ndarray:
    """(at most `candidates`, 2) distinct random pixels of the image called `name`, none of the labeled or void ones."""
    pixels = size[0] * size[1] if void is None else np.flatnonzero(~void)
    rng = np.random.default_rng(derive_seed("candidates", config.feature_seed, name))
    flat = rng.choice(pixels, min(config.candidates, np.size(pixels) if void is not None else pixels), replace=False)
    flat = flat[~np.isin(flat, labeled[:, 0] * size[1] + labeled[:, 1])]
    needed = max(config.local, config.random)
    if len(flat) < needed:
        raise DataError(
            f"image {name} has {len(flat)} candidate pixels, fewer than the {needed} that are kept of each image; "
            f"take it out, or lower --local and --random"
        )
    return np.stack(np.divmod(flat, size[1]), 1)


def to_input(image: np.ndarray, channels: int = 3) -> torch.Tensor:
    """(H, W, 3) uint8 to (1, channels, H, W) float32 in [-1, 1]; one channel is the luminance (ITU-R 601)."""
    if channels == 1:
        image = np.array(Image.fromarray(image).convert("L"))[..., None]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 127.5 - 1


def encoder_reduction(encoder, height: int, width: int, most: int) -> int:
    """The smallest whole number by which an image is reduced for the encoder to get, and to see, at most `most` pixels.

    Args:
        encoder: its `working_size`, if it has one, says at which size its network sees an image.
        height, width: of the image.
        most: pixels; 0 for any number.

    Returns:
        1 where nothing has to be reduced, or where that does not help.

    Raises:
        ValueError: the encoder takes no image of this size.
    """
    seen = getattr(encoder, "working_size", lambda *size: size)
    if not most or max(height * width, math.prod(seen(height, width))) <= most:
        return 1
    for factor in range(2, max(height, width) + 1):
        size = -(-height // factor), -(-width // factor)
        try:
            if math.prod(size) <= most and math.prod(seen(*size)) <= most:
                return factor
        except ValueError:  # no multiple of its stride
            continue
    return 1


@one_thread()
@torch.no_grad()
def encode(encoder, image: np.ndarray, name: str, noise_samples: Sequence[int], config: Config) -> list[torch.Tensor]:
    """The encoder's maps of one image under several noise samples: a list of (noise_samples, C, h, w) on the CPU.

    An image of more than `encoder_pixels`, or that the network would see at more, is reduced by the mean of blocks; its
    maps are of the whole image all the same.

    On a CPU each draw is a pass of its own on one thread: what a convolution gives depends, in its last bits, on the
    batch and on the number of threads. Other devices take all noise samples in one pass.
    """
    height, width = image.shape[:2]
    image = block_mean(image, encoder_reduction(encoder, height, width, config.encoder_pixels))
    height, width = image.shape[:2]
    alone = torch.device(config.device).type == "cpu"
    images = to_input(image, getattr(encoder, "in_channels", 3)).to(config.device)
    passes = []
    for some in [[draw] for draw in noise_samples] if alone else [list(noise_samples)]:
        noise = torch.cat([encoder.noise([name], height, width, seed=config.feature_seed, draw=draw) for draw in some])
        with nullcontext() if getattr(encoder, "thread_safe", False) else _ONE_AT_A_TIME:
            maps = encoder.maps(images.expand(len(some), -1, -1, -1), noise.to(config.device))
        passes.append([m.cpu() for m in maps])
    return [torch.cat(maps) for maps in zip(*passes, strict=True)]


def pixel_features(maps: Sequence[torch.Tensor], points: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Hypercolumns of one image's points, (P, D) float32."""
    try:
        return np.asarray(hypercolumns(list(maps), torch.from_numpy(points), size), np.float32)
    except ValueError as error:
        raise DataError(
            f"the encoder's features of image {name} cannot be used: {error}; check the encoder's weights"
        ) from None
