"""Features that selection is measured on: clusters, and pixels of photographs under a diffusion UNet."""

from __future__ import annotations

import torch


def clustered(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """(n, d) float32: sixty Gaussian clusters of differing size and spread."""
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(60, d, generator=generator)
    shares = torch.rand(60, generator=generator) ** 2 + 0.05
    which = torch.multinomial(shares, n, replacement=True, generator=generator)
    spread = 0.3 + torch.rand(60, 1, generator=generator)
    return centers[which] + spread[which] * torch.randn(n, d, generator=generator)


def photo_pixels(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """(n, d) float32 unit vectors: hypercolumns of random pixels of photographs under a random-weight UNet.

    d must be a multiple of 8; from 768 on it is spread over three timesteps, as in the paper.
    """
    from diffusers import UNet2DModel
    from skimage import data

    from difal.encoders import DiffusionEncoder

    timesteps = (50, 150, 250) if d >= 768 else (50,)
    per_step = d // len(timesteps)
    if d % (8 * len(timesteps)):
        raise ValueError(f"`d` must be a multiple of {8 * len(timesteps)}, got {d}")
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=256,
        block_out_channels=(per_step // 8, per_step // 4, per_step * 5 // 8),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=8,
    )
    encoder = DiffusionEncoder(unet, blocks=(2, 5, 8), timesteps=timesteps)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for image in (data.astronaut(), data.chelsea()[:300, :300], data.coffee()[:400, :400]):
        if sum(map(len, parts)) == n:
            break
        side = 256
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        pixels = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True).clamp(-1, 1)
        count = min(n - sum(map(len, parts)), side * side)
        chosen = torch.randperm(side * side, generator=generator)[:count]
        points = torch.stack([chosen // side, chosen % side], 1)
        parts.append(encoder.hypercolumns(pixels, points))
    return torch.cat(parts)


SOURCES = {"clusters": clustered, "pixels": photo_pixels}
