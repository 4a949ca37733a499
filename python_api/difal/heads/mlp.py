"""The per-pixel classifier: a small MLP on hypercolumns, trained from scratch every round on the labeled pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from difal.config import Config
from difal.errors import UserError
from difal.files import derive_seed, write_tensors
from difal.threads import one_thread

T_MAX = 5  # epochs from the full learning rate to none, then back: the schedule is periodic


class Head(nn.Module):
    """D -> first -> second -> C, with ReLU and then BatchNorm after each hidden layer.

    The first linear layer sees the features before anything nonlinear does, so it commutes with bilinear resizing
    and with the scalar normalisation of a pixel (`difal_kernels.project_then_resize` relies on it).
    """

    def __init__(self, features: int, classes: int, hidden: tuple[int, int] = (128, 32)):
        super().__init__()
        first, second = hidden
        self.sizes = (features, first, second, classes)
        self.project = nn.Linear(features, first)
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(first),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.BatchNorm1d(second),
            nn.Linear(second, classes),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(P, D) features to (P, C) logits."""
        return self.rest(self.project(features))

    @one_thread()
    @torch.no_grad()
    def logits(self, features: np.ndarray, rows: np.ndarray, chunk: int = 1024) -> torch.Tensor:
        """(len(rows), ..., C) float32 logits of rows of `features` (N, ..., D), a memory map perhaps, in chunks."""
        device = self.project.weight.device
        parts = [torch.empty(0, *features.shape[1:-1], self.sizes[-1])]
        for start in range(0, len(rows), chunk):
            some = _float(features[rows[start : start + chunk]])
            logits = self(some.reshape(-1, some.shape[-1]).to(device)).cpu()
            parts.append(logits.reshape(*some.shape[:-1], -1))
        return torch.cat(parts)

    def save(self, path: Path) -> None:
        write_tensors(path, self.state_dict(), {"sizes": ",".join(map(str, self.sizes))})

    @classmethod
    def load(cls, path: Path) -> Head:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                features, first, second, classes = map(int, file.metadata()["sizes"].split(","))
                head = cls(features, classes, (first, second))
                head.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is not a head of this package ({error}); delete it and resume the run") from None
        return head.eval()


def drop(scores: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Dropout on class scores: each is 0 with the given probability, else divided by one minus it.

    The paper's experiments drop the scores, not the hidden units. `generator` is on the CPU, so that devices agree.
    """
    kept = torch.rand(scores.shape, generator=generator) >= probability
    return scores * kept.to(scores.device) / (1 - probability)


def _float(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(rows, dtype=np.float32))


@one_thread()
def train_head(
    features: np.ndarray,
    targets: np.ndarray,
    context: np.ndarray,
    classes: int,
    config: Config,
    *seed_parts,
    dropout: float = 0.0,
) -> Head:
    """Train a head from scratch.

    Each step takes `head_batch` labeled pixels and, beside them, `context` random unlabeled ones, which enter the
    BatchNorm statistics and nothing else: the original computed those over whole images, of which the labeled pixels
    are no fair sample. Afterwards the running statistics are replaced by those of the whole context. Adam, cosine
    schedule stepped per epoch.

    Args:
        features: (n, D) labeled features, n at least 1.
        targets: (n,) class ids.
        context: (m, D) unlabeled features; may be empty if n is at least 2.
        classes: number of classes C.
        config: `epochs`, `learning_rate`, `weight_decay`, `head_batch`, `context`, `hidden`, `seed`, `device`.
        *seed_parts: what tells this training from others of the same seed, such as the round.
        dropout: probability with which each class score is dropped, so that MC dropout finds a head used to it.

    Returns:
        The head, on the CPU, in evaluation mode. The same arguments give the same weights,
        whatever the number of threads: it is trained on one.

    Raises:
        ValueError: shapes do not agree, or there is nothing to train on.
    """
    if features.ndim != 2 or len(features) != len(targets) or len(targets) == 0:
        raise ValueError(f"`features` must be (n, D) with n labels, n > 0, got {features.shape} and {len(targets)}")
    if len(targets) + len(context) < 2:
        raise ValueError("`context` must hold a row: BatchNorm needs at least two rows in a step")
    seed = derive_seed("head", config.seed, *seed_parts)
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(features.shape[1], classes, config.hidden_widths(classes)).to(config.device)
    x, z = _float(features).to(config.device), _float(context).to(config.device)
    y = torch.from_numpy(np.asarray(targets, dtype=np.int64)).to(config.device)
    optimizer = torch.optim.Adam(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=T_MAX)
    head.train()
    for _ in range(config.epochs):
        order = torch.randperm(len(x), generator=rng)
        for start in range(0, len(x), config.head_batch):
            batch = order[start : start + config.head_batch]
            beside = torch.randint(len(z), (config.context if len(z) else 0,), generator=rng) if len(z) else order[:0]
            rows = torch.cat([x[batch], z[beside]]) if len(z) else x[batch]
            if len(rows) < 2:
                continue  # a last batch of one row, without context, has no variance
            scores = head(rows)[: len(batch)]
            loss = cross_entropy(drop(scores, dropout, rng) if dropout else scores, y[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        schedule.step()
    _settle_batchnorm(head, torch.cat([x, z]))
    return head.cpu().eval()


@torch.no_grad()
def _settle_batchnorm(head: Head, rows: torch.Tensor) -> None:
    """Replace the running statistics, averages over changing weights, by those of `rows` under the final ones."""
    norms = [layer for layer in head.rest if isinstance(layer, nn.BatchNorm1d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average, here over one batch
    head.train()(rows)
