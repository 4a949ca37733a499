"""What every head is: a linear layer, then anything; and the registry of heads by name."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from difal.config import Config
from difal.errors import ConfigError, UserError
from difal.files import derive_seed, write_tensors
from difal.threads import one_thread

ABSENT = -1e4  # the score of a class without a label: its probability is 0 in float32, and no arithmetic overflows
CHECKSUM = "crc32:"  # how the word of a file's metadata begins that is its checksum
HEADS: dict[str, type[Head]] = {}


class Constant(nn.Module):
    """Adds a constant to each of C scores, 0 until it is set."""

    def __init__(self, classes: int):
        super().__init__()
        self.constant: torch.Tensor
        self.register_buffer("constant", torch.zeros(classes))

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores + self.constant


class Head(nn.Module):
    """A per-pixel classifier that begins with a linear layer: scores = rest(project(features)).

    `project` sees the features before anything nonlinear does, so it commutes with bilinear resizing and with the
    scalar normalisation of a pixel. That is what dense prediction relies on, and all it needs.

    A subclass sets `name` and `summary`, supplies `train_on` and `shape`, and is registered by `@register`; then
    `--head NAME` takes it. Adding one is adding a file to this folder.

    Attributes:
        project: the linear layer, (P, D) to (P, h).
        rest: a module from (P, h) to (P, C) scores.
        shape: the arguments, all of them integers, with which the class makes a head of the same shape.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    project: nn.Linear
    rest: nn.Module
    shape: tuple[int, ...]

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
    ) -> Head:
        """Make a head out of validated input; see `train_head`."""
        raise NotImplementedError

    @property
    def classes(self) -> int:
        return self.shape[-1]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(P, D) features to (P, C) scores, whose softmax is the head's probability."""
        return self.rest(self.project(features))

    def learned(self, features: torch.Tensor) -> torch.Tensor:
        """(P, D) features to the (P, C) scores that training ended with, which acquisition functions read.

        Those of `forward` differ where a head changes them for the sake of prediction.
        """
        return self.learned_rest(self.project(features))

    def learned_rest(self, hidden: torch.Tensor) -> torch.Tensor:
        """`learned` of what `project` gives."""
        return self.rest(hidden)

    @one_thread()
    @torch.no_grad()
    def logits(
        self, features: np.ndarray, rows: np.ndarray, chunk: int = 1024, *, learned: bool = False
    ) -> torch.Tensor:
        """(len(rows), ..., C) float32 scores of rows of `features` (N, ..., D), a memory map perhaps, in chunks.

        `learned` asks for those of `Head.learned`.
        """
        device = self.project.weight.device
        parts = [torch.empty(0, *features.shape[1:-1], self.classes)]
        for start in range(0, len(rows), chunk):
            some = as_float(features[rows[start : start + chunk]])
            scores = (self.learned if learned else self)(some.reshape(-1, some.shape[-1]).to(device)).cpu()
            parts.append(scores.reshape(*some.shape[:-1], -1))
        return torch.cat(parts)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """As torch's; heads of earlier versions lack the constant, which was 0."""
        zeros = {name: torch.zeros_like(own) for name, own in self.named_buffers() if name.endswith(".constant")}
        return super().load_state_dict({**zeros, **state_dict}, *args, **options)

    def save(self, path: Path, made_of: str = "") -> None:
        """Write a safetensors file, whole or not at all; of one entry of metadata, since several have no order.

        Args:
            path: the file.
            made_of: a digest of the labels that the head was trained on.
        """
        tensors = self.state_dict()
        described = f"{self.name} {','.join(map(str, self.shape))}" + (f" {made_of}" if made_of else "")
        write_tensors(path, tensors, {"head": f"{described} {_checksum(described, tensors)}"})


def register(cls: type[Head]) -> type[Head]:
    """Register a head under its `name`; a class decorator."""
    HEADS[cls.name] = cls
    return cls


def check_head(name: str) -> str:
    """Raise ConfigError for a name that is none."""
    if name not in HEADS:
        raise ConfigError(f"`head` must be one of {', '.join(HEADS)}, got {name!r}")
    return name


def make_head(name: str, shape: tuple[int, ...], tensors: dict[str, torch.Tensor]) -> Head:
    """The head that `name`, `shape` and `state_dict()` describe, in evaluation mode."""
    head = HEADS[name](*shape)
    head.load_state_dict(tensors)
    return head.eval()


def load_head(path: Path) -> Head:
    """Read what `Head.save` wrote; a file of an earlier version, which names no head, holds the paper's MLP.

    Raises:
        UserError: the file is no head; names it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            described, checksum = _split(facts.get("head", f"mlp {facts.get('sizes')}"))
            name, sizes, *of_labels = described.split(" ")
            if len(of_labels) > 1:  # the checksum's mark was hit: nothing tells whether the rest was
                raise ValueError("its description has more words than are written: the file was damaged")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if checksum not in ("", _checksum(described, tensors)):
                raise ValueError("its checksum is of other contents: the file was damaged")
            return make_head(name, tuple(map(int, sizes.split(","))), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a head of this package ({error}); delete it and resume the run") from None


def made_of(path: Path) -> str | None:
    """The digest of the labels that the head in a file was trained on; None where the file does not say."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            words = _split((file.metadata() or {}).get("head", ""))[0].split(" ")
    except (SafetensorError, OSError):
        return None
    return words[2] if len(words) > 2 else None


def _checksum(described: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """A word for a head's description and the bytes of its tensors."""
    found = zlib.crc32(described.encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(tensor.cpu().numpy().tobytes(), zlib.crc32(name.encode(), found))
    return f"{CHECKSUM}{found:08x}"


def _split(text: str) -> tuple[str, str]:
    """What describes a head in the metadata of its file, and the checksum; "" in a file of an earlier version."""
    described, mark, digits = text.rpartition(CHECKSUM)
    return (described.removesuffix(" "), mark + digits) if mark else (text, "")


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

    Args:
        features: (n, D) labeled features, n at least 1.
        targets: (n,) class ids, 0 to C - 1.
        context: (m, D) random unlabeled features, as which the pool looks; may be empty if the head allows it.
        classes: number of classes C.
        config: `head`, which names it, and the settings of that head.
        *seed_parts: what tells this training from others of the same seed, such as the round.
        dropout: probability with which each class score is dropped in training, so that MC dropout finds a head used
            to it; a head without random parts ignores it.

    Returns:
        The head, on the CPU, in evaluation mode. The same arguments give the same weights, whatever the number of
        threads: it is trained on one.

    Raises:
        ConfigError: there is no such head.
        ValueError: shapes do not agree, there is nothing to train on, or a class id is out of range.
    """
    if features.ndim != 2 or len(features) != len(targets) or len(targets) == 0:
        raise ValueError(f"`features` must be (n, D) with n labels, n > 0, got {features.shape} and {len(targets)}")
    targets = np.asarray(targets, np.int64)
    if not 0 <= targets.min() <= targets.max() < classes:
        raise ValueError(f"`targets` must be from 0 to {classes - 1}, got {targets.min()} to {targets.max()}")
    kind = HEADS[check_head(config.head)]
    seed = derive_seed("head", config.seed, *seed_parts)
    with one_thread():
        return kind.train_on(features, targets, context, classes, config, seed, dropout)


def drop(scores: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Dropout on class scores: each is 0 with the given probability, else divided by one minus it.

    The paper's experiments drop the scores, not the hidden units. A class without a label stays one. `generator` is on
    the CPU, so that devices agree.
    """
    kept = torch.rand(scores.shape, generator=generator) >= probability
    return torch.where(scores > ABSENT / 2, scores * kept.to(scores.device) / (1 - probability), scores)


def as_float(rows: np.ndarray) -> torch.Tensor:
    """A float32 copy."""
    return torch.from_numpy(np.array(rows, dtype=np.float32))
