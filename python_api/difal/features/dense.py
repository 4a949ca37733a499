"""Dense prediction: a head at every pixel of an image, without the features of every pixel.

The head's first layer commutes with bilinear resizing, so all pixels of an image cost one projection at the maps'
resolution and a resize of 128 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from difal.heads import Head
from difal.threads import one_thread
from difal_kernels import entropy, project_then_resize


def dense_logits(head: Head, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """(B, H, W, C) float32 logits of every pixel of B images of `size`."""
    return _every_pixel(head, maps, size, head.rest)


def dense_learned(head: Head, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """As `dense_logits`, of the scores that acquisition functions read."""
    return _every_pixel(head, maps, size, head.learned_rest)


def dense_classes(head: Head, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """(B, H, W) uint8 most likely class of every pixel; logits never exist for all of them at once."""
    return _every_pixel(head, maps, size, lambda rows: head.rest(rows).argmax(1).to(torch.uint8))


def dense_view(head: Head, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Most likely class (B, H, W) uint8, and entropy (B, H, W) float32 in nats, without keeping the logits."""

    def tail(rows: torch.Tensor) -> torch.Tensor:
        logits = head.rest(rows)
        return torch.stack([logits.argmax(1).float(), entropy(logits).float()], 1)

    found = _every_pixel(head, maps, size, tail)
    return found[..., 0].to(torch.uint8), found[..., 1]


@one_thread()
def _every_pixel(head: Head, maps: Sequence[torch.Tensor], size: tuple[int, int], tail: Callable) -> torch.Tensor:
    return torch.as_tensor(project_then_resize(maps, head.project.weight, head.project.bias, size, tail=tail))
