"""What `difal.prepare` has to know of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from difal.errors import DataError


class Entry(NamedTuple):
    """A picture and its mask: the name it gets, and the two files."""

    id: str
    image: Path
    mask: Path


def stretch(picture: Image.Image, size: int, nearest: bool) -> Image.Image:
    """size x size pixels, whatever the aspect ratio was."""
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return picture if picture.size == (size, size) else picture.resize((size, size), how)


@dataclass(frozen=True)
class Source:
    """A public data set.

    Attributes:
        name, title: in commands and in prose.
        classes: by class id.
        colors: in which the classes are usually drawn; None where there is no custom.
        layout: what the unpacked archives look like.
        urls: where to get them.
        find: from the source folder to the entries of "train" and "test"; raises DataError where the layout is another.
        read_mask: from a mask file to (H, W) uint8 class ids, 255 void.
        images: images of each split, where known.
        shares: known shares of the pixels, by split and class.
        shape: makes a picture or mask (nearest) size x size.
    """

    name: str
    title: str
    classes: Sequence[str]
    layout: str
    urls: Sequence[str]
    find: Callable[[Path], dict[str, list[Entry]]]
    read_mask: Callable[[Path], np.ndarray]
    colors: Sequence[tuple[int, int, int]] | None = None
    images: dict[str, int] = field(default_factory=dict)
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    shape: Callable[[Image.Image, int, bool], Image.Image] = stretch

    def expected(self) -> str:
        """For errors: the layout and where to get it."""
        lines = ["  " + line for line in self.layout.strip().splitlines()]
        return "\n".join([f"Expected of {self.title}:", *lines, "from", *(f"  {url}" for url in self.urls)])

    def read(self, entry: Entry) -> tuple[Image.Image, np.ndarray]:
        try:
            with Image.open(entry.image) as picture:
                image = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{entry.image} cannot be read ({error}); unpack the archive again") from None
        return image, self.read_mask(entry.mask)


def read_ids(path: Path) -> np.ndarray:
    """(H, W) of a PNG whose pixels are ids; its palette, if it has one, is ignored."""
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "I", "I;16"):
                raise DataError(f"{path} has channels {'+'.join(picture.getbands())}; a mask of ids has one")
            return np.asarray(picture).astype(np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read ({error}); unpack the archive again") from None


def paired(images: Sequence[Path], mask_of: Callable[[Path], Path], id_of: Callable[[Path], str]) -> list[Entry]:
    """Entries in the order of their names.

    Raises:
        DataError: a picture has no mask, or two have one name.
    """
    entries = sorted(Entry(id_of(path), path, mask_of(path)) for path in images)
    missing = [entry for entry in entries if not entry.mask.is_file()]
    if missing:
        raise DataError(
            f"{missing[0].image} has no mask {missing[0].mask} ({len(missing)} of {len(entries)} pictures lack theirs)"
        )
    for one, other in pairwise(entries):
        if one.id == other.id:
            raise DataError(f"{one.image} and {other.image} have one name")
    return entries


def first_folder(source: Path, *names: str, needs: Sequence[str]) -> Path | None:
    """The first of source and the folders `names` in it in which all of `needs` exist."""
    for folder in (source, *(source / name for name in names)):
        if all((folder / need).exists() for need in needs):
            return folder
    return None
