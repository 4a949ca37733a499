"""The gap between the two likeliest classes."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("margin", "smallest gap between the two likeliest classes")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.margin(predictions.single)
