"""The paper's data sets, from the layout in which each is downloaded to small pictures and masks that the loop reads.

Each data set is a small file of this folder that finds its pictures and masks and says what the ids mean; resizing,
counting, checking and writing are here. The result is

    OUT/train/NAME.png, NAME_label.png    the pool; masks hold class ids, 255 is void
    OUT/test/...                          the test set
    OUT/meta.json                         classes, colours, and how many images and pixels there are of each class

`meta.json` is written last; until then `prepare.json` says what is under way, and the same command goes on with it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from difal.data.base import IGNORE
from difal.errors import DataError
from difal.files import exclusive, read_json, write_bytes, write_json
from difal.prepare import ade_bed, camvid, cityscapes, pascal_context
from difal.prepare.source import Entry, Source
from difal.threads import in_order

SOURCES: dict[str, Source] = {one.SOURCE.name: one.SOURCE for one in (camvid, ade_bed, cityscapes, pascal_context)}
__all__ = ["SOURCES", "Entry", "Prepared", "Source", "prepare"]
SHARE_TOLERANCE = 0.25  # of a class's known share of the pixels, relative; resizing moves rare classes by some percent


@dataclass(frozen=True)
class Prepared:
    """What was made: images and pixels of each class, by split."""

    images: dict[str, int]
    pixels: dict[str, dict[str, int]]


def prepare(name: str, source: str | Path, out: str | Path, *, size: int = 256, partial_set: bool = False) -> Prepared:
    """Make the folder `out` of a public data set.

    Args:
        name: "camvid", "ade-bed", "cityscapes" or "pascal-context".
        source: the folder in which its archives were unpacked.
        out: a new or empty folder, or one that an interrupted call left.
        size: pictures become size x size pixels, bilinear, masks by the nearest pixel.
        partial_set: take what there is of the data set, whatever its counts.

    Returns:
        `Prepared`.

    Raises:
        DataError: the source is not the expected one (says what was expected and where to get it), a picture or mask
            cannot be used, counts are not those of the public data set, or `out` holds something else.
    """
    if name not in SOURCES:
        raise DataError(f"`name` must be one of {', '.join(SOURCES)}, got {name!r}")
    if size < 8:
        raise DataError(f"`size` must be at least 8, got {size}")
    what, source, out = SOURCES[name], Path(source), Path(out)
    if source.is_file():
        raise DataError(f"{source} is a file; unpack it and give the folder.\n{what.expected()}")
    if not source.is_dir():
        raise DataError(f"there is no folder {source}.\n{what.expected()}")
    splits = what.find(source)
    for split, entries in splits.items():
        if not entries:
            raise DataError(f"{source} has no images for {split}.\n{what.expected()}")
        known = what.images.get(split)
        if not partial_set and known is not None and len(entries) != known:
            raise DataError(
                f"{source} has {len(entries)} images for {split}, {what.title} has {known}; is it complete? "
                f"To go on with what there is, use --partial.\n{what.expected()}"
            )
    _begin(out, {"name": name, "source": str(source.resolve()), "size": size, "partial": partial_set})
    with exclusive(out):
        counts = {split: _make(what, entries, out / split, size, split) for split, entries in splits.items()}
        pixels = {split: _named(what, count) for split, count in counts.items()}
        if not partial_set:
            _check_shares(what, pixels)
        images = {split: len(entries) for split, entries in splits.items()}
        write_json(out / "meta.json", _meta(what, size, images, pixels))
        (out / "prepare.json").unlink()
    return Prepared(images, pixels)


def _begin(out: Path, task: dict[str, Any]) -> None:
    path = out / "prepare.json"
    if path.is_file():
        before = read_json(path)
        if before != task:
            raise DataError(f"{out} was begun as {before}, now it is {task}; delete it or give another --out")
        return
    if (out / "meta.json").is_file():
        raise DataError(f"{out} is prepared already; use it as --data {out}, or delete it first")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"`out` must be a new or empty folder, got {out}")
    write_json(path, task)


def _make(what: Source, entries: Sequence[Entry], folder: Path, size: int, split: str) -> np.ndarray:
    """Write the pictures and masks that are not there yet; (C + 1,) pixels of each class and of void."""
    folder.mkdir(parents=True, exist_ok=True)
    totals = np.zeros(len(what.classes) + 1, np.int64)
    made = in_order(partial(_one, what, folder, size), entries)
    for count in tqdm(made, f"{what.title}, {split}", total=len(entries), unit="image"):
        totals += count
    return totals


def _one(what: Source, folder: Path, size: int, entry: Entry) -> np.ndarray:
    picture, label = folder / f"{entry.id}.png", folder / f"{entry.id}_label.png"
    if label.is_file():  # written last
        with Image.open(label) as kept:
            mask = np.asarray(kept)
    else:
        image, mask = what.read(entry)
        _check_pair(what, entry, image, mask)
        shaped = what.shape(Image.fromarray(mask), size, True)
        for path, content in ((picture, what.shape(image, size, False)), (label, shaped)):
            buffer = io.BytesIO()
            content.save(buffer, "PNG")
            write_bytes(path, buffer.getvalue())
        mask = np.asarray(shaped)
    ids = np.where(mask == IGNORE, len(what.classes), mask)
    return np.bincount(ids.ravel(), minlength=len(what.classes) + 1)


def _check_pair(what: Source, entry: Entry, image: Image.Image, mask: np.ndarray) -> None:
    if mask.shape != (image.height, image.width):
        raise DataError(
            f"{entry.mask} is {mask.shape[1]} x {mask.shape[0]} pixels, its picture {entry.image} is "
            f"{image.width} x {image.height}: they do not belong together"
        )
    wrong = (mask >= len(what.classes)) & (mask != IGNORE)
    if wrong.any():
        raise DataError(
            f"{entry.mask} has the class {int(mask[wrong][0])}, {what.title} has 0 to {len(what.classes) - 1}.\n"
            + what.expected()
        )


def _named(what: Source, count: np.ndarray) -> dict[str, int]:
    return {name: int(n) for name, n in zip((*what.classes, "void"), count, strict=True)}


def _check_shares(what: Source, pixels: dict[str, dict[str, int]]) -> None:
    """Each class has about its known share of the pixels: ids that are permuted or shifted do not."""
    for split, known in what.shares.items():
        total = sum(pixels[split].values())
        for label, share in known.items():
            found = pixels[split][label] / total
            if abs(found - share) > SHARE_TOLERANCE * share:
                raise DataError(
                    f"{label} has {100 * found:.2f} % of the {split} pixels, in {what.title} {100 * share:.2f} %: the "
                    f"masks are others. To go on nevertheless, use --partial.\n{what.expected()}"
                )


def _meta(what: Source, size: int, images: dict, pixels: dict) -> dict[str, Any]:
    return {
        "name": what.title,
        "classes": list(what.classes),
        "ignore": IGNORE,
        **({} if what.colors is None else {"colors": [list(color) for color in what.colors]}),
        "size": size,
        "source": list(what.urls),
        "images": images,
        "pixels": pixels,
    }
