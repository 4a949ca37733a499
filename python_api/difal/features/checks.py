"""Whether the encoder and the settings suit the images: asked before a folder is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from difal.config import Config
from difal.data.base import Split
from difal.errors import ConfigError
from difal.features.pixels import encode


def check_smallest(config: Config, shapes: Sequence[tuple[int, int]]) -> None:
    """Raise ConfigError where an image of one of these (H, W) has fewer pixels than are kept of each."""
    height, width = min(shapes, key=lambda shape: shape[0] * shape[1], default=(config.candidates, 1))
    least = max(config.local, config.random)
    if height * width < least:
        raise ConfigError(
            f"the smallest image has {width} x {height} = {width * height} pixels, fewer than the {least} that are "
            f"kept of each; take it out, or lower --local and --random"
        )


def check_encoder(config: Config, split: Split, load_encoder: Callable, shapes: Sequence[tuple[int, int]]) -> None:
    """Load the encoder and pass one image through it, so that what cannot work is told before a folder is made.

    Raises:
        ConfigError: it fails; says at what.
    """
    encoder = load_encoder()
    check_sizes(encoder, config.encoder, shapes)
    index = min(range(len(shapes)), key=lambda i: shapes[i][0] * shapes[i][1]) if shapes else 0
    if not shapes:
        return
    try:
        encode(encoder, split.image(index), split.ids[index], [0], config)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, torch.OutOfMemoryError) as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(f"the encoder {config.encoder!r} fails on {split.ids[index]}: {first}") from error


def check_sizes(encoder: Any, name: str, shapes: Sequence[tuple[int, int]]) -> None:
    """Raise ConfigError where the encoder, which the user calls `name`, takes no image of one of these (H, W)."""
    for height, width in dict.fromkeys(shapes) if hasattr(encoder, "working_size") else ():
        try:
            encoder.working_size(height, width)
        except ValueError as error:
            raise ConfigError(f"the encoder {name!r} cannot take {width} x {height} pixels: {error}") from None
