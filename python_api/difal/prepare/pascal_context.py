"""Pascal-Context with 33 classes: the pictures of VOC 2010, 4,998 for training and 5,105 for validation, our test set.

The masks are the 459-class ones, MATLAB files with a `LabelMap`; the classes are 33 of them, all else is void. (The
59-class selection of the same masks is another benchmark.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from difal.data.base import IGNORE
from difal.errors import DataError
from difal.prepare.source import Entry, Source, first_folder, paired

# id among the 459, class
LABELS = (
    (2, "aeroplane"),
    (23, "bicycle"),
    (25, "bird"),
    (31, "boat"),
    (34, "bottle"),
    (45, "bus"),
    (59, "car"),
    (65, "cat"),
    (72, "chair"),
    (98, "cow"),
    (397, "table"),
    (113, "dog"),
    (207, "horse"),
    (258, "motorbike"),
    (284, "person"),
    (308, "pottedplant"),
    (347, "sheep"),
    (368, "sofa"),
    (416, "train"),
    (427, "tvmonitor"),
    (360, "sky"),
    (187, "grass"),
    (189, "ground"),
    (324, "road"),
    (44, "building"),
    (420, "tree"),
    (445, "water"),
    (259, "mountain"),
    (440, "wall"),
    (158, "floor"),
    (415, "track"),
    (220, "keyboard"),
    (68, "ceiling"),
)
LAST_ID = 459


def find(source: Path) -> dict[str, list[Entry]]:
    needs = ("JPEGImages", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt")
    voc = first_folder(source, "VOCdevkit/VOC2010", "VOC2010", needs=needs)
    masks = next(
        (folder for folder in (source / "trainval/trainval", source / "trainval") if next(folder.glob("*.mat"), None)),
        None,
    )
    if voc is None or masks is None:
        raise DataError(f"{source} is not Pascal-Context as it is downloaded.\n{SOURCE.expected()}")
    splits = {}
    for name, split in (("train", "train"), ("test", "val")):
        ids = (voc / f"ImageSets/Main/{split}.txt").read_text(errors="replace").split()
        images = [voc / "JPEGImages" / f"{one}.jpg" for one in dict.fromkeys(ids)]
        missing = [path for path in images if not path.is_file()]
        if missing:
            raise DataError(f"there is no picture {missing[0]} ({len(missing)} of {len(images)} are missing)")
        splits[name] = paired(images, lambda path: masks / f"{path.stem}.mat", lambda path: path.stem)
    return splits


def read_mask(path: Path) -> np.ndarray:
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=["LabelMap"]).get("LabelMap")
    except Exception as error:  # damaged files raise many kinds, zlib's among them
        raise DataError(f"{path} cannot be read as a MATLAB file ({error}); unpack the archive again") from None
    if found is None or found.ndim != 2 or not found.size or found.dtype.kind not in "iu":
        raise DataError(f"{path} holds no LabelMap of (H, W) ids.\n{SOURCE.expected()}")
    ids = found.astype(np.int64)
    if ids.min() < 0 or ids.max() > LAST_ID:
        raise DataError(f"{path} has the label id {ids.max()}, Pascal-Context has 1 to {LAST_ID}.\n{SOURCE.expected()}")
    table = np.full(LAST_ID + 1, IGNORE, np.uint8)
    for class_id, (label, _) in enumerate(LABELS):
        table[label] = class_id
    return table[ids]


SOURCE = Source(
    name="pascal-context",
    title="Pascal-Context",
    classes=tuple(name for _, name in LABELS),
    layout="""
VOCdevkit/VOC2010/JPEGImages/*.jpg                pictures
VOCdevkit/VOC2010/ImageSets/Main/{train,val}.txt  4998 and 5105 names
trainval/trainval/*.mat (or trainval/*.mat)       a mask each: LabelMap, ids 1 to 459
""",
    urls=(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar (pictures)",
        "https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz (masks)",
    ),
    find=find,
    read_mask=read_mask,
    images={"train": 4998, "test": 5105},
)
