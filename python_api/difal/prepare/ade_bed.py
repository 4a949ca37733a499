"""ADE-Bed: bedrooms of ADE20K with 30 classes, in the archive that the paper's authors offer.

The archive's image counts are not published; they are counted and noted, not checked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from difal.errors import DataError
from difal.prepare.source import Entry, Source, first_folder, paired
from difal_kernels._npy import load_npy

CLASSES = (
    *("wall", "bed", "floor", "table", "lamp", "ceiling", "painting", "windowpane", "pillow", "curtain"),
    *("cushion", "door", "chair", "cabinet", "chest", "mirror", "rug", "armchair", "book", "sconce"),
    *("plant", "wardrobe", "clock", "light", "flower", "vase", "fan", "box", "shelf", "television"),
)


def find(source: Path) -> dict[str, list[Entry]]:
    root = first_folder(source, "real", "ADE_Bed_256/real", "ade_bedroom_30/real", needs=("train", "test"))
    splits = {name: sorted((root / name).glob("*.jpg")) if root else [] for name in ("train", "test")}
    if root is None or not all(splits.values()) or not next((root / "train").glob("*.npy"), None):
        raise DataError(f"{source} is not ADE-Bed as it is downloaded.\n{SOURCE.expected()}")
    return {
        name: paired(images, lambda path: path.with_suffix(".npy"), lambda path: path.stem)
        for name, images in splits.items()
    }


def read_mask(path: Path) -> np.ndarray:
    try:
        ids = load_npy(path)
    except (OSError, ValueError) as error:
        raise DataError(f"no plain array of class ids: {error}; unpack the archive again") from None
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() > 255:
        raise DataError(f"{path} must hold (H, W) class ids from 0 to 29, or 255, got {ids.dtype} {ids.shape}")
    return ids.astype(np.uint8)


SOURCE = Source(
    name="ade-bed",
    title="ADE-Bed",
    classes=CLASSES,
    layout="""
ADE_Bed_256/real/train/*.jpg  NAME.npy beside each: class ids 0 to 29, 255 void
ADE_Bed_256/real/test/*.jpg
""",
    urls=(
        "https://drive.google.com/file/d/1L9rOV-BgFaIHc3JFC1fjSZINtcEpkJ_8/view (ADE_Bed_256.tar.gz)",
        "https://github.com/jn-kim/two-stage-edald/tree/main/preprocess",
    ),
    find=find,
    read_mask=read_mask,
)
