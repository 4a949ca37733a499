"""The default head: class-balanced logistic regression on standardised features, rare classes lifted."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from difal.config import Config
from difal.heads.base import ABSENT, Constant, Head, register
from difal.heads.logistic import standardised_logistic


@register
class LinearHead(Head):
    """A linear layer from D features to C scores, and a constant added to each score.

    The features are standardised by the unlabeled context before the regression, and the scaling is then folded into
    the layer. A class of few labels is predicted too rarely nevertheless, since the penalty keeps its score low. So
    `lift` times the logarithm of its mean probability over the context is taken off each class's score, for prediction
    only: acquisition functions read the scores without it. At a `lift` of 1, the most, the probabilities are divided by
    their means, which leaves no class ahead. Classes without a label are never predicted. Trained to the optimum of a
    convex problem, it has no random part: the same labels give the same head whatever the seed.
    """

    project: nn.Linear
    rest: Constant
    name = "linear"
    summary = "class-balanced logistic regression on standardised features"

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.shape = (features, classes)
        self.project = nn.utils.skip_init(nn.Linear, features, classes)  # training or a file fills it
        self.rest = Constant(classes)

    def learned_rest(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    @classmethod
    @torch.no_grad()
    def train_on(
        cls,
        features: np.ndarray,
        targets: np.ndarray,
        context: np.ndarray,
        classes: int,
        config: Config,
        seed: int,
        dropout: float,
    ) -> LinearHead:
        present, positions = torch.from_numpy(targets).unique(return_inverse=True)
        weight, bias = standardised_logistic(features, positions, context, len(present), config.penalty)
        head = cls(features.shape[1], classes)
        head.rest.constant[present] = (-config.lift * _log_shares(context, weight, bias)).float()
        head.project.weight.zero_()
        head.project.bias.fill_(ABSENT)
        head.project.weight[present], head.project.bias[present] = weight.float(), bias.float()
        return head.eval().requires_grad_(False)


def _log_shares(context: np.ndarray, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(C,) logarithm of each class's mean probability over `context` (m, D), but of at least half a row."""
    rows = torch.from_numpy(np.asarray(context, np.float64))
    shares = (rows @ weight.T + bias).softmax(1).mean(0) if len(rows) else torch.ones_like(bias)
    return shares.clamp(min=0.5 / max(1, len(rows))).log()
