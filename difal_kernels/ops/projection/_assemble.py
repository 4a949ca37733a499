"""Runs an implementation image by image and chunk by chunk, with the tail after each chunk."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Writes the linear layer's answer for the image rows [begin, end) to a tensor ((end - begin) * W, O).
Fill = Callable[[int, int, torch.Tensor], None]


@torch.no_grad()
def assemble(problem, filler: Callable[[object, int], Fill]) -> torch.Tensor:
    """`filler(problem, image)` does what an image needs once and gives its Fill."""
    height, width = problem.size
    images, channels, step = len(problem.maps[0]), len(problem.weight), problem.rows_per_chunk
    answer = hidden = None
    for image in range(images):
        fill = filler(problem, image)
        for begin in range(0, height, step):
            end = min(begin + step, height)
            rows = slice((image * height + begin) * width, (image * height + end) * width)
            if problem.tail is None:
                if answer is None:
                    answer = problem.weight.new_empty(images * height * width, channels)
                fill(begin, end, answer[rows])
                continue
            if hidden is None:
                hidden = problem.weight.new_empty(step * width, channels)
            chunk = hidden[: (end - begin) * width]
            fill(begin, end, chunk)
            part = _apply(problem.tail, chunk)
            if answer is None:
                answer = part.new_empty(images * height * width, *part.shape[1:])
            _check_alike(part, answer)
            answer[rows] = part
    return answer.view(images, height, width, *answer.shape[1:])


def _apply(tail, chunk: torch.Tensor) -> torch.Tensor:
    part = tail(chunk)
    if not isinstance(part, torch.Tensor):
        raise TypeError(f"`tail` must return a torch.Tensor, got {type(part).__name__}")
    if part.ndim == 0 or len(part) != len(chunk):
        raise ValueError(f"`tail` must return one row per pixel, ({len(chunk)}, ...), got shape {tuple(part.shape)}")
    return part


def _check_alike(part: torch.Tensor, answer: torch.Tensor) -> None:
    if part.shape[1:] != answer.shape[1:] or part.dtype != answer.dtype:
        raise ValueError(
            f"`tail` must return the same kind of row for every chunk, got shape {tuple(part.shape)} of {part.dtype} "
            f"after rows of shape {tuple(answer.shape[1:])} of {answer.dtype}"
        )
