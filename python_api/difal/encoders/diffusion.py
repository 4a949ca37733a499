"""Decoder activations of a frozen unconditional diffusion UNet."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from difal.encoders.base import SETTINGS, BaseEncoder, hash_tensors, load_complete, plain_settings, read_object
from difal.encoders.registry import FolderKind, register
from difal_kernels._checks import as_int


class _Stop(Exception):
    """Raised by the last hook: what follows in the network is not needed."""


def decoder_blocks(unet: Any) -> list[tuple[nn.Module, int]]:
    """The decoder's blocks as guided-diffusion numbers them (`output_blocks`), each with its channels.

    A level of the decoder has n = layers_per_block + 1 of them. The last of a level is the output of
    `up_blocks[i]`, upsampler included; the others are `up_blocks[i].attentions[j]` where there is one, else
    `up_blocks[i].resnets[j]`. With two layers per block, 5 is `up_blocks[1]` and 12 begins `up_blocks[4]`.
    """
    blocks = []
    for level in unet.up_blocks:
        if not len(getattr(level, "resnets", ())):
            raise ValueError(f"`unet` has an up block of type {type(level).__name__}, which has no `resnets` to read")
        attentions = getattr(level, "attentions", None) or [None] * len(level.resnets)
        inner = [a if a is not None else r for a, r in zip(attentions, level.resnets, strict=True)]
        modules = [*inner[:-1], level]
        blocks += [(module, resnet.out_channels) for module, resnet in zip(modules, level.resnets, strict=True)]
    return blocks


def unfit(config: Mapping[str, Any]) -> str | None:
    """Why a UNet with this configuration cannot be an encoder: it needs more than a noisy image; None if it can."""
    if config.get("addition_embed_type"):
        named = " as Stable Diffusion XL is" if config["addition_embed_type"] == "text_time" else ""
        return (
            f"that is conditioned on more than a prompt{named} (addition_embed_type "
            f"{config['addition_embed_type']!r}); take Stable Diffusion 1.x or 2.x, or an unconditional UNet"
        )
    if config.get("num_class_embeds") or config.get("class_embed_type"):
        given = config.get("class_embed_type") or f"{config['num_class_embeds']} classes"
        return (
            f"that is class-conditional ({given}), and images to be labeled have no class yet; take an unconditional "
            f"one"
        )
    if config.get("encoder_hid_dim_type"):
        return f"that needs embeddings of an image ({config['encoder_hid_dim_type']}); take an unconditional one"
    return None


class DiffusionEncoder(BaseEncoder):
    """Decoder activations of a pre-trained diffusion UNet on x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps.

    Args:
        unet: a diffusers `UNet2DModel`; it is put in evaluation mode and frozen.
        scheduler: a diffusers `DDPMScheduler`; default: 1000 steps, linear betas from 1e-4 to 0.02.
        blocks: decoder blocks to keep, in guided-diffusion's numbering (see `decoder_blocks`).
        timesteps: noise levels t at which the network runs.
        resolution: shrink larger images to this many pixels on their shorter side before the network, both
            sides rounded to a multiple of the UNet's stride; default: never resize.
        autocast: run the network under autocast to torch.bfloat16 or torch.float16; default: do not.

    Raises:
        TypeError: `unet` is not a UNet2DModel, or a block or timestep is not an int.
        ValueError: `unet` is conditioned on more than the noisy image; a block or timestep does not exist or comes
            twice.

    Notes:
        The forward pass ends after the last block asked for. Memory: the maps of all timesteps of a batch.

    References:
        Baranchuk et al., Label-Efficient Semantic Segmentation with Diffusion Models, ICLR 2022.
        Kim et al., Diffusion-Driven Two-Stage Active Learning, NeurIPS 2025 (arXiv 2510.22229), section 3.

    Example:
        >>> import torch
        >>> from difal.encoders import load_encoder
        >>> encoder = load_encoder("tiny")
        >>> images = torch.zeros(1, 3, 64, 96)
        >>> maps = encoder.maps(images, encoder.noise(["a"], 64, 96, seed=0, draw=0))
        >>> [m.shape[1] for m in maps] == list(encoder.channels)
        True
    """

    thread_safe = True
    unet: Any
    scheduler: Any

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any = None,
        blocks: Sequence[int] = (5, 8, 12, 17),
        timesteps: Sequence[int] = (50, 150, 250),
        *,
        resolution: int | None = None,
        autocast: torch.dtype | None = None,
    ):
        if not isinstance(unet, nn.Module) or not hasattr(unet, "up_blocks"):
            raise TypeError(f"`unet` must be a diffusers UNet2DModel, got {type(unet).__name__}")
        network: Any = unet  # diffusers' classes have no types
        if (why := unfit(network.config)) is not None:
            raise ValueError(f"`unet` is one {why}")
        if scheduler is None:
            from diffusers import DDPMScheduler

            scheduler = DDPMScheduler()
        available = decoder_blocks(network)
        self.blocks = _distinct(blocks, "blocks", len(available), f"the UNet has {len(available)} decoder blocks")
        steps = scheduler.config.num_train_timesteps
        timesteps = _distinct(timesteps, "timesteps", steps, f"the scheduler has {steps} steps")
        halvings = sum(1 for level in network.down_blocks if getattr(level, "downsamplers", None))
        super().__init__(timesteps=timesteps, resolution=resolution, stride=2**halvings)
        self.unet, self.scheduler, self.autocast = network.eval().requires_grad_(False), scheduler, autocast
        self.in_channels = int(network.config.in_channels)
        self._channels = tuple(available[b][1] for b in self.blocks)
        self._taken: dict[int, dict[int, torch.Tensor]] = {}  # by Python thread: several may run the network
        for b in self.blocks:  # once and for all: hooks that come after torch.compile are ignored
            available[b][0].register_forward_hook(self._hook(b))

    def _hook(self, block: int):
        last = block == max(self.blocks)

        def keep(module, args, output):
            taken = self._taken.get(threading.get_ident())
            if taken is None:  # someone else runs the network
                return
            taken[block] = output[0] if isinstance(output, tuple) else output
            if last:
                raise _Stop

        return keep

    @property
    def channels(self) -> tuple[int, ...]:
        return self._channels * len(self.timesteps)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def precision(self, images: torch.Tensor):
        return torch.autocast(images.device.type, self.autocast) if self.autocast else nullcontext()

    def forward(self, noisy: torch.Tensor, steps: torch.Tensor) -> None:
        """Run the network; its activations reach the hooks."""
        self.unet(noisy, steps)

    @torch.no_grad()
    def activations(self, images: torch.Tensor, noise: torch.Tensor, timestep: int) -> list[torch.Tensor]:
        steps = torch.full((len(images),), timestep, dtype=torch.long, device=images.device)
        noisy = self.scheduler.add_noise(images.float(), noise.float(), steps)
        taken = self._taken[threading.get_ident()] = {}
        try:
            with self.precision(images):
                self.forward(noisy.to(self.unet.dtype), steps)
        except _Stop:
            pass
        finally:
            del self._taken[threading.get_ident()]
        return [taken[b] for b in self.blocks]

    def fingerprint(self) -> str:
        """Twelve hex digits that change with the weights, the network, the schedule and the settings."""
        settings = (self.blocks, self.timesteps, self.resolution, str(self.autocast))
        found = hashlib.sha256(
            repr((settings, *map(plain_settings, (self.unet.config, self.scheduler.config)))).encode()
        )
        hash_tensors(found, self.unet.state_dict())
        return found.hexdigest()[:12]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write UNet (safetensors), scheduler and settings into a folder that `load_encoder` reads."""
        folder = Path(folder)
        self.unet.save_pretrained(folder)
        self.scheduler.save_pretrained(folder)
        self._write_settings(folder)

    def _write_settings(self, folder: Path) -> None:
        settings = {"blocks": self.blocks, "timesteps": self.timesteps, "resolution": self.resolution}
        (folder / SETTINGS).write_text(json.dumps(settings) + "\n", encoding="utf-8")


def _distinct(values: Sequence[int], name: str, count: int, why: str) -> tuple[int, ...]:
    """`values` as a tuple of different ints in [0, count)."""
    if isinstance(values, int) or not len(values):
        raise ValueError(f"`{name}` must be a sequence of at least one int, got {values!r}")
    values = tuple(as_int(v, name) for v in values)
    if any(not 0 <= v < count for v in values):
        raise ValueError(f"`{name}` must lie in 0..{count - 1} ({why}), got {values}")
    if len(set(values)) != len(values):
        raise ValueError(f"`{name}` must differ from each other, got {values}")
    return values


def load_diffusion(folder: Path, network: Path, *, device: Any, dtype: torch.dtype | None, **settings: Any):
    """A `DiffusionEncoder` of the UNet in `network` and the noise schedule in `folder`."""
    unet = load_model("UNet2DModel", network, device, dtype)
    if unet.config.in_channels not in (1, 3):
        raise ValueError(
            f"`name`: {network} holds a UNet of {unet.config.in_channels} channels; images have three, or one where "
            f"the UNet is of grey images"
        )
    return DiffusionEncoder(unet, load_schedule(folder), **settings)


def load_model(kind: str, folder: Path, device: Any, dtype: torch.dtype | None) -> Any:
    """A diffusers model of class `kind`."""
    import diffusers

    model = load_complete(
        getattr(diffusers, kind), folder, kind, low_cpu_mem_usage=False, torch_dtype=dtype or torch.float32
    )
    return model.to(device or "cpu")


def load_schedule(folder: Path) -> Any:
    """The DDPMScheduler that the folder describes, or None."""
    from diffusers import DDPMScheduler

    for path in schedules(folder)[:1]:
        read_object(path)
        return DDPMScheduler.from_pretrained(str(path.parent))
    return None


def schedules(folder: Path) -> list[Path]:
    """The files that describe a noise schedule, the one that counts first."""
    folders = (folder / "scheduler", folder)
    return [path for path in (one / "scheduler_config.json" for one in folders) if path.is_file()]


def weight_files(network: Path) -> list[Path]:
    """The weights of a diffusers model."""
    return sorted(network.glob("diffusion_pytorch_model*.safetensors*"))


def settings_files(folder: Path, network: Path) -> list[Path]:
    """What besides the weights decides the maps of a UNet in `network`."""
    return [network / "config.json", *schedules(folder)[:1], folder / SETTINGS]


register(
    FolderKind(
        library="diffusers",
        recognises=lambda config: config.get("_class_name") == "UNet2DModel",
        weights="diffusion_pytorch_model",
        encoder=DiffusionEncoder,
        load=load_diffusion,
        files=lambda folder, network: [*weight_files(network), *settings_files(folder, network)],
        unfit=unfit,
    )
)
