"""Whether the encoder and the settings suit the images: asked before a folder is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from difal.config import ENCODER_PIXELS, Config
from difal.data.base import Split
from difal.errors import ConfigError
from difal.features.pixels import encode, encoder_reduction

STRIP = 4  # length to breadth, from which on an image is long beside its shorter side


def check_smallest(config: Config, shapes: Sequence[tuple[int, int]]) -> None:
    """Raise ConfigError where an image of one of these (H, W) has fewer pixels than are kept of each."""
    height, width = min(shapes, key=lambda shape: shape[0] * shape[1], default=(config.candidates, 1))
    least = max(config.local, config.random)
    if height * width < least:
        raise ConfigError(
            f"the smallest image has {width} x {height} = {width * height} pixels, fewer than the {least} that are "
            f"kept of each; take it out, or lower --local and --random"
        )


def check_encoder(config: Config, split: Split, load_encoder: Callable, shapes: Sequence[tuple[int, int]]) -> list[str]:
    """Load the encoder and pass one image through it, so that what cannot work is told before a folder is made.

    Returns:
        Lines about images that it does not see at full size.

    Raises:
        ConfigError: it fails; says at what.
    """
    encoder = load_encoder()
    lines = check_sizes(encoder, config, shapes)
    if not shapes:
        return lines
    index = min(range(len(shapes)), key=lambda i: shapes[i][0] * shapes[i][1])
    try:
        encode(encoder, split.image(index), split.ids[index], [0], config)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, torch.OutOfMemoryError) as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(f"the encoder {config.encoder!r} fails on {split.ids[index]}: {first}") from error
    return lines


def check_sizes(encoder: Any, config: Config, shapes: Sequence[tuple[int, int]]) -> list[str]:
    """A line about the images, of these (H, W), that the encoder sees reduced; nothing where there are none.

    Raises:
        ConfigError: the encoder takes no image of one of these sizes.
    """
    factors: Counter[int] = Counter()
    for (height, width), count in Counter(shapes).items():
        try:
            factors[encoder_reduction(encoder, height, width, config.encoder_pixels)] += count
        except ValueError as error:
            raise ConfigError(
                f"the encoder {config.encoder!r} cannot take {width} x {height} pixels: {error}"
            ) from None
    del factors[1]
    if not factors:
        return []
    least, most = min(factors), max(factors)
    scale = f"1/{least}" if least == most else f"1/{least} to 1/{most}"
    return [
        f"encoder: it gets {sum(factors.values())} images at {scale} of the side, so that none has more than "
        f"{config.encoder_pixels:,} pixels (--encoder-pixels); pixels are asked and shown at full size"
    ]


def may_be_reduced(shapes: Sequence[tuple[int, int]], config: Config) -> bool:
    """Whether the encoder may see some image of these (H, W) reduced, as far as can be told without the encoder.

    Encoders that shrink images keep their proportions: a strip is long beside its shorter side.
    """
    if not config.encoder_pixels:
        return False
    if config.encoder_pixels < ENCODER_PIXELS:
        return True
    return any(
        height * width > ENCODER_PIXELS or max(height, width) > STRIP * min(height, width) for height, width in shapes
    )
