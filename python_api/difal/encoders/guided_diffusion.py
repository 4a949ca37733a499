"""Checkpoints of OpenAI's guided-diffusion ("ADM") as diffusers networks."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from difal_kernels._checks import as_int

SINGLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_out.0": "proj_out"}
SHOWN = 12  # names in an error message


def load_guided_diffusion(
    state_dict_or_path: Mapping[str, torch.Tensor] | str | Path, *, num_head_channels: int = 64
) -> torch.nn.Module:
    """Convert an unconditional guided-diffusion UNet to diffusers.

    It must have scale-shift norm and residual up- and downsampling, as `256x256_diffusion_uncond.pt` and
    `lsun_bedroom.pt` have. Depth, widths, blocks per level, attention levels and output channels follow
    from the parameters' shapes.

    Args:
        state_dict_or_path: parameters by name, or the path of a `.pt` or `.safetensors` file of them.
        num_head_channels: width of an attention head, which the shapes do not tell; 64 in OpenAI's models.

    Returns:
        A diffusers `UNet2DModel` in float32 on the CPU, for `DiffusionEncoder`.

    Raises:
        TypeError: `state_dict_or_path` is neither mapping nor path, or holds something other than tensors.
        FileNotFoundError: no such file.
        ValueError: the file cannot be read; or tensors are missing, left over or misshapen, which it lists.

    Notes:
        Pickled code is never run: `.pt` files are read with `weights_only=True`.

    References:
        Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, NeurIPS 2021 (arXiv 2105.05233).
    """
    from diffusers import UNet2DModel

    num_head_channels = as_int(num_head_channels, "num_head_channels", low=1)
    source = _read(state_dict_or_path)
    levels, per_level = _shape_of_tree(source)
    names = _name_map(source, levels, per_level)
    with torch.device("meta"):
        unet: Any = UNet2DModel(**_config(source, levels, per_level, num_head_channels))
    wanted = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    converted, used = {}, set()
    for theirs, ours in names.items():
        for part in ("weight", "bias"):
            key = f"{theirs}.{part}"
            if key in source:
                used.add(key)
                converted.update(_convert(source[key], ours, part, num_head_channels))
    missing = sorted(wanted.keys() - converted.keys())
    unused = sorted((source.keys() - used) | (converted.keys() - wanted.keys()))
    wrong = [
        f"{name} {tuple(value.shape)}, not {wanted[name]}"
        for name, value in converted.items()
        if name in wanted and tuple(value.shape) != wanted[name]
    ]
    problems = [("missing", missing), ("not used", unused), ("of the wrong shape", wrong)]
    if any(listed for _, listed in problems):
        classes = "it is conditional on classes; " if "label_emb.weight" in source else ""
        raise ValueError(
            "`state_dict_or_path` is no unconditional guided-diffusion UNet with scale-shift norm and residual "
            f"resampling: {classes}" + "; ".join(f"{what}: {_listed(listed)}" for what, listed in problems if listed)
        )
    unet.load_state_dict(converted, strict=True, assign=True)
    return unet.eval()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _read(source: Mapping[str, torch.Tensor] | str | Path) -> dict[str, torch.Tensor]:
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"`state_dict_or_path`: there is no file {path}")
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                source = load_file(path)
            else:
                source = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling and safetensors raise many kinds
            # torch's words would recommend to run the file's code.
            pickled = isinstance(error, pickle.UnpicklingError)
            reason = "it is no checkpoint, or holds pickled objects, which are not loaded" if pickled else str(error)
            raise ValueError(
                f"`state_dict_or_path`: {path} holds no plain tensors that can be read: {reason or 'it is empty'}; "
                f"fetch it again, or save the network's state_dict() alone"
            ) from (None if pickled else error)
    if not isinstance(source, Mapping):
        raise TypeError(f"`state_dict_or_path` must be a path or a mapping of tensors, got {type(source).__name__}")
    for name, value in source.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise TypeError(f"`state_dict_or_path` must map names to tensors, got {name!r}: {type(value).__name__}")
    return dict(source)


def _shape_of_tree(source: dict[str, torch.Tensor]) -> tuple[int, int]:
    """(levels, output blocks per level); each level but the last ends in an upsampling block."""
    found = (re.match(r"output_blocks\.(\d+)\.", key) for key in source)
    outputs = {int(block[1]) for block in found if block}
    upsamplers = sum(_upsampler(source, k) is not None for k in outputs)
    count, levels = len(outputs), upsamplers + 1
    if not count or outputs != set(range(count)) or count % levels:
        raise ValueError(
            f"`state_dict_or_path` must hold a guided-diffusion UNet with residual upsampling, "
            f"got {count} output_blocks with {upsamplers} residual upsamplers among {len(source)} tensors"
        )
    return levels, count // levels


def _upsampler(source: Mapping[str, torch.Tensor], block: int) -> str | None:
    names = (f"output_blocks.{block}.{j}" for j in (1, 2))
    return next((name for name in names if f"{name}.in_layers.0.weight" in source), None)


def _name_map(source: dict[str, torch.Tensor], levels: int, per_level: int) -> dict[str, str]:
    """Modules that have parameters of their own: their name here to ours."""
    names = {theirs: ours for ours, theirs in SINGLE.items()}

    def resnet(theirs, ours):
        names.update({f"{theirs}.{b}": f"{ours}.{a}" for a, b in RESNET.items()})

    def attention(theirs, ours):
        names.update({f"{theirs}.{b}": f"{ours}.{a}" for a, b in ATTENTION.items()})
        names[f"{theirs}.qkv"] = ours

    def stage(theirs, ours, j):
        resnet(f"{theirs}.0", f"{ours}.resnets.{j}")
        if f"{theirs}.1.qkv.weight" in source:
            attention(f"{theirs}.1", f"{ours}.attentions.{j}")

    for level in range(levels):
        first = level * per_level
        for j in range(per_level - 1):
            stage(f"input_blocks.{1 + first + j}", f"down_blocks.{level}", j)
        for j in range(per_level):
            stage(f"output_blocks.{first + j}", f"up_blocks.{level}", j)
        if level < levels - 1:
            resnet(f"input_blocks.{first + per_level}.0", f"down_blocks.{level}.downsamplers.0")
            resnet(_upsampler(source, first + per_level - 1), f"up_blocks.{level}.upsamplers.0")
    resnet("middle_block.0", "mid_block.resnets.0")
    attention("middle_block.1", "mid_block.attentions.0")
    resnet("middle_block.2", "mid_block.resnets.1")
    return names


def _config(source: dict[str, torch.Tensor], levels: int, per_level: int, num_head_channels: int) -> dict:
    def size(name: str) -> torch.Size:
        if name not in source:
            raise ValueError(f"`state_dict_or_path` must hold {name}, which is missing: not a guided-diffusion UNet")
        if source[name].ndim != 4:
            shape = tuple(source[name].shape)
            raise ValueError(f"`state_dict_or_path` must hold {name} as weights of a convolution, got shape {shape}")
        return source[name].shape

    starts = [f"input_blocks.{1 + level * per_level}" for level in range(levels)]
    channels = [size(f"{start}.0.out_layers.3.weight")[0] for start in starts]
    attends = [f"{start}.1.qkv.weight" in source for start in starts]
    for level, (width, attend) in enumerate(zip(channels, attends, strict=True)):
        if (attend or level == levels - 1) and width % num_head_channels:
            raise ValueError(f"`num_head_channels` must divide {width}, got {num_head_channels}")
    return {
        "sample_size": 256,
        "in_channels": size("input_blocks.0.0.weight")[1],
        "out_channels": size("out.2.weight")[0],
        "layers_per_block": per_level - 1,
        "block_out_channels": tuple(channels),
        "down_block_types": ["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attends)],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": num_head_channels,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "norm_eps": 1e-5,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def _convert(value: torch.Tensor, ours: str, part: str, num_head_channels: int) -> dict[str, torch.Tensor]:
    value = value.float()
    if ours.endswith(".to_out.0") and part == "weight":
        return {f"{ours}.{part}": value.flatten(1)}  # a 1 x 1 convolution is a linear layer
    if ".attentions." not in ours or ours.endswith((".group_norm", ".to_out.0")):
        return {f"{ours}.{part}": value}
    rows, columns = len(value) if value.ndim else 0, value.shape[1:2]
    if not rows or rows % (3 * num_head_channels):
        return {f"{ours}.qkv.{part}": value}  # reported as not used
    heads = value.reshape(-1, 3, num_head_channels, *columns)  # the legacy order: q, k, v of head after head
    parts = zip("qkv", heads.unbind(1), strict=True)
    return {f"{ours}.to_{which}.{part}": tensor.reshape(rows // 3, *columns) for which, tensor in parts}
