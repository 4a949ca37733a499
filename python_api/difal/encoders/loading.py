"""From a name to an encoder: "tiny", a diffusers folder, or a hub id."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from difal.encoders.diffusion import SETTINGS, DiffusionEncoder

EMBEDDED = {"tiny": Path(__file__).parent / "tiny"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ["*config.json", "model_index.json", SETTINGS, "*.safetensors"]


def load_encoder(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> DiffusionEncoder:
    """Load an encoder by name, by folder or from the Hugging Face hub.

    Args:
        name: "tiny", the encoder that comes with this package; or a folder written by diffusers'
            `save_pretrained` (of a UNet2DModel, of a DDPMPipeline, or of an encoder); or a hub id such as
            "google/ddpm-bedroom-256". Weights must be safetensors.
        device: where to put the network; default: the CPU.
        dtype: of its weights; default: float32.
        **settings: `blocks`, `timesteps`, `resolution`, `autocast` of `DiffusionEncoder`; where not given, as
            the folder says in `difal_encoder.json`, else the defaults of that class.

    Returns:
        A `DiffusionEncoder`.

    Raises:
        FileNotFoundError: no such folder, or the hub has no such model or cannot be reached.
        ValueError: the folder does not hold a UNet2DModel with safetensors weights.

    Example:
        >>> load_encoder("tiny", timesteps=(50,)).timesteps
        (50,)
    """
    from diffusers import DDPMScheduler, UNet2DModel

    folder = _folder(name)
    network = _network(folder, name)
    try:
        unet = UNet2DModel.from_pretrained(
            str(network), use_safetensors=True, low_cpu_mem_usage=False, torch_dtype=dtype or torch.float32
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"`name`: the UNet in {network} could not be loaded: {error}") from error
    for parameter in unet.parameters():  # out of the file's mapping: unaligned weights change the last bits
        parameter.data = parameter.data.clone()
    schedules = _schedules(folder)
    scheduler = DDPMScheduler.from_pretrained(str(schedules[0].parent)) if schedules else DDPMScheduler()
    if (folder / SETTINGS).is_file():
        settings = {**json.loads((folder / SETTINGS).read_text(encoding="utf-8")), **settings}
    return DiffusionEncoder(unet.to(device or "cpu"), scheduler, **settings)


def fingerprint(name: str | Path) -> str:
    """Twelve hex digits that change with the files `load_encoder` reads: weights, network, schedule, settings.

    Raises:
        FileNotFoundError, ValueError: as `load_encoder`.
    """
    folder = _folder(name)
    network = _network(folder, name)
    weights = sorted(network.glob("diffusion_pytorch_model*.safetensors*"))
    others = [network / "config.json", *_schedules(folder)[:1], folder / SETTINGS]
    found = hashlib.sha256()
    for path in (*weights, *(path for path in others if path.is_file())):
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    return found.hexdigest()[:12]


def _schedules(folder: Path) -> list[Path]:
    places = (folder / "scheduler", folder)
    return [place / "scheduler_config.json" for place in places if (place / "scheduler_config.json").is_file()]


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
        raise ValueError(f"`name` must be a folder that diffusers' save_pretrained wrote, got the file {path}")
    if isinstance(name, Path) or not HUB_ID.fullmatch(name):
        raise FileNotFoundError(
            f"`name`: there is no folder {str(name)!r}; give {', '.join(map(repr, EMBEDDED))}, "
            f"a folder that diffusers' save_pretrained wrote, or a hub id such as 'google/ddpm-bedroom-256'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:  # no such model, no permission, no network
        raise FileNotFoundError(
            f"`name`: {name!r} is no folder here and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}); check spelling and network, or fetch it elsewhere and give its folder"
        ) from error


def _network(folder: Path, name: str | Path) -> Path:
    """Where the network's files are, checked."""
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    config = folder / "config.json"
    if not config.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"`name`: {folder} has no config.json of a UNet2DModel (found: {found}); "
            f"write the folder with unet.save_pretrained(folder)"
        )
    kind = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
    if kind != "UNet2DModel":
        raise ValueError(f"`name`: {config} describes a {kind}, but this loads an unconditional UNet2DModel")
    if not any(folder.glob("diffusion_pytorch_model*.safetensors")):
        raise ValueError(
            f"`name`: {folder} has no diffusion_pytorch_model.safetensors (pickled weights are not read); "
            f"convert it with UNet2DModel.from_pretrained(...).save_pretrained(folder)"
        )
    return folder
