"""From a name to an encoder: "tiny", a diffusers folder, or a hub id."""

from __future__ import annotations

import hashlib
import inspect
import re
from pathlib import Path
from typing import Any

import torch

from difal.encoders.base import BaseEncoder, load_complete, read_object
from difal.encoders.diffusion import SETTINGS, DiffusionEncoder
from difal.encoders.latent import PROMPT, LatentDiffusionEncoder, empty_prompt
from difal.encoders.vision import VisionEncoder, load_vision

EMBEDDED = {"tiny": Path(__file__).parent / "tiny"}
UNETS = ("UNet2DModel", "UNet2DConditionModel")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = [
    *("*config.json", "model_index.json", SETTINGS, PROMPT, "tokenizer/*", "*.safetensors.index.json"),
    *("*diffusion_pytorch_model.safetensors", "*diffusion_pytorch_model-*.safetensors", "*model.safetensors"),
]


def load_encoder(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> BaseEncoder:
    """Load an encoder by name, by folder or from the Hugging Face hub.

    Args:
        name: "tiny", the encoder that comes with this package; or a folder that `save_pretrained` wrote, of a
            diffusers UNet2DModel, DDPMPipeline or Stable Diffusion pipeline, of a transformers vision model such
            as DINOv2, or of an encoder; or a hub id such as "google/ddpm-bedroom-256". Weights must be safetensors.
        device: where to put the network; default: the CPU.
        dtype: of its weights; default: float32.
        **settings: of the encoder's class, such as `blocks`, `timesteps`, `resolution` and `autocast` of
            `DiffusionEncoder`; where not given, as the folder says in `difal_encoder.json`, else the defaults.

    Returns:
        A `DiffusionEncoder`, `LatentDiffusionEncoder` or `VisionEncoder`, by what the folder holds.

    Raises:
        FileNotFoundError: no such folder, or the hub has no such model or cannot be reached.
        ImportError: the model needs transformers, which is not installed.
        ValueError: the folder does not hold such a model with safetensors weights.

    Example:
        >>> load_encoder("tiny", timesteps=(50,)).timesteps
        (50,)
    """
    folder = _folder(name)
    network = _network(folder, name)
    kind = _kind(network)
    if (folder / SETTINGS).is_file():
        settings = {**_settings(folder / SETTINGS, kind), **settings}
    if kind not in UNETS:
        return load_vision(network, device, dtype, settings)
    from diffusers import DDPMScheduler

    schedules = _schedules(folder)
    for path in schedules[:1]:
        read_object(path)
    scheduler = DDPMScheduler.from_pretrained(str(schedules[0].parent)) if schedules else None
    unet = _load(kind, network, device, dtype)
    if kind == "UNet2DModel":
        return DiffusionEncoder(unet, scheduler, **settings)
    vae = _load("AutoencoderKL", folder / "vae", device, dtype)
    return LatentDiffusionEncoder(unet, vae, empty_prompt(folder), scheduler, **settings)


def _load(kind: str, folder: Path, device, dtype):
    """A diffusers model."""
    import diffusers

    model = load_complete(
        getattr(diffusers, kind), folder, kind, low_cpu_mem_usage=False, torch_dtype=dtype or torch.float32
    )
    return model.to(device or "cpu")


def _settings(path: Path, kind: str | None) -> dict[str, Any]:
    """What `save_pretrained` of an encoder wrote."""
    makers = {"UNet2DModel": DiffusionEncoder, "UNet2DConditionModel": LatentDiffusionEncoder}
    known = inspect.signature(makers.get(kind, VisionEncoder)).parameters
    settings = read_object(path)
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(f"`name`: {path} has the unknown setting {unknown[0]!r}; the settings are those of the class")
    return settings


def fingerprint(name: str | Path) -> str:
    """Twelve hex digits that change with the files `load_encoder` reads: weights, network, schedule, settings.

    Raises:
        FileNotFoundError, ValueError: as `load_encoder`.
    """
    folder = _folder(name)
    network = _network(folder, name)
    weights = sorted(network.glob("diffusion_pytorch_model*.safetensors*"))
    others = [network / "config.json", *_schedules(folder)[:1], folder / SETTINGS]
    kind = _kind(network)
    if kind not in UNETS:
        weights = sorted(network.glob("model*.safetensors*"))
        others.append(network / "preprocessor_config.json")
    elif kind != "UNet2DModel":
        weights += sorted((folder / "vae").glob("diffusion_pytorch_model*.safetensors*"))
        text = (
            [folder / PROMPT]
            if (folder / PROMPT).is_file()
            else sorted((folder / "text_encoder").glob("*.safetensors"))
        )
        others += [folder / "vae" / "config.json", *text]
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
        raise ValueError(
            f"`name` must be a folder that diffusers' save_pretrained wrote, got the file {path}; "
            f"`difal encode --encoder {path.name} --convert FOLDER` makes one of a guided-diffusion checkpoint"
        )
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


def _kind(network: Path) -> str | None:
    """What config.json says the network is: a diffusers class, or a transformers model type."""
    values = read_object(network / "config.json")
    return values.get("_class_name") or values.get("model_type")


def _network(folder: Path, name: str | Path) -> Path:
    """Where the network's files are, checked."""
    whole = folder
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    config = folder / "config.json"
    if not config.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"`name`: {folder} has no config.json of a UNet2DModel (found: {found}); "
            f"write the folder with unet.save_pretrained(folder)"
        )
    kind = _kind(folder)
    if kind not in UNETS and "_class_name" in read_object(config):
        raise ValueError(f"`name`: {config} describes a {kind}, but this loads {' or '.join(UNETS)}")
    stem = "diffusion_pytorch_model" if kind in UNETS else "model"
    if not any(folder.glob(f"{stem}*.safetensors")):
        raise ValueError(
            f"`name`: {folder} has no {stem}.safetensors (pickled weights are not read); "
            f"convert it with {'UNet2DModel' if kind in UNETS else 'AutoModel'}"
            f".from_pretrained(...).save_pretrained(folder)"
        )
    if kind == "UNet2DConditionModel" and not (whole / "vae" / "config.json").is_file():
        raise ValueError(
            f"`name`: {whole} holds a {kind} without vae/; a latent UNet needs the pipeline's whole folder, "
            f"as StableDiffusionPipeline.save_pretrained writes it"
        )
    return folder
