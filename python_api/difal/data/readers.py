"""Readers of folders: CamVid as published, prepared data with a meta.json, and a plain folder of images."""

from __future__ import annotations

import codecs
from collections import Counter
from pathlib import Path

import numpy as np

from difal.data.base import IGNORE, Data, FileSplit, Split
from difal.data.listing import Listing, list_masks, list_photographs, mask_stem, name
from difal.data.values import MaskValues, parse_classes, parse_mask_values
from difal.errors import DataError, UnknownClassesError
from difal.files import read_json

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
    left_out: list[str] = []

    def split(part: str) -> FileSplit:
        listing = list_photographs(root / part)
        masks = _matching(listing, root / part, root / f"{part}annot")
        left_out.extend(listing.lines())
        ids = [_bare(path, root / part) for path in listing.images]
        return FileSplit(ids, listing.images, masks, len(CAMVID), size, void=(len(CAMVID),))

    train, test = split("train"), split("test") if (root / "test").is_dir() else None
    return Data("CamVid", tuple(CAMVID), train, test, np.array(CAMVID_COLORS, np.uint8), left_out)


def open_prepared(root: Path, size: int | None) -> Data:
    """ROOT/meta.json with "classes" (perhaps "ignore", "colors", "name"), ROOT/{train,test}/NAME.jpg + NAME_label.png.

    It is what `difal prepare` writes.
    """
    meta = read_json(root / "meta.json")
    if not isinstance(meta, dict) or not meta.get("classes"):
        raise DataError(f'{root / "meta.json"} must hold {{"classes": [names...]}}')
    classes = tuple(map(str, meta["classes"]))
    void = (int(meta.get("ignore", IGNORE)),)

    def split(part: str) -> FileSplit:
        images = list_photographs(root / part).images
        masks = [path.with_name(f"{path.stem}_label.png") for path in images]
        _all_there(images, masks)
        ids = [_bare(path, root / part) for path in images]
        return FileSplit(ids, images, masks, len(classes), size, void)

    train, test = split("train"), split("test") if (root / "test").is_dir() else None
    colors = meta.get("colors", CAMVID_COLORS if classes == tuple(CAMVID) else None)
    if colors is not None:
        colors = np.array(colors, np.uint8)
        if colors.shape != (len(classes), 3):
            raise DataError(f"{root / 'meta.json'} must hold a colour [red, green, blue] for each class")
    return Data(str(meta.get("name", root.name)), classes, train, test, colors)


def open_folder(root: Path, size: int | None, classes: tuple[str, ...] | None, mask_values: str | None = None) -> Data:
    """ROOT/images or images in ROOT itself, perhaps ROOT/masks, the same under ROOT/test, perhaps ROOT/classes.txt."""
    classes, values = _classes(root if root.is_dir() else root.parent, classes, mask_values)
    left_out: list[str] = []

    def split(folder: Path) -> FileSplit:
        listing, base = list_photographs(folder), _base(folder)
        masks = _matching(listing, base, folder / "masks") if (folder / "masks").is_dir() else None
        _drop_used(listing, folder, masks is not None)
        left_out.extend(listing.lines())
        ids = [path.relative_to(base).as_posix() for path in listing.images]
        return FileSplit(ids, listing.images, masks, len(classes), size, values=values)

    train, test = split(root), split(root / "test") if (root / "test" / "images").is_dir() else None
    colors = _own_colors(values, len(classes))
    title = root.resolve().name
    return Data(title, classes, train, test, colors, left_out, named_here=True, values=values)


def _classes(
    root: Path, classes: tuple[str, ...] | None, mask_values: str | None
) -> tuple[tuple[str, ...], MaskValues | None]:
    """The names, and what the masks' values mean where `classes.txt` or `mask_values` says so."""
    listing, values = root / "classes.txt", None
    if listing.is_file():
        listed, values = parse_classes(_text(listing), listing)
        if classes is not None and classes != listed:
            values = None  # the list is about other classes
        classes = classes or listed
    if not classes:
        raise UnknownClassesError(
            f"the classes of {root} are unknown: which ones are there to tell apart? Write one name a line into "
            f"{listing}, or use --classes, such as --classes sky,road,tree"
        )
    if len(classes) > IGNORE or len(set(classes)) < len(classes):
        raise DataError(f"class names must differ and be at most {IGNORE}, got {len(classes)}: {', '.join(classes)}")
    return classes, parse_mask_values(mask_values, classes) if mask_values else values


def _own_colors(values: MaskValues | None, classes: int) -> np.ndarray | None:
    """The colours of the classes where the masks are in colours."""
    if values is None or not values.colors:
        return None
    first = {to: value for value, to in reversed(list(values.to_class.items())) if to != IGNORE}
    return np.array([first[i] for i in range(classes)], np.uint8)


def _drop_used(listing: Listing, folder: Path, masks: bool) -> None:
    """Take out of the listing what is used after all: the masks, the test set, the list of classes."""
    used = {folder / "classes.txt", *([folder / "masks"] if masks else []), folder / "test"}
    listing.left_out = {
        reason: kept for reason, paths in listing.left_out.items() if (kept := [p for p in paths if p not in used])
    }


def _text(path: Path) -> str:
    """UTF-8, or what says by its byte-order mark that it is UTF-16."""
    content = path.read_bytes()
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def open_images(path: str | Path, size: int | None = None) -> tuple[FileSplit, Listing]:
    """An image file, or every photograph under a folder, without masks; with what was left out.

    Raises:
        DataError: nothing there, or no image.
    """
    listing = list_photographs(path)
    ids = _bare_unless_equal([name(image, _base(Path(path))) for image in listing.images])
    return FileSplit(ids, listing.images, None, 0, size), listing


def mask_names(split: Split) -> list[str]:
    """What the masks that are written of a pool's images are called: as `open_images` would name the images."""
    if not isinstance(split, FileSplit):
        return list(split.ids)
    pairs = zip(split.ids, split.images, strict=True)  # an id has its file's ending or not, by the folder's layout
    return _bare_unless_equal([one if Path(one).name == path.name else one + path.suffix for one, path in pairs])


def _base(path: Path) -> Path:
    if path.is_file():
        return path.parent
    return path / "images" if (path / "images").is_dir() else path


def _bare_unless_equal(names: list[str]) -> list[str]:
    """Names less their endings, where that leaves them different."""
    before: list[str] = []
    given = [Path(one).with_suffix("").as_posix() for one in names]
    while given != before:  # a whole name may be what another is less its ending
        before, counts = given, Counter(one.lower() for one in given)
        given = [short if counts[short.lower()] == 1 else whole for short, whole in zip(given, names, strict=True)]
    return given


def _matching(images: Listing, root: Path, folder: Path) -> list[Path]:
    """The mask of each image: the file of the same name in `folder`, whatever its ending, perhaps with `_mask`."""
    listing = list_masks(folder)
    found: dict[str, list[Path]] = {}
    for path in listing.images:
        bare = path.with_name(mask_stem(path.stem) + path.suffix)
        for key in {_bare(path, folder), _bare(bare, folder), name(path, folder)}:
            found.setdefault(key, []).append(path)
    masks = []
    for path in images.images:
        own = found.get(_bare(path, root)) or found.get(name(path, root))  # a.png, or a.jpg.png
        if own and len(own) > 1:
            exact = [mask for mask in own if _bare(mask, folder) == _bare(path, root)]
            own = exact if len(exact) == 1 else own
        if own and len(own) > 1:
            raise DataError(f"{path} has {len(own)} masks, {own[0]} and {own[1]}; take all but one out of the folder")
        masks.append(own[0] if own else folder / f"{_bare(path, root)}.png")
    _all_there(images.images, masks, listing)
    for path in listing.images:
        if path not in set(masks):
            images.leave_out(path, "masks without an image")
    for reason, paths in listing.left_out.items():
        for path in paths:
            images.leave_out(path, reason)
    return masks


def _bare(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _all_there(images: list[Path], masks: list[Path], listing: Listing | None = None) -> None:
    missing = [(image, mask) for image, mask in zip(images, masks, strict=True) if not mask.is_file()]
    if missing:
        image, mask = missing[0]
        raise DataError(
            f"{image} has no mask {mask} ({len(missing)} of {len(images)} images lack theirs)"
            f"{_instead(listing, mask)}; add the masks, or take the mask folder away to label by hand"
        )


def _instead(listing: Listing | None, mask: Path) -> str:
    """What a folder of masks has in place of one that is looked for."""
    if listing is None:
        return ""
    same = [path for path in listing.images if mask_stem(path.stem).lower() == mask.stem.lower()]
    if same:
        return f". There is {same[0]}: masks go by the image's name, in folders as the images' are"
    if listing.left_out:
        return f". {listing.root} holds {'; '.join(listing.lines())}"
    return f". {listing.root} is empty" if not listing.images else f". Its first is {listing.images[0]}"
