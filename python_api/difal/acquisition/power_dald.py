"""PowerDALD: DALD with Gumbel noise on its logarithm, so that a round's picks are no cluster of near-copies."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("power_dald", "PowerDALD, a random draw with probabilities in proportion to DALD", samples="noise")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.power_bald(predictions.samples, generator=predictions.generator)
