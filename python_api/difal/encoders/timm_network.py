"""Any network of timm: intermediate maps of a convolutional network, or tokens of a vision transformer."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from difal.encoders.base import SETTINGS, hash_tensors, read_object
from difal.encoders.clean import CleanEncoder, normalise
from difal.encoders.registry import FolderKind, register

WEIGHTS = "model.safetensors"
MAPS = 4  # kept of a transformer, whose maps are all of one size


class TimmEncoder(CleanEncoder):
    """Intermediate maps of a timm network.

    Of a network whose stages shrink the image, such as ConvNeXt or EfficientNet, the last map of every stride from 4
    on; of a vision transformer, such as DINOv2, four layers, evenly spaced.

    Args:
        model: a timm network with `forward_intermediates`; put in evaluation mode, frozen.
        indices: which of its intermediate maps to keep, as its `feature_info` counts them; default: as above.
        noise_level: standard deviation of the noise that the samples behind DALD add to an image in [-1, 1].
        enlarge: factor by which images are resized before the network; a network of fixed input size ignores it.
        resolution: shorter side, in pixels, that no image exceeds before the network; None: any.

    Raises:
        TypeError: `model` is no such network.
        ValueError: an index does not exist or comes twice, a number is negative.

    References:
        Wightman. PyTorch Image Models. https://github.com/huggingface/pytorch-image-models
    """

    thread_safe = True

    def __init__(
        self,
        model: nn.Module,
        indices: Sequence[int] | None = None,
        *,
        noise_level: float = 0.1,
        enlarge: float = 2.0,
        resolution: int | None = 518,
    ):
        info = getattr(model, "feature_info", None)
        if not isinstance(model, nn.Module) or not hasattr(model, "forward_intermediates") or info is None:
            raise TypeError(f"`model` must be a timm network with forward_intermediates, got {type(model).__name__}")
        info = list(info)
        strides = [int(entry["reduction"]) for entry in info]
        if indices is None:
            indices = _default_indices(strides)
        if sorted(set(indices)) != list(indices) or not all(0 <= index < len(info) for index in indices):
            raise ValueError(f"`indices` must rise within 0..{len(info) - 1}, got {list(indices)}")
        for name, value in (("noise_level", noise_level), ("enlarge", enlarge)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}")
        self.indices = tuple(indices)
        self.fixed = _fixed_size(model)
        super().__init__(timesteps=(0,), resolution=resolution, stride=max(strides))
        self.model: Any = model.eval().requires_grad_(False)  # timm's networks differ
        self.noise_level, self.enlarge = float(noise_level), float(enlarge)
        self._channels = tuple(int(info[index]["num_chs"]) for index in self.indices)
        config = getattr(model, "pretrained_cfg", {})
        self.mean, self.std = (tuple(map(float, config.get(key, (0.5,) * 3))) for key in ("mean", "std"))

    @property
    def channels(self) -> tuple[int, ...]:
        return self._channels

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which the network sees an image of `height` x `width` pixels."""
        return self.fixed or super().working_size(height, width)

    @torch.no_grad()
    def activations(self, images: torch.Tensor, noise: torch.Tensor, timestep: int) -> list[torch.Tensor]:
        noisy = normalise(images.float() + self.noise_level * noise.float(), self.mean, self.std)
        dtype = next(self.model.parameters()).dtype
        return list(
            self.model.forward_intermediates(
                noisy.to(dtype), indices=list(self.indices), output_fmt="NCHW", intermediates_only=True
            )
        )

    def fingerprint(self) -> str:
        """Twelve hex digits that change with weights, network and settings."""
        found = hashlib.sha256(repr((self._settings(), self.mean, self.std)).encode())
        hash_tensors(found, self.model.state_dict())
        return found.hexdigest()[:12]

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("indices", "noise_level", "enlarge", "resolution")}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write network (safetensors, in the layout of timm's hub models) and settings for `load_encoder`."""
        need_timm("saving a timm network").models.save_for_hf(self.model, str(folder), safe_serialization=True)
        (Path(folder) / SETTINGS).write_text(json.dumps(self._settings()) + "\n", encoding="utf-8")


def _default_indices(strides: Sequence[int]) -> list[int]:
    """The last map of each stride from 4 on; where all have one stride, four evenly spaced."""
    if len(set(strides)) == 1:
        return sorted({max(1, round(len(strides) * part / MAPS)) - 1 for part in range(1, MAPS + 1)})
    return [i for i, stride in enumerate(strides) if stride >= 4 and stride not in strides[i + 1 :]]


def _fixed_size(model: nn.Module) -> tuple[int, int] | None:
    """The input size of a network that takes no other."""
    config = getattr(model, "pretrained_cfg", {})
    embedding = getattr(model, "patch_embed", None)
    if not config.get("fixed_input_size") or not getattr(embedding, "strict_img_size", True):
        return None
    height, width = getattr(embedding, "img_size", None) or config["input_size"][-2:]
    return int(height), int(width)


def need_timm(what: str):
    """The package timm; raise ImportError with the cure where it cannot be imported."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit torch
        raise ImportError(f"{what} needs timm ({error}); pip install timm") from error
    return timm


def default_hub_id(network: str) -> str:
    """The hub id of the weights that timm takes for `network` by default.

    Raises:
        ImportError: timm is not installed.
        ValueError: it has no such network, or no weights on the hub.
    """
    config = need_timm(f"`name`: timm/{network}").get_pretrained_cfg(network, allow_unregistered=True)
    if config is None or not config.hf_hub_id:
        raise ValueError(f"`name`: timm has no weights of {network!r} on the hub; `timm.list_pretrained()` names them")
    return config.hf_hub_id


def load_timm(folder: Path, network: Path, *, device: Any, dtype: torch.dtype | None, **settings: Any) -> TimmEncoder:
    """A timm network with the weights of `network`, none of them drawn at random; no code of the folder is run."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    timm = need_timm(f"`name`: the model in {network}")
    values = read_object(network / "config.json")
    name = values["architecture"]
    if not timm.is_model(name):
        raise ValueError(f"`name`: {network} holds a {name!r}, which timm {timm.__version__} does not know")
    options = dict(values.get("model_args") or {})
    maker = timm.models.model_entrypoint(name)
    classifier = {} if "num_classes" in options else {"num_classes": 0}
    overlay = {"pretrained_cfg_overlay": values.get("pretrained_cfg") or {}}
    try:
        model = timm.create_model(name, pretrained=False, **classifier, **options, **overlay)
        if _takes_any_size(model) and "dynamic_img_size" not in options:
            model = timm.create_model(name, pretrained=False, dynamic_img_size=True, **classifier, **options, **overlay)
        tensors = load_file(network / WEIGHTS)
        missing, _ = model.load_state_dict(tensors, strict=False)
    except (SafetensorError, OSError, RuntimeError, TypeError) as error:
        raise ValueError(f"`name`: the {maker.__name__} in {network} could not be loaded: {error}") from error
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise ValueError(f"`name`: the weights in {network} lack {', '.join(missing[:8])}{more}; fetch it again")
    return TimmEncoder(model.to(device or "cpu", dtype or torch.float32), **settings)


def _takes_any_size(model: nn.Module) -> bool:
    """Whether the network can be made for images of any size."""
    return "dynamic_img_size" in inspect.signature(type(model)).parameters


register(
    FolderKind(
        library="timm",
        recognises=lambda config: "architecture" in config,
        weights="model",
        encoder=TimmEncoder,
        load=load_timm,
        files=lambda folder, network: [
            *sorted(network.glob("model*.safetensors*")),
            network / "config.json",
            folder / SETTINGS,
        ],
    )
)
