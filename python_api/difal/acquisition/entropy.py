"""Entropy of the prediction."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("entropy", "entropy of the prediction")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.entropy(predictions.single)
