"""What encoders without diffusion share: clean features, and noise on the input where disagreement is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from difal.encoders.base import BaseEncoder
from difal_kernels._checks import as_int


class CleanEncoder(BaseEncoder):
    """An encoder whose network takes the image as it is.

    Noise sample 0, from which the features are read, is no noise at all. Samples 1 to K, the passes behind DALD, are
    standard normal; a subclass adds them to the image, times its noise level, in units of an image in [-1, 1].

    Attributes:
        enlarge: factor by which images are resized before the network; the maps of a network that was trained on
            objects which fill the picture are coarse otherwise.
        resolution: shorter side, in pixels, that no image exceeds before the network; None: any.
    """

    enlarge = 1.0

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which the network sees an image of `height` x `width` pixels, both multiples of the stride."""
        height, width = as_int(height, "height", low=1), as_int(width, "width", low=1)
        factor = self.enlarge
        if self.resolution is not None:
            factor = min(factor, self.resolution / min(height, width))
        return self._on_grid(height, width, factor)

    def noise(
        self,
        image_ids: Sequence[int | str],
        height: int,
        width: int,
        *,
        seed: int = 0,
        draw: int = 0,
        shared: bool = True,
    ) -> torch.Tensor:
        """As `BaseEncoder.noise`; sample 0 is zero."""
        noise = super().noise(image_ids, height, width, seed=seed, draw=draw, shared=shared)
        return noise if draw else torch.zeros_like(noise)


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Images in [-1, 1], noised perhaps, to the units of a network whose colours in [0, 1] have `mean` and `std`."""
    center, scale = (torch.tensor(v, device=images.device)[:, None, None] for v in (mean, std))
    return ((images + 1) / 2 - center) / scale
