"""DALD: disagreement between diffusion-noise draws."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("dald", "DALD, BALD over diffusion-noise draws", samples="noise")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.dald(predictions.samples)
