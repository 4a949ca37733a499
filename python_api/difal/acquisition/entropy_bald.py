"""Entropy of the prediction plus BALD over passes of MC dropout: eDALD with dropout in place of the noise."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("entropy_bald", "entropy plus BALD over MC dropout", samples="dropout")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.edald(predictions.samples, predictions.single, weight=predictions.config.edald_weight)
