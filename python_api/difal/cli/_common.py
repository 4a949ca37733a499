"""What several commands share: exit codes, a flag for each setting, checks and listings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from difal.config import FIELDS, RENAMED, field_type

DONE, FAILED, WAITING, INTERRUPTED = 0, 1, 3, 130
EXIT_CODES = "Exit codes: 0 done, 1 failed (see the message), 2 wrong usage, 3 waiting for labels, 130 interrupted."


_HIDDEN: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}


class _Renamed(argparse.Action):
    """Stores the value of a flag's earlier name, and says what the flag is called now."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(f"{option_string} is --{self.dest.replace('_', '-')} now", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_settings(
    parser: argparse.ArgumentParser,
    names: Iterable[str],
    preset: bool = True,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """Add a flag for each setting, in the setting's group; only flags that are given reach the namespace.

    Args:
        parser: gets the flags.
        names: the settings.
        preset: whether there is a flag `--preset`.
        defaults: what the help says in place of a setting's default, for commands that have another.
    """
    if preset:
        parser.add_argument("--preset", metavar="NAME", help="settings by name, which --config and flags override")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings, which flags override")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name in names:
        item, (kind, _) = FIELDS[name], field_type(name)
        group = item.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        text = item.metadata["help"]
        default = (defaults or {}).get(name, item.default)
        if default not in (None, "") and "[" not in text:
            text += f" [{default}]"
        choices = item.metadata.get("choices")
        for old in (old for old, new in RENAMED.items() if new == name):
            flag = f"--{old.replace('_', '-')}"
            groups[group].add_argument(flag, dest=name, type=kind, action=_Renamed, **_HIDDEN)
        groups[group].add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            choices=choices,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            metavar=None if choices else kind.__name__.upper().replace("STR", "TEXT"),
        )


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that flags gave."""
    return {name: value for name, value in vars(args).items() if name in FIELDS and value is not None}


def check_device(name: str) -> None:
    """Raise ValueError where torch cannot compute on the device `name`, before anything is written."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"torch knows no --device {name}; it can use {', '.join(usable_devices())} here") from None
    try:
        works = device.type != "meta" and torch.zeros(1, device=device).item() == 0
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):  # torch without CUDA fails an assertion
        works = False
    if not works:
        raise ValueError(f"torch cannot use --device {name} here; it can use {', '.join(usable_devices())}")


def usable_devices() -> list[str]:
    """The devices that torch can compute on."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    for kind in ("mps", "xpu"):
        module = getattr(torch.backends if kind == "mps" else torch, kind, None)
        if module is not None and module.is_available():
            found.append(kind)
    return ["cpu", *found]


def listing(lines: dict[str, str], indent: str = "") -> str:
    """Format names and their descriptions in two columns."""
    width = max(map(len, lines))
    return "\n".join(f"{indent}{name:{width}}  {line}" for name, line in lines.items())
