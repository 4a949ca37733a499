"""Readers of folders: CamVid as published, prepared data with a meta.json, and a plain folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from difal.data.base import IGNORE, Data, FileSplit
from difal.errors import DataError, UnknownClassesError
from difal.files import read_json

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
CAMVID = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "signsymbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]
# The colours in which CamVid's classes are usually drawn.
CAMVID_COLORS = [
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
]  # fmt: skip


def open_camvid(root: Path, size: int | None) -> Data:
    """CamVid with 11 classes in SegNet's public layout: train/ trainannot/ test/ testannot/, id 11 void."""
    splits = {}
    for name in ("train", "test"):
        if name == "test" and not (root / name).is_dir():
            splits[name] = None
            continue
        images = _images(root / name)
        masks = _matching(images, root / name, root / f"{name}annot")
        splits[name] = FileSplit(
            [_name(path, root / name) for path in images],
            images,
            masks,
            len(CAMVID),
            size,
            void=(len(CAMVID),),
        )
    return Data("CamVid", tuple(CAMVID), splits["train"], splits["test"], np.array(CAMVID_COLORS, np.uint8))


def open_prepared(root: Path, size: int | None) -> Data:
    """ROOT/meta.json with "classes" (perhaps "ignore", "colors", "name"), ROOT/{train,test}/NAME.jpg + NAME_label.png.

    It is what `difal prepare` writes.
    """
    meta = read_json(root / "meta.json")
    if not isinstance(meta, dict) or not meta.get("classes"):
        raise DataError(f'{root / "meta.json"} must hold {{"classes": [names...]}}')
    classes = tuple(map(str, meta["classes"]))
    void = (int(meta.get("ignore", IGNORE)),)
    splits = {}
    for name in ("train", "test"):
        if name == "test" and not (root / name).is_dir():
            splits[name] = None
            continue
        images = [path for path in _images(root / name) if not path.stem.endswith("_label")]
        masks = [path.with_name(f"{path.stem}_label.png") for path in images]
        _all_there(images, masks)
        splits[name] = FileSplit([_name(path, root / name) for path in images], images, masks, len(classes), size, void)
    colors = meta.get("colors", CAMVID_COLORS if classes == tuple(CAMVID) else None)
    if colors is not None:
        colors = np.array(colors, np.uint8)
        if colors.shape != (len(classes), 3):
            raise DataError(f"{root / 'meta.json'} must hold a colour [red, green, blue] for each class")
    return Data(str(meta.get("name", root.name)), classes, splits["train"], splits["test"], colors)


def open_folder(root: Path, size: int | None, classes: tuple[str, ...] | None) -> Data:
    """ROOT/images, perhaps ROOT/masks (NAME.png), perhaps the same under ROOT/test, perhaps ROOT/classes.txt.

    Without ROOT/images the images that lie in ROOT itself are the pool, and there are no masks.
    """
    listing = root / "classes.txt"
    if classes is None and listing.is_file():
        classes = tuple(line.strip() for line in _text(listing).splitlines() if line.strip())
    if not classes:
        raise UnknownClassesError(
            f"the classes of {root} are unknown: which ones are there to tell apart? Write one name a line into "
            f"{listing}, or use --classes, such as --classes sky,road,tree"
        )
    if len(classes) > IGNORE or len(set(classes)) < len(classes):
        raise DataError(f"class names must differ and be at most {IGNORE}, got {len(classes)}: {', '.join(classes)}")
    if not (root / "images").is_dir():
        for unread in ("masks", "test/images"):
            if (root / unread).is_dir():
                raise DataError(
                    f"{root / unread} would not be read: it belongs beside {root / 'images'}; move the pool's images "
                    f"there, or take {unread} out of the folder"
                )
        images = image_files(root)
        ids = [path.name for path in images]
        return Data(root.resolve().name, classes, FileSplit(ids, images, None, len(classes), size))
    splits = {}
    for name, folder in (("train", root), ("test", root / "test")):
        if name == "test" and not (folder / "images").is_dir():
            splits[name] = None
            continue
        images = _images(folder / "images")
        masks = _matching(images, folder / "images", folder / "masks") if (folder / "masks").is_dir() else None
        ids = [path.relative_to(folder / "images").as_posix() for path in images]
        splits[name] = FileSplit(ids, images, masks, len(classes), size)
    return Data(root.resolve().name, classes, splits["train"], splits["test"])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def open_images(path: str | Path, size: int | None = None) -> FileSplit:
    """An image file, or every image under a folder, without masks.

    Raises:
        DataError: nothing there, no image, or two images of the same name.
    """
    path = Path(path)
    if path.is_file():
        return FileSplit([path.stem], [path], None, 0, size)
    images = _images(path)
    return FileSplit([_name(image, path) for image in images], images, None, 0, size)


def image_files(folder: Path) -> list[Path]:
    """The images that lie in the folder itself."""
    return sorted(path for path in folder.iterdir() if _is_image(path))


def _is_image(path: Path) -> bool:
    """By the ending; hidden files such as macOS's `._NAME.jpg` are none."""
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and path.is_file()


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"there is no image folder {folder}")
    found = sorted(path for path in folder.rglob("*") if _is_image(path))
    if not found:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(IMAGE_ENDINGS))})")
    return found


def _matching(images: list[Path], root: Path, folder: Path) -> list[Path]:
    """The mask of each image: the file of the same name in `folder`, whatever its ending."""
    if not folder.is_dir():
        raise DataError(f"there is no mask folder {folder}")
    names = {_name(path, folder): path for path in sorted(folder.rglob("*")) if _is_image(path)}
    masks = [names.get(_name(path, root), folder / f"{_name(path, root)}.png") for path in images]
    _all_there(images, masks)
    return masks


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _all_there(images: list[Path], masks: list[Path]) -> None:
    missing = [(image, mask) for image, mask in zip(images, masks, strict=True) if not mask.is_file()]
    if missing:
        image, mask = missing[0]
        raise DataError(
            f"{image} has no mask {mask} ({len(missing)} of {len(images)} images lack theirs); add the masks, "
            f"or take the mask folder away to label by hand"
        )
