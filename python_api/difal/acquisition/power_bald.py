"""PowerBALD: BALD over MC dropout with Gumbel noise on its logarithm (Kirsch et al., 2023)."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score(
    "power_bald", "PowerBALD, a random draw with probabilities in proportion to BALD over MC dropout", samples="dropout"
)
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.power_bald(predictions.samples, generator=predictions.generator)
