"""The paper's head: a small MLP with BatchNorm."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from difal.config import Config
from difal.heads.base import ABSENT, Constant, Head, as_float, drop, register

T_MAX = 5  # epochs from the full learning rate to none, then back: the schedule is periodic


@register
class MLPHead(Head):
    """D -> first -> second -> C, with ReLU and then BatchNorm after each hidden layer: the paper's head.

    Each step of its training takes `head_batch` labeled pixels and, beside them, `context` random unlabeled ones, which
    enter the BatchNorm statistics and nothing else: the original computed those over whole images, of which the labeled
    pixels are a biased sample. Afterwards the running statistics are replaced by those of the whole context. Adam,
    cosine schedule stepped per epoch.

    Classes without a label are never predicted: after training `ABSENT` is added to their scores. Acquisition functions
    read the scores without it, as in the paper.
    """

    rest: nn.Sequential
    name = "mlp"
    summary = "the paper's: two hidden layers with BatchNorm, trained by Adam"

    def __init__(self, features: int, first: int, second: int, classes: int):
        super().__init__()
        self.shape = (features, first, second, classes)
        self.project = nn.Linear(features, first)
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(first),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.BatchNorm1d(second),
            nn.Linear(second, classes),
            Constant(classes),
        )

    def learned_rest(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.rest[:-1](hidden)

    @classmethod
    def train_on(
        cls,
        features: np.ndarray,
        targets: np.ndarray,
        context: np.ndarray,
        classes: int,
        config: Config,
        seed: int,
        dropout: float,
    ) -> MLPHead:
        if len(targets) + len(context) < 2:
            raise ValueError("`context` must hold a row: BatchNorm needs at least two rows in a step")
        rng = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = cls(features.shape[1], *config.hidden_widths(classes), classes).to(config.device)
        x, z = as_float(features).to(config.device), as_float(context).to(config.device)
        y = torch.from_numpy(targets).to(config.device)
        optimizer = torch.optim.Adam(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=T_MAX)
        head.train()
        for _ in range(config.epochs):
            order = torch.randperm(len(x), generator=rng)
            for start in range(0, len(x), config.head_batch):
                batch = order[start : start + config.head_batch]
                rows = x[batch]
                if len(z):
                    beside = torch.randint(len(z), (config.context,), generator=rng)
                    rows = torch.cat([rows, z[beside]])
                if len(rows) < 2:
                    continue  # a last batch of one row, without context, has no variance
                scores = head(rows)[: len(batch)]
                loss = cross_entropy(drop(scores, dropout, rng) if dropout else scores, y[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            schedule.step()
        _settle_batchnorm(head, torch.cat([x, z]))
        absent = torch.ones(classes, dtype=torch.bool, device=y.device)
        absent[y] = False
        cast(Constant, head.rest[-1]).constant[absent] = ABSENT
        return head.cpu().eval()


@torch.no_grad()
def _settle_batchnorm(head: MLPHead, rows: torch.Tensor) -> None:
    """Replace the running statistics, averages over changing weights, by those of `rows` under the final ones."""
    norms = [layer for layer in head.rest.children() if isinstance(layer, nn.BatchNorm1d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average, here over one batch
    head.train()(rows)
