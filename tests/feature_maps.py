"""Feature maps to test with, and the dense float64 answer that every backend must give."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

BACKENDS = ("reference", "cpu")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

# name: (image size, channels and sizes of the maps, images)
CASES = {
    "paper-like": ((32, 32), [(48, 4, 4), (24, 8, 8), (12, 16, 16), (12, 32, 32)], 2),
    "odd": ((37, 23), [(5, 7, 11), (3, 1, 4), (1, 13, 2)], 3),
    "one-cell": ((9, 5), [(4, 1, 1)], 1),
    "one-pixel": ((1, 1), [(3, 4, 6), (2, 1, 1)], 2),
    "finer than the image": ((6, 10), [(7, 31, 20), (2, 7, 10), (3, 6, 10)], 2),
    "one side finer": ((12, 12), [(5, 40, 2), (4, 3, 50)], 1),
    "sizes that repeat": ((16, 20), [(5, 4, 6), (3, 8, 8), (4, 4, 6), (2, 4, 6), (6, 8, 8)], 2),
    "wide": ((3, 300), [(17, 2, 140), (9, 3, 300)], 1),
}
LAYOUTS = ("contiguous", "channels-last", "sliced", "transposed", "expanded")
RUNS = [("reference", "contiguous"), *(("cpu", layout) for layout in LAYOUTS)]


def make(case: str, dtype=torch.float32, layout="contiguous", seed=0) -> tuple[list[torch.Tensor], tuple]:
    """The case's maps and image size."""
    size, shapes, images = CASES[case]
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(images, *shape, generator=generator).to(dtype) for shape in shapes]
    return [lay_out(m, layout) for m in maps], size


def lay_out(view: torch.Tensor, layout: str) -> torch.Tensor:
    """The same numbers in another memory layout ("expanded" repeats the first image)."""
    if layout == "channels-last":
        return view.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        b, c, h, w = view.shape
        big = torch.full((b, 2 * c, h + 3, 2 * w + 1), float("nan"), dtype=view.dtype)
        inside = big[:, 1::2, 2 : h + 2, 1::2]
        inside.copy_(view)
        return inside
    if layout == "transposed":
        return view.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return view[:1].expand(view.shape)
    return view


def dense(maps, size, normalize=True) -> torch.Tensor:
    """Interpolate, concatenate, normalise: (B, D, H, W) in float64."""
    resized = [F.interpolate(m.double(), size, mode="bilinear", align_corners=False) for m in maps]
    vectors = torch.cat(resized, dim=1)
    return F.normalize(vectors, dim=1, eps=1e-300) if normalize else vectors


def random_points(count, size, images, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randint(n, (count,), generator=generator) for n in size)
    return torch.stack([rows, columns], 1), torch.randint(images, (count,), generator=generator)


def all_points(size, images):
    b, r, c = torch.meshgrid(*(torch.arange(n) for n in (images, *size)), indexing="ij")
    return torch.stack([r.flatten(), c.flatten()], 1), b.flatten()


def layer(maps, outputs=13, seed=4):
    """Weight (O, D) with rows of norm 1, and bias, of a linear layer in float32."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, sum(m.shape[1] for m in maps), generator=generator)
    return F.normalize(weight, dim=1), torch.randn(outputs, generator=generator)


def linear(vectors, weight, bias) -> torch.Tensor:
    """The layer on dense (B, D, H, W) vectors: (B, H, W, O) in float64."""
    bias = None if bias is None else bias.double()
    return F.linear(vectors.double().permute(0, 2, 3, 1), weight.double(), bias)


def far_apart(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values, those of the first axis more than 2^31 numbers apart, in memory of which little is touched."""
    pages = Path("/proc/sys/vm/overcommit_memory")
    if device.type == "cpu" and (not pages.exists() or pages.read_text().strip() == "2"):
        pytest.skip("this system does not lend addresses without memory")
    step = 2**31 + 64
    space = torch.empty((len(values) - 1) * step + values[0].numel(), dtype=values.dtype, device=device)
    return space.as_strided(values.shape, (step, *values[0].stride())).copy_(values)
