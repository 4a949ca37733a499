"""Which files of a folder are photographs: one rule for every command, and a reason for each file that is left out."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from difal.errors import DataError

IMAGE_ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".svs", ".ndpi", ".btf", ".tf8"),
}
HEIC_ENDINGS = {".heic", ".heif", ".hif"}
# Kinds of pictures that are not read, with what to do.
UNREAD = {
    **dict.fromkeys(HEIC_ENDINGS, "pip install 'difal-kernels[heic]'"),
    **dict.fromkeys((".avif", ".jxl"), "convert to PNG or JPEG"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), "camera raw; develop to TIFF"),
    **dict.fromkeys((".psd", ".xcf", ".svg", ".pdf", ".eps", ".ai"), "export as PNG"),
    **dict.fromkeys((".dcm", ".nii", ".nrrd", ".mha", ".czi", ".lif", ".nd2", ".vsi"), "export as TIFF"),
    **dict.fromkeys((".npy", ".npz", ".mat", ".exr", ".hdr", ".fits", ".ecw", ".sid"), "export as TIFF"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv"), "a film; take frames out of it"),
}
MASK_FOLDERS = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "annot", "gt", "groundtruth", "ground_truth"),
    *("segmentation", "segmentations", "segmentationclass", "segmentationobject", "gtfine", "trainannot", "valannot"),
    "testannot",
}
MASK_SUFFIXES = ("_label", "_labels", "_mask", "_masks", "_seg", "_gt", "_annotation", "_labelids")
SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin"}
OUTPUTS = (  # files that tell a folder which a command of this package wrote
    (("predict.json",), "of difal predict"),
    (("config.yaml", "run.json"), "of difal run"),
    (("sweep.yaml",), "of difal sweep"),
    (("table.md", "results.json"), "of difal sweep"),
    (("cache.json",), "of difal encode"),
    (("survey.json",), "of difal encode"),
)


@dataclass
class Listing:
    """The photographs of a folder, in order, and by reason everything else that lies in it."""

    root: Path
    images: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(path)

    def lines(self, shown: int = 3) -> list[str]:
        """One line a reason: how many, why, and the first names."""
        lines = []
        for reason, paths in sorted(self.left_out.items()):
            names = [f"{name(path, self.root)}{'/' if path.is_dir() else ''}" for path in paths[:shown]]
            more = f" and {len(paths) - shown} more" if len(paths) > shown else ""
            lines.append(f"{len(paths)} {reason}: {', '.join(names)}{more}")
        return lines


def list_photographs(root: str | Path) -> Listing:
    """List the photographs of a folder, or the one that `root` is.

    Folders within are read and links are followed. Left out, with the reason, are masks (folders of the usual names,
    and files such as NAME_mask.png beside NAME.jpg), what commands of this package wrote, hidden files, kinds that
    cannot be read, and what is no picture. Where the folder holds `images/`, the photographs are those in there.

    Raises:
        DataError: there is nothing at `root`, or no photograph; says what there is.
    """
    root = Path(root)
    if root.is_file():
        return Listing(root.parent, [root])
    if not root.is_dir():
        raise DataError(f"there is no image folder {root}")
    listing = Listing(root)
    if (root / "images").is_dir():
        for path in sorted(root.iterdir()):
            if path.name != "images":
                listing.leave_out(path, _beside_images(path))
        _walk(root / "images", listing)
    else:
        _walk(root, listing, test=root / "test" if (root / "test/images").is_dir() else None)
    if not listing.images:
        found = "; ".join(listing.lines()) or "it is empty"
        raise DataError(f"{root} holds no image that can be read: {found}. Kinds that can: {', '.join(_endings())}")
    return listing


def list_masks(root: Path) -> Listing:
    """List every picture under a folder of masks."""
    if not root.is_dir():
        raise DataError(f"there is no mask folder {root}")
    listing = Listing(root)
    _walk(root, listing, masks=True)
    return listing


def name(path: Path, root: Path) -> str:
    """The path below `root` with forward slashes."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def mask_stem(stem: str) -> str:
    """A mask's name less an ending such as `_mask`."""
    for suffix in MASK_SUFFIXES:
        if stem.lower().endswith(suffix) and len(stem) > len(suffix):
            return stem[: -len(suffix)]
    return stem


def reads_heic() -> bool:
    """Whether the extra for HEIC is installed; its reader is then registered with Pillow."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def _endings() -> list[str]:
    return sorted(IMAGE_ENDINGS | (HEIC_ENDINGS if reads_heic() else set()))


def _walk(root: Path, listing: Listing, masks: bool = False, test: Path | None = None) -> None:
    endings = set(_endings())
    seen = {os.path.realpath(root)}

    def walk(folder: Path) -> None:
        try:
            inside = sorted(folder.iterdir())
        except PermissionError:
            if folder == root:
                raise
            listing.leave_out(folder, "folders that may not be read")
            return
        stems = {path.stem for path in inside if path.suffix.lower() in endings}
        for path in inside:
            reason = "the test set" if path == test else _reason(path, endings, stems, masks)
            if reason:
                listing.leave_out(path, reason)
            elif path.is_dir():
                real = os.path.realpath(path)
                if real in seen:
                    listing.leave_out(path, "linked folders that were read already")
                else:
                    seen.add(real)
                    walk(path)
            else:
                listing.images.append(path)

    walk(root)
    listing.images.sort()


def _reason(path: Path, endings: set[str], stems: set[str], masks: bool) -> str | None:
    """Why a file or folder is left out, or None."""
    if path.name.startswith(".") or path.name.lower() in SYSTEM_FOLDERS:
        return "hidden files and folders"
    if not path.exists():
        return "links that lead nowhere"
    if path.is_dir():
        if not masks and path.name.lower() in MASK_FOLDERS:
            return "folders of masks"
        return next((f"folders {by}" for files, by in OUTPUTS if all((path / one).is_file() for one in files)), None)
    if not path.is_file():
        return "neither files nor folders"
    ending = path.suffix.lower()
    if ending in endings:
        of = mask_stem(path.stem)
        return "masks beside their image" if not masks and of != path.stem and of in stems else None
    if ending in UNREAD:
        return f"{ending} files ({UNREAD[ending]})"
    return "files that are no pictures"


def _beside_images(path: Path) -> str:
    if path.name.startswith(".") or path.name.lower() in SYSTEM_FOLDERS:
        return "hidden files and folders"
    if path.is_dir():
        if path.name.lower() in MASK_FOLDERS:
            return "folders of masks"
        return "the test set" if path.name == "test" else "folders beside images/"
    return "files beside images/"
