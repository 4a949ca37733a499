"""The networks that can be trained, and the one a training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from difal.encoders.diffusion import DiffusionEncoder
from difal.encoders.loading import fingerprint, load_encoder
from difal.errors import ConfigError

SCRATCH = "scratch"
TIMESTEPS = (50, 150, 250)


class Size(NamedTuple):
    """A UNet without attention, where its features are read, and its step width."""

    channels: tuple[int, ...]  # of each level, finest first
    layers: int  # residual blocks of a level
    blocks: tuple[int, ...]  # the last of a decoder level, from the coarsest on
    resolution: int  # pixels of the shorter side that an image is shrunk to
    learning_rate: float


SIZES = {
    "tiny": Size((32, 64, 96, 128), 1, (1, 3, 5), 64, 1e-3),
    "small": Size((64, 128, 192, 256), 2, (2, 5, 8), 128, 5e-4),
    "base": Size((128, 256, 384, 512), 2, (2, 5, 8), 128, 2e-4),
}


def build_unet(size: Size):
    """A `UNet2DModel` with weights drawn by torch's seed; without attention, it runs at any image size."""
    from diffusers import UNet2DModel

    levels = len(size.channels)
    return UNet2DModel(
        sample_size=2 * size.resolution,
        in_channels=3,
        out_channels=3,
        layers_per_block=size.layers,
        block_out_channels=size.channels,
        norm_num_groups=8,
        add_attention=False,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
    )


def new_encoder(size: str, seed: int, resolution: int | None = None) -> DiffusionEncoder:
    """An untrained encoder of a size by name; the seed decides its weights."""
    from diffusers import DDPMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = build_unet(SIZES[size])
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type="v_prediction")
    resolution = resolution or SIZES[size].resolution
    return DiffusionEncoder(unet, scheduler, SIZES[size].blocks, TIMESTEPS, resolution=resolution)


def start_encoder(start: str, size: str, seed: int, resolution: int | None = None) -> tuple[DiffusionEncoder, int]:
    """The encoder that a training starts from, its weights in float32 on the CPU, and its resolution.

    Args:
        start: `scratch`, `tiny`, or the folder or hub id of a diffusion encoder.
        size: key of `SIZES`, for `scratch`.
        seed: of the weights, for `scratch`.
        resolution: shorter side to read images at, in place of the encoder's own.

    Raises:
        ConfigError: `start` is no diffusion encoder on RGB images that can be trained.
    """
    if start == SCRATCH:
        return new_encoder(size, seed, resolution), resolution or SIZES[size].resolution
    settings: dict[str, Any] = {} if resolution is None else {"resolution": resolution}
    try:
        encoder = load_encoder(start, **settings)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error).replace("`name`", "`start`")) from error
    # A latent UNet is no plain DiffusionEncoder; six output channels are a network that learns its variance too.
    if type(encoder) is not DiffusionEncoder or (encoder.unet.config.in_channels, encoder.unet.config.out_channels) != (
        3,
        3,
    ):
        raise ConfigError(
            f"`start` must be a diffusion UNet with 3 input and 3 output channels, which {start!r} is not; "
            f"use --start tiny or --start scratch"
        )
    if encoder.resolution is None:
        side = encoder.unet.config.sample_size
        raise ConfigError(f"`start`: {start!r} names no resolution to train at; give one, such as --resolution {side}")
    return encoder, encoder.resolution


def start_digest(start: str) -> str | None:
    """Tells other weights of the same name apart; None for `scratch`."""
    if start == SCRATCH:
        return None
    try:
        return fingerprint(start if start == "tiny" or "/" in start else Path(start))
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error).replace("`name`", "`start`")) from error
