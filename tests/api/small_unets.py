"""Small random diffusion UNets and images for the tests of encoders."""

import torch
from diffusers import UNet2DModel


def make_unet(layers=1, attention=False, levels=3, seed=0):
    torch.manual_seed(seed)
    down = ["AttnDownBlock2D" if attention and i else "DownBlock2D" for i in range(levels)]
    return UNet2DModel(
        sample_size=16,
        layers_per_block=layers,
        block_out_channels=(8, 16, 24, 32)[:levels],
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=down,
        up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
    )


def make_images(count, height=16, width=24, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=rng) * 2 - 1
