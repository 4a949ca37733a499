"""Settings by name: `paper/...` as the paper has them, `released/...` with what the authors' code does otherwise.

Each is a YAML file of this folder; its first comment line is its line in the listing.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from difal.config import Config, check_keys, read_yaml
from difal.errors import ConfigError

FOLDER = Path(__file__).parent
# The folders that the presets name, and the checkpoints of which they are made.
CHECKPOINTS = {
    "encoders/imagenet256": "256x256_diffusion_uncond.pt",
    "encoders/lsun_bedroom": "lsun_bedroom.pt",
}
URL = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"


def presets() -> dict[str, str]:
    """Every preset's name and one line about it.

    Example:
        >>> "paper/camvid" in presets()
        True
    """
    files = sorted(FOLDER.glob("*/*.yaml"))
    return {
        path.relative_to(FOLDER).with_suffix("").as_posix(): path.read_text().partition("\n")[0].lstrip("# ")
        for path in files
    }


def read_preset(name: str) -> dict[str, Any]:
    """The settings of a preset.

    Raises:
        ConfigError: there is none of this name; names those there are.
    """
    known = presets()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"`preset` must be one of {', '.join(known)}, got {name!r}{hint}")
    return read_yaml(FOLDER / f"{name}.yaml")


def make_config(
    file: str | Path | None = None, overrides: dict[str, Any] | None = None, preset: str | None = None
) -> Config:
    """Defaults, then the preset, then the YAML file, then the overrides."""
    return Config(**given_values(file, overrides, preset))


def given_values(
    file: str | Path | None = None, overrides: dict[str, Any] | None = None, preset: str | None = None
) -> dict[str, Any]:
    """The settings that preset, YAML file and overrides give; the others have their defaults."""
    values = {} if preset is None else read_preset(preset)
    values |= {} if file is None else read_yaml(file)
    return {**values, **check_keys(overrides or {}, "the overrides")}


def check_encoder(encoder: str) -> None:
    """Raise ConfigError where a preset's encoder is not made yet; the message has the commands that make it."""
    checkpoint = CHECKPOINTS.get(encoder)
    if checkpoint and not Path(encoder).is_dir():
        raise ConfigError(
            f"there is no folder {encoder}, the preset's encoder; name another by --encoder, or make it:\n"
            f"  fetch   {URL}{checkpoint} (2.2 GB)\n"
            f"  then    difal encode --encoder {checkpoint} --convert {encoder}"
        )
