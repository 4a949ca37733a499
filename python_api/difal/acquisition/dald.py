"""DALD: disagreement between diffusion-noise samples."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("dald", "DALD, BALD over diffusion-noise samples", samples="noise")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.dald(predictions.samples)
