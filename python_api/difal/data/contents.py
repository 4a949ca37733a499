"""What image files hold, by digest: how a feature or a prediction is known to be of a file as it is now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difal.data.base import FileSplit, Split
from difal.files import digest_file
from difal.threads import in_order

Contents = dict[str, list]  # of an image's name: bytes, time of the last change in ns, digest


def contents(split: Split | None, masks: bool = False, known: Mapping[str, Any] | None = None) -> Contents:
    """The digest of each image, or mask, of a split of files; empty for others.

    Args:
        split: the images.
        masks: the masks' files instead of the images'.
        known: what an earlier call gave; a file that has its size and time of change is not read again.

    A file that cannot be read has no digest; `Split.look` says why.
    """
    files = (split.masks if masks else split.images) if isinstance(split, FileSplit) else None
    if split is None or not files:
        return {}
    known = known or {}

    def one(name: str, path: Path) -> list:
        try:
            facts = path.stat()
            stamp = [facts.st_size, facts.st_mtime_ns]
            return list(known[name]) if known.get(name, [])[:2] == stamp else [*stamp, digest_file(path)]
        except OSError:
            return [0, 0, None]

    pairs = list(zip(split.ids, files, strict=True))
    return dict(zip(split.ids, in_order(lambda pair: one(*pair), pairs), strict=True))


def changed(before: Mapping[str, Any], now: Contents) -> list[str]:
    """The names that are in both, with other bytes."""
    return [name for name, (_, _, found) in now.items() if name in before and before[name][2] != found]


def digests(of: Contents) -> list:
    """Name and digest of each."""
    return [[name, found] for name, (_, _, found) in of.items()]
