"""BalEntAcq: balanced entropy over passes of MC dropout (Woo, ICLR 2023)."""

from __future__ import annotations

import torch

import difal_kernels
from difal.acquisition.base import Predictions, score


@score("balentacq", "BalEntAcq, balanced entropy over MC dropout", samples="dropout")
def rate(predictions: Predictions) -> torch.Tensor:
    return difal_kernels.balentacq(predictions.samples)
