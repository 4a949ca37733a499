"""One minus the likeliest class's probability."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("least_confidence", "least probable likeliest class")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.least_confidence(predictions.single)
