"""Pools of images, loaded one at a time: CamVid, a plain folder, or scenes drawn from a seed."""

from __future__ import annotations

from pathlib import Path

from difal.config import Config
from difal.data.base import IGNORE, Data, Split
from difal.data.listing import list_photographs
from difal.data.readers import open_camvid, open_folder, open_prepared
from difal.data.scenes import open_scenes
from difal.errors import DataError

__all__ = ["IGNORE", "Data", "Split", "open_config_data", "open_data"]

LAYOUTS = """  scenes[:TRAIN,TEST,SEED]       scenes drawn from a seed, 256 x 256, nothing to download
  ROOT/train ROOT/trainannot ROOT/test ROOT/testannot    CamVid as it is published
  ROOT/train/NAME.jpg ROOT/train/NAME_label.png ROOT/test/... ROOT/meta.json    prepared data
  ROOT/images [ROOT/masks] [ROOT/test/images ROOT/test/masks] [ROOT/classes.txt]    your own
  ROOT/NAME.jpg ... [ROOT/masks] [ROOT/classes.txt]    your own; folders in ROOT are read, too"""


def open_data(
    source: str | Path,
    *,
    size: int | None = None,
    classes: tuple[str, ...] | None = None,
    limit: int | None = None,
    mask_values: str | None = None,
) -> Data:
    """Open a pool of images and, where there is one, its test set.

    Args:
        source: a folder in one of the known layouts, one image, or `"scenes[:TRAIN,TEST,SEED]"`.
        size: resize every image to size x size pixels (bilinear; masks by the nearest pixel). None: as they are.
        classes: class names, for folders that do not name theirs.
        limit: use the first `limit` images of each split only.
        mask_values: the value (or colour #rrggbb) of each class in the masks, such as "0,255", where they are not ids.

    Returns:
        `Data`: name, classes, and the splits `train` (the pool) and `test` (or None). Nothing is decoded yet.

    Raises:
        DataError: the folder is missing or has none of the layouts, or a mask has no image; names file and cure.
    """
    name = str(source)
    if name == "scenes" or name.startswith("scenes:"):
        data = open_scenes(name, size)
    else:
        root = Path(source)
        if not name or not root.exists():
            raise DataError(f"there is no data folder {name or '(none given)'}; --data takes one of\n{LAYOUTS}")
        if (root / "prepare.json").is_file():
            raise DataError(f"{root} is not finished; go on with the `difal prepare` command that began it")
        if (root / "trainannot").is_dir():
            data = open_camvid(root, size)
        elif (root / "meta.json").is_file() and (root / "train").is_dir():
            data = open_prepared(root, size)
        else:
            data = _own_folder(root, size, classes, mask_values)
    if limit is not None:
        data.train = data.train.first(limit)
        data.test = data.test and data.test.first(limit)
    if data.test:
        data.test.ranges = data.train.ranges
    return data


def _own_folder(root: Path, size: int | None, classes: tuple[str, ...] | None, mask_values: str | None) -> Data:
    if (root / "train").is_dir() and any((root / other).is_dir() for other in ("test", "val", "testannot")):
        raise DataError(
            f"{root} has none of the known layouts: it holds train/ and other parts, but neither trainannot/ nor "
            f"meta.json. To take train/ alone as the pool, give --data {root / 'train'}; the layouts are\n{LAYOUTS}"
        )
    try:
        list_photographs(root)
    except DataError as error:
        raise DataError(f"{root} has none of the known layouts ({error}):\n{LAYOUTS}") from None
    return open_folder(root, size, classes, mask_values)


def open_config_data(config: Config) -> Data:
    return open_data(
        config.data,
        size=config.size,
        classes=config.class_names(),
        limit=config.limit,
        mask_values=config.mask_values,
    )
