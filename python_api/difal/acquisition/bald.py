"""BALD over passes of MC dropout (Houlsby et al., 2011; Gal et al., 2017)."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("bald", "BALD over MC dropout", samples="dropout")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.bald(predictions.samples)
