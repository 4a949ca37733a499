"""Decoder activations of a latent diffusion UNet: Stable Diffusion 1.x and its like, with the empty prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from difal.encoders.base import hash_tensors, load_complete
from difal.encoders.diffusion import (
    DiffusionEncoder,
    load_model,
    load_schedule,
    settings_files,
    unfit,
    weight_files,
)
from difal.encoders.registry import FolderKind, register
from difal.encoders.vision import need_transformers
from difal.files import write_tensors

PROMPT = "empty_prompt.safetensors"  # beside unet/ and vae/: the text encoder's answer to ""


class LatentDiffusionEncoder(DiffusionEncoder):
    """`DiffusionEncoder` in the latent space of an autoencoder, conditioned on the empty prompt.

    z = scaling_factor * (mode of the autoencoder's posterior of x), then z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps
    with eps of the latents' shape. The image is encoded once for all timesteps.

    Args:
        unet: a diffusers `UNet2DConditionModel`; it is put in evaluation mode and frozen.
        vae: a diffusers `AutoencoderKL`, likewise.
        prompt: (tokens, width) or (1, tokens, width), the text encoder's hidden states for the prompt "".
        scheduler: a diffusers `DDPMScheduler`; default: Stable Diffusion's 1000 steps with scaled linear betas.
        blocks, timesteps, resolution, autocast: as in `DiffusionEncoder`; decoder blocks have its numbering.

    Raises:
        TypeError: `unet`, `vae` or `prompt` is of another kind.
        ValueError: their widths do not fit each other; a block or timestep does not exist or comes twice.

    References:
        Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        prompt: torch.Tensor,
        scheduler: Any = None,
        blocks: Sequence[int] = (2, 5, 8, 11),
        timesteps: Sequence[int] = (50, 150, 250),
        *,
        resolution: int | None = None,
        autocast: torch.dtype | None = None,
    ):
        autoencoder: Any = vae  # diffusers' classes have no types
        if not isinstance(vae, nn.Module) or not hasattr(autoencoder.config, "scaling_factor"):
            raise TypeError(f"`vae` must be a diffusers AutoencoderKL, got {type(vae).__name__}")
        if not isinstance(prompt, torch.Tensor):
            raise TypeError(f"`prompt` must be a torch.Tensor, got {type(prompt).__name__}")
        if scheduler is None:
            from diffusers import DDPMScheduler

            scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        super().__init__(unet, scheduler, blocks, timesteps, autocast=autocast)
        prompt = prompt.detach().reshape(-1, *prompt.shape[-2:])
        width, latent = self.unet.config.cross_attention_dim, self.unet.config.in_channels
        if prompt.ndim != 3 or len(prompt) != 1 or prompt.shape[-1] != width:
            raise ValueError(f"`prompt` must have shape (tokens, {width}) for this UNet, got {tuple(prompt.shape)}")
        if autoencoder.config.latent_channels != latent:
            raise ValueError(f"`vae` has {autoencoder.config.latent_channels} latent channels, the UNet takes {latent}")
        self.reduction = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        self._set_grid(resolution, self.stride * self.reduction)
        self.vae: Any = autoencoder.eval().requires_grad_(False)
        self.in_channels = int(autoencoder.config.in_channels)
        self.prompt = prompt.to(self.device, self.unet.dtype)

    def noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the noise of one image of `height` x `width` pixels at one timestep: that of its latents."""
        height, width = self.working_size(height, width)
        return (self.unet.config.in_channels, height // self.reduction, width // self.reduction)

    @torch.no_grad()
    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) images to (B, 4, h / 8, w / 8) latents."""
        with self.precision(images):
            posterior = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        return posterior.mode().float() * self.vae.config.scaling_factor

    def forward(self, noisy: torch.Tensor, steps: torch.Tensor) -> None:
        self.unet(noisy, steps, encoder_hidden_states=self.prompt.expand(len(noisy), -1, -1))

    def fingerprint(self) -> str:
        """Twelve hex digits that change with anything the maps depend on."""
        found = hashlib.sha256(super().fingerprint().encode())
        hash_tensors(found, {**self.vae.state_dict(), "prompt": self.prompt})
        return found.hexdigest()[:12]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write unet/, vae/, scheduler/, the prompt's embedding and the settings, as `load_encoder` reads them."""
        folder = Path(folder)
        self.unet.save_pretrained(folder / "unet")
        self.vae.save_pretrained(folder / "vae")
        self.scheduler.save_pretrained(folder / "scheduler")
        write_tensors(folder / PROMPT, {"prompt": self.prompt[0].float().cpu()})
        self._write_settings(folder)


def empty_prompt(folder: Path) -> torch.Tensor:
    """(tokens, width) embedding of "": from its file, else by the text encoder and the tokenizer beside it.

    Raises:
        ImportError: it has to be computed and transformers is not installed.
        ValueError: the folder has neither.
    """
    if (folder / PROMPT).is_file():
        try:
            return load_file(folder / PROMPT)["prompt"].clone()  # unaligned, it would change the maps' last bits
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"`name`: {folder / PROMPT} must hold the tensor `prompt` ({error})") from None
    if not (folder / "text_encoder").is_dir() or not (folder / "tokenizer").is_dir():
        raise ValueError(
            f"`name`: {folder} needs text_encoder/ and tokenizer/, or {PROMPT} with the tensor `prompt` (tokens, "
            f"width), the text encoder's hidden states for an empty prompt"
        )
    transformers = need_transformers("the empty prompt's embedding")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    text = load_complete(transformers.CLIPTextModel, folder / "text_encoder", "CLIPTextModel").eval()
    length = text.config.max_position_embeddings
    tokens = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return text(tokens.input_ids).last_hidden_state[0].clone()


def load_latent(folder: Path, network: Path, *, device: Any, dtype: torch.dtype | None, **settings: Any):
    """A `LatentDiffusionEncoder` of a Stable Diffusion pipeline's folder."""
    if not (folder / "vae" / "config.json").is_file():
        raise ValueError(
            f"`name`: {folder} holds a UNet2DConditionModel without vae/; a latent UNet needs the pipeline's whole "
            f"folder, as StableDiffusionPipeline.save_pretrained writes it"
        )
    unet = load_model("UNet2DConditionModel", network, device, dtype)
    vae = load_model("AutoencoderKL", folder / "vae", device, dtype)
    return LatentDiffusionEncoder(unet, vae, empty_prompt(folder), load_schedule(folder), **settings)


def latent_files(folder: Path, network: Path) -> list[Path]:
    """What decides the maps of a latent UNet in `network`."""
    vae, text = folder / "vae", [folder / PROMPT]
    if not text[0].is_file():
        text = sorted((folder / "text_encoder").glob("*.safetensors"))
    weights = [*weight_files(network), *weight_files(vae)]
    return [*weights, *settings_files(folder, network), vae / "config.json", *text]


register(
    FolderKind(
        library="diffusers",
        recognises=lambda config: config.get("_class_name") == "UNet2DConditionModel",
        weights="diffusion_pytorch_model",
        encoder=LatentDiffusionEncoder,
        load=load_latent,
        files=latent_files,
        unfit=unfit,
    )
)
