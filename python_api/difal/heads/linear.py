"""The default head: class-balanced logistic regression on standardised features."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from difal.config import Config
from difal.heads.base import ABSENT, Head, register
from difal.heads.logistic import standardised_logistic


@register
class LinearHead(Head):
    """A linear layer from D features to C scores, nothing after it.

    The features are standardised by the unlabeled context before the regression, and the scaling is then folded into
    the layer. Classes without a label are never predicted. Trained to the optimum of a convex problem, it has no random
    part: the same labels give the same head whatever the seed.
    """

    name = "linear"
    summary = "class-balanced logistic regression on standardised features"

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.shape = (features, classes)
        self.project = nn.utils.skip_init(nn.Linear, features, classes)  # training or a file fills it
        self.rest = nn.Identity()

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
        present, places = torch.from_numpy(targets).unique(return_inverse=True)
        weight, bias = standardised_logistic(features, places, context, len(present), config.penalty)
        head = cls(features.shape[1], classes)
        head.project.weight.zero_()
        head.project.bias.fill_(ABSENT)
        head.project.weight[present], head.project.bias[present] = weight.float(), bias.float()
        return head.eval().requires_grad_(False)
