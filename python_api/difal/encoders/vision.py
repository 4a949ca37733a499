"""Hidden states of a vision transformer, such as DINOv2: an encoder without diffusion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from difal.encoders.base import SETTINGS, hash_tensors, load_complete, plain_settings, read_object
from difal.encoders.clean import CleanEncoder, normalise
from difal.encoders.diffusion import _distinct
from difal.encoders.registry import FolderKind, register

PROCESSOR = "preprocessor_config.json"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which such networks are trained with


def need_transformers(what: str):
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{what} needs transformers; pip install 'difal-kernels[transformers]'") from error
    return transformers


class VisionEncoder(CleanEncoder):
    """Patch tokens of a vision transformer.

    The network has no noise of its own, so DALD perturbs its input, x + noise_level * eps: standard normal noise eps
    per pixel, times the noise level, in the units of an image in [-1, 1]. Noise sample 0, which gives the features, is
    zero. Each noise level is a pass, and stands where a timestep does.

    Args:
        model: a transformers vision model with `hidden_states`, such as `Dinov2Model`; put in evaluation mode, frozen.
        layers: hidden states to keep, 0 the embeddings, the last the last layer's; default: four, evenly spaced.
        noise_levels: standard deviations of the input noise, at least 0, one pass each.
        mean, std: of the colours, in [0, 1], by which the network's input is normalised.
        resolution: shorter side that larger images are shrunk to; both sides are rounded to a multiple of the patch.

    Raises:
        TypeError: `model` has no patches or layers to read.
        ValueError: a layer does not exist, a noise level is negative.

    References:
        Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024 (arXiv 2304.07193).
    """

    thread_safe = True

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int] | None = None,
        noise_levels: Sequence[float] = (0.1,),
        *,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        resolution: int | None = 518,
    ):
        config = getattr(model, "config", None)
        depth, patch = getattr(config, "num_hidden_layers", None), getattr(config, "patch_size", None)
        if not isinstance(model, nn.Module) or not isinstance(depth, int) or not isinstance(patch, int):
            raise TypeError(f"`model` must be a transformers vision transformer, got {type(model).__name__}")
        if layers is None:
            layers = sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)})
        self.layers = _distinct(layers, "layers", depth + 1, f"the model has {depth} layers above its embeddings")
        self.noise_levels = tuple(map(float, noise_levels))
        if not self.noise_levels or not all(0 <= level < float("inf") for level in self.noise_levels):
            raise ValueError(f"`noise_levels` must be finite numbers of at least 0, got {noise_levels}")
        super().__init__(timesteps=range(len(self.noise_levels)), resolution=resolution, stride=patch)
        self.model: Any = model.eval().requires_grad_(False)  # transformers' models differ
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self._norm: nn.Module = getattr(model, "layernorm", None) or nn.Identity()

    @property
    def channels(self) -> tuple[int, ...]:
        return (self.model.config.hidden_size,) * len(self.layers) * len(self.noise_levels)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def activations(self, images: torch.Tensor, noise: torch.Tensor, timestep: int) -> list[torch.Tensor]:
        noisy = images.float() + self.noise_levels[timestep] * noise.float()
        pixels = normalise(noisy, self.mean, self.std)
        height, width = (side // self.stride for side in images.shape[2:])
        states = self.model(pixels.to(self.model.dtype), output_hidden_states=True).hidden_states
        maps = []
        for layer in self.layers:
            tokens = self._norm(states[layer])[:, -height * width :]  # class and register tokens come first
            maps.append(tokens.transpose(1, 2).unflatten(2, (height, width)))
        return maps

    def fingerprint(self) -> str:
        """Twelve hex digits that change with weights, network and settings."""
        found = hashlib.sha256(repr((self._settings(), plain_settings(self.model.config.to_dict()))).encode())
        hash_tensors(found, self.model.state_dict())
        return found.hexdigest()[:12]

    def _settings(self) -> dict:
        names = ("layers", "noise_levels", "mean", "std", "resolution")
        return {name: getattr(self, name) for name in names}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model (safetensors) and settings into a folder that `load_encoder` reads."""
        self.model.save_pretrained(folder)
        (Path(folder) / SETTINGS).write_text(json.dumps(self._settings()) + "\n", encoding="utf-8")


def load_vision(
    folder: Path, network: Path, *, device: Any, dtype: torch.dtype | None, **settings: Any
) -> VisionEncoder:
    """A transformers model of `network`; no code of the folder is run."""
    transformers = need_transformers(f"`name`: the model in {network}")
    # A pooler comes after the hidden states, and checkpoints of classifiers have none.
    options = {"trust_remote_code": False, "dtype": dtype or torch.float32}
    model = load_complete(transformers.AutoModel, network, "model", unused="pooler.", **options)
    processor = network / PROCESSOR
    if processor.is_file():
        values = read_object(processor)
        known = {
            ours: values[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in values
        }
        settings = {**known, **settings}
    return VisionEncoder(model.to(device or "cpu"), **settings)


register(
    FolderKind(
        library="transformers",
        recognises=lambda config: "_class_name" not in config and "model_type" in config,
        weights="model",
        encoder=VisionEncoder,
        load=load_vision,
        files=lambda folder, network: [
            *sorted(network.glob("model*.safetensors*")),
            network / "config.json",
            folder / SETTINGS,
            network / PROCESSOR,
        ],
        version="noise sample 0 is clean",
    )
)
