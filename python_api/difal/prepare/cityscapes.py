"""Cityscapes with its 19 classes for training: 2,975 images for training, 500 for validation, the test set here.

Pictures of 2048 x 1024 pixels are halved in each direction until 256 are left of the height, and the middle square of
the width is kept, as the paper's preprocessing does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from difal.data.base import IGNORE
from difal.errors import DataError
from difal.prepare.source import Entry, Source, first_folder, paired, read_ids

# label id in *_labelIds.png, class, colour; all other ids are void
LABELS = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
LAST_ID = 33
PICTURE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


def find(source: Path) -> dict[str, list[Entry]]:
    root = first_folder(source, "Cityscapes", "cityscapes", needs=("leftImg8bit/train", "gtFine/train"))
    if root is None:
        raise DataError(f"{source} is not Cityscapes as it is downloaded.\n{SOURCE.expected()}")

    def mask_of(path: Path) -> Path:
        return root / "gtFine" / path.parent.parent.name / path.parent.name / path.name.replace(PICTURE, MASK)

    return {
        name: paired(
            sorted((root / "leftImg8bit" / split).glob(f"*/*{PICTURE}")),
            mask_of,
            lambda path: path.name.removesuffix(PICTURE),
        )
        for name, split in (("train", "train"), ("test", "val"))
    }


def read_mask(path: Path) -> np.ndarray:
    ids = read_ids(path)
    table = np.full(256, IGNORE, np.uint8)
    for class_id, (label, _, _) in enumerate(LABELS):
        table[label] = class_id
    if ids.min() < 0 or ids.max() > LAST_ID:
        raise DataError(f"{path} has the label id {ids.max()}, Cityscapes has 0 to {LAST_ID}.\n{SOURCE.expected()}")
    return table[ids]


def crop(picture: Image.Image, size: int, nearest: bool) -> Image.Image:
    """The middle square of the picture at a height of `size`."""
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    width = max(size, round(picture.width * size / picture.height))
    picture = picture.resize((width, size), how)
    left = (width - size) // 2
    return picture.crop((left, 0, left + size, size))


SOURCE = Source(
    name="cityscapes",
    title="Cityscapes",
    classes=tuple(name for _, name, _ in LABELS),
    colors=tuple(color for _, _, color in LABELS),
    layout=f"""
leftImg8bit/train/CITY/*{PICTURE}  gtFine/train/CITY/*{MASK}   2975 pictures and masks
leftImg8bit/val/CITY/*{PICTURE}    gtFine/val/CITY/*{MASK}     500
""",
    urls=(
        "https://www.cityscapes-dataset.com/downloads/ (after signing in: leftImg8bit_trainvaltest.zip, 11 GB, and "
        "gtFine_trainvaltest.zip, 241 MB)",
    ),
    find=find,
    read_mask=read_mask,
    images={"train": 2975, "test": 500},
    shape=crop,
)
