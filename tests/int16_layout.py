"""What lies in the memory of rows of 16-bit integers; csrc/include/difal/int16_rows.h and csrc/cpu/int16_tiles.h."""

import torch

from difal_kernels._native import load


def integers_and_steps(block, d):
    """(rows, numbers) int64 and (rows,) float32 of prepared rows of d numbers, whichever way they are laid out."""
    words, steps = block[:, :-16].contiguous(), block[:, -16:].contiguous().view(torch.float32).view(-1)
    if load("_cpu").int16_in_tiles(d):
        planes = words.view(torch.uint8).view(len(block), 2, -1, 16, 4)
        q = 256 * planes[:, 0].contiguous().view(torch.int8).long() + planes[:, 1].long()
    else:
        q = words.view(torch.int16).view(len(block), -1, 16, 2).long()
    return q.permute(0, 2, 1, 3).reshape(len(steps), -1), steps
