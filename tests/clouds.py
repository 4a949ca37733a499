"""Drawn features."""

import torch


def cloud(n=300, d=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(9, d, generator=generator)
    return centers[torch.randint(9, (n,), generator=generator)] + torch.randn(n, d, generator=generator)
