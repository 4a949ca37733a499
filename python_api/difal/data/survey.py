"""Every image and mask looked at before any work: what there is, what is not used, and what cannot be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from difal.data.base import IGNORE, Data, Look, Split
from difal.data.contents import Contents, contents, digests
from difal.errors import DataError
from difal.files import digest, read_json, write_json
from difal.threads import in_order

SHOWN = 10
MOSTLY_VOID = 0.5  # share of a pool's pixels


@dataclass
class Survey:
    """What a look at all images found: `lines` for people, `shapes` (H, W) of the pool's images as they are read."""

    lines: list[str] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    digest: str = ""
    files: dict[str, Contents] = field(default_factory=dict)  # "pool", "pool masks", "test", "test masks"

    def write(self, path: Path) -> None:
        shapes = [list(shape) for shape in self.shapes]
        write_json(path, {"digest": self.digest, "lines": self.lines, "shapes": shapes, "files": self.files})


def survey(data: Data, mask_check: str = "stop", kept: Path | None = None) -> Survey:
    """Look at every image and mask.

    Args:
        data: the pool and the test set.
        mask_check: "stop" where a class that the user named is in no mask, or the pool is mostly void; or "accept".
        kept: a file to which an earlier survey was written; where it is of the same files, nothing is looked at.

    Raises:
        DataError: names the files that cannot be used, or says what is wrong with the masks, and the cure.
    """
    before = kept_survey(kept)
    files = _files(data, before.files)
    own = _digest(data, mask_check, files)
    if before.digest == own:
        return Survey(before.lines, before.shapes, own, files)
    looks = look_at(data.train, "the pool's images")
    tests = [] if data.test is None else look_at(data.test, "the test images")
    if not looks:
        return Survey([f"pool: {len(data.train)} images of {data.name}"], [], own, files)
    lines = [
        f"pool: {described(data.train, looks)}",
        *([f"test: {described(data.test, tests)}"] if data.test is not None and tests else []),
        *_ranges(data.train),
        *unused(data.train, looks),
        *(f"left out: {line}" for line in data.left_out),
    ]
    counts = [look.counts for look in looks if look.counts is not None]
    if counts:
        lines.append(f"masks: {shares(np.sum(counts, 0), data.classes)}")
    if mask_check == "stop":
        _check_masks(data, looks, tests)
    size = data.train.size
    return Survey(lines, [(size, size) if size else read_shape(look) for look in looks], own, files)


def kept_survey(path: Path | None) -> Survey:
    """The survey that was written to a file; an empty one where there is none."""
    found = read_json(path) if path is not None and path.is_file() else None
    if not isinstance(found, dict):
        return Survey()
    shapes = [(height, width) for height, width in found.get("shapes", [])]
    return Survey(found.get("lines", []), shapes, found.get("digest", ""), found.get("files", {}))


def look_at(split: Split, name: str) -> list[Look]:
    """A look at each image and mask of a split; none where they are made and not read.

    Raises:
        DataError: names the files that cannot be used. A pass over the encoder takes long, and features belong to a
            pool as it was: taking an image out halfway means to begin again.
    """
    images = range(len(split))
    found = list(tqdm(in_order(split.look, images), f"checking {name}", len(images), leave=False, unit="image"))
    looks = [look for look in found if look is not None]
    faults = [look.fault for look in looks if look.fault]
    if len(faults) == 1:
        raise DataError(faults[0])
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise DataError("\n  ".join([f"{len(faults)} of {len(split)} images cannot be used:", *faults[:SHOWN], *more]))
    return looks


def shares(counts: np.ndarray, classes: Sequence[str]) -> str:
    """The share of pixels of each class, and of void."""
    total = max(1, int(counts.sum()))
    named = [(name, counts[i]) for i, name in enumerate(classes)] + [("void", counts[IGNORE])]
    return ", ".join(f"{name} {100 * count / total:.1f} %" for name, count in named)


def _files(data: Data, known: dict[str, Contents]) -> dict[str, Contents]:
    parts = (("pool", data.train), ("test", data.test))
    files = {}
    for name, split in parts:
        files[name] = contents(split, False, known.get(name))
        files[f"{name} masks"] = contents(split, True, known.get(f"{name} masks"))
    return files


def _digest(data: Data, mask_check: str, files: dict[str, Contents]) -> str:
    splits = [split.fingerprint() for split in (data.train, data.test) if split is not None]
    values = data.values.text() if data.values else None
    found = {name: digests(of) for name, of in files.items()}
    return digest([splits, found, list(data.classes), values, mask_check, data.left_out])


def described(split: Split, looks: Sequence[Look]) -> str:
    """How many images, of which kinds and sizes."""
    counts = Counter(look.kind for look in looks)
    kinds = ", ".join(f"{count} {kind}" if len(counts) > 1 else kind for kind, count in counts.most_common())
    shapes = sorted({look.shape for look in looks}, key=lambda shape: (shape[0] * shape[1], shape))
    sizes = " to ".join(f"{width} x {height}" for height, width in dict.fromkeys((shapes[0], shapes[-1])))
    large = [look.reduced for look in looks if look.reduced > 1]
    smallest = f"1/{min(large)} to 1/{max(large)}" if len(set(large)) > 1 else f"1/{max(large, default=1)}"
    reduced = f"; {len(large)} of them too large to be read whole, and read at {smallest} of the side" if large else ""
    resized = f", resized to {split.size} x {split.size}" if split.size else ""
    return f"{len(looks)} images, {kinds}, {sizes} pixels{resized}{reduced}"


def _ranges(split: Split) -> list[str]:
    if split.ranges is None:
        return []
    return [f"{kind}: {low:g} is shown black and {high:g} white" for kind, (low, high) in split.ranges.items()]


def unused(split: Split, looks: Sequence[Look]) -> list[str]:
    """A line for each part of files that is not used."""
    by_what: dict[str, list[str]] = {}
    for name, look in zip(split.ids, looks, strict=True):
        for what in look.unused:
            by_what.setdefault(what, []).append(name)
    return [
        f"not used: {what} of {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in sorted(by_what.items())
    ]


def read_shape(look: Look) -> tuple[int, int]:
    """(H, W) that is read of an image, reduced if it is large."""
    height, width = look.shape
    return -(-height // look.reduced), -(-width // look.reduced)


def _check_masks(data: Data, looks: Sequence[Look], tests: Sequence[Look]) -> None:
    if not data.named_here:
        return
    pool = [look.counts for look in looks if look.counts is not None]
    both = pool + [look.counts for look in tests if look.counts is not None]
    if not both:
        return
    counts = np.sum(both, 0)
    absent = [name for i, name in enumerate(data.classes) if counts[i] == 0]
    other = "--mask-values (such as --mask-values 0,255), or a value and a name in each line of classes.txt"
    held = f"the masks hold {shares(counts, data.classes)}"
    if absent:
        if counts[IGNORE] and data.values is None:
            cure = f"where 255 is a class and not void, say which value is which class by {other}"
        else:
            cure = f"where the masks hold other values than class ids, say which is which by {other}"
        raise DataError(
            f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} in no mask: {held}. {cure[0].upper()}{cure[1:]}"
            f"; where that is as it should be, give --mask-check accept"
        )
    if pool and (share := np.sum(pool, 0)[IGNORE] / max(1, np.sum(pool))) > MOSTLY_VOID:
        raise DataError(
            f"{100 * share:.0f} % of the pool's pixels are void (255): {held}. Where 255 is a class, say so by {other}"
            f"; where so much is unlabeled, give --mask-check accept"
        )
