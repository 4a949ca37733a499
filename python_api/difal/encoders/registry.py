"""Encoders by name, and the kinds of encoder that a folder can hold; adding one is adding a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difal.encoders.base import BaseEncoder


@dataclass(frozen=True)
class NamedEncoder:
    """An encoder that needs no folder.

    Attributes:
        name: what `--encoder` takes.
        summary: a line about it.
        load: called with `device`, `dtype` and settings of the class; raises ImportError where a package is missing.
        fingerprint: twelve hex digits that change with weights and settings, without loading the network.
    """

    name: str
    summary: str
    load: Callable[..., BaseEncoder]
    fingerprint: Callable[[], str]


@dataclass(frozen=True)
class FolderKind:
    """Encoders that a folder with a `config.json` describes.

    Attributes:
        library: whose layout it is, for messages.
        recognises: whether a `config.json` with these values is one.
        weights: stem of the weight files, which are safetensors.
        encoder: the class, whose arguments after the first are the settings in `difal_encoder.json`.
        load: called with the folder, the folder of the network in it, `device`, `dtype` and the settings.
        files: of the folder and the network's folder: the files besides weights, `config.json` and settings that decide
            what the encoder computes.
        version: changes with the features that this package computes out of the same files.
        unfit: why a network with this `config.json` cannot be an encoder, or None.
    """

    library: str
    recognises: Callable[[dict[str, Any]], bool]
    weights: str
    encoder: type[BaseEncoder]
    load: Callable[..., BaseEncoder]
    files: Callable[[Path, Path], Iterable[Path]]
    version: str = ""
    unfit: Callable[[Mapping[str, Any]], str | None] = lambda config: None


NAMED: dict[str, NamedEncoder] = {}
KINDS: list[FolderKind] = []


def register(entry: NamedEncoder | FolderKind) -> None:
    """Have `load_encoder` know a name or a kind of folder."""
    if isinstance(entry, NamedEncoder):
        NAMED[entry.name] = entry
    else:
        KINDS.append(entry)


def digest_of(files: Iterable[Path], settings: str = "") -> str:
    """Twelve hex digits that change with the files' names, sizes and bytes, and with `settings`."""
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    found.update(settings.encode())
    return found.hexdigest()[:12]
