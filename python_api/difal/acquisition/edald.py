"""eDALD: entropy of one prediction plus disagreement between diffusion-noise samples."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("edald", "eDALD, entropy plus DALD", samples="noise")
def rate(predictions: Predictions) -> torch.Tensor:
    config = predictions.config
    compat = None if config.compat == "none" else config.compat
    return difal_kernels.edald(predictions.samples, predictions.single, weight=config.edald_weight, compat=compat)
