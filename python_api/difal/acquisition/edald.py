"""eDALD: entropy of one prediction plus disagreement between diffusion-noise draws."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("edald", "eDALD, entropy plus DALD", samples="noise")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.edald(predictions.samples, predictions.single, weight=predictions.config.edald_weight)
