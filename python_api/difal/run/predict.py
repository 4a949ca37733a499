"""A run's head at every pixel of images that it has not seen: what the labeling was for.

Every mask says in its file what made it: digests of the head, the encoder, the settings and the image. What matches is
left as it is, and what does not is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from difal.config import Config
from difal.data.base import FileSplit
from difal.data.contents import contents
from difal.data.images import ValueRanges
from difal.data.readers import open_images
from difal.data.survey import described, look_at, read_shape, unused
from difal.encoders.lazy import LazyEncoder
from difal.errors import ConfigError, DataError
from difal.features.checks import check_sizes, may_be_reduced
from difal.features.dense import dense_classes
from difal.features.pixels import encode
from difal.files import digest, digest_file, exclusive, read_json, write_bytes, write_json
from difal.heads import Head
from difal.heads.base import ABSENT
from difal.run.directory import Round, RunDirectory
from difal.run.labels import not_predicted
from difal.run.oracles import to_png
from difal.threads import in_hand, in_order

FORMAT = 1  # of the masks; counts among what made them
TASK = "predict.json"
ROWS = 512  # of an image that are drawn at a time
MADE_BY, PIXELS = "difal made by", "difal pixels"  # texts in a mask's file
DONE, MISSING, STALE, BY_HAND = "done", "missing", "stale", "changed by hand"
DAMAGE = (OSError, SyntaxError, ValueError)  # of Pillow, for a file that it cannot read


def predict(
    run: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    round: int | None = None,
    device: str = "cpu",
    threads: int = 0,
    encoder: Any = None,
    log: Callable[[str], None] = lambda line: None,
) -> int:
    """Write the most likely class of every pixel of each image.

    OUT/masks/NAME.png holds class ids, drawn in the classes' colours by its palette; OUT/pictures/NAME.jpg shows them
    over the image. Both have the size at which the image is read, which is its own up to 89,478,485 pixels.
    OUT/predict.json, written first, names the classes and what the masks are made of.

    All images are looked at before any is encoded. Of what an earlier call left, masks of the same head, encoder,
    settings and image stay; others are made again. A mask that somebody has changed since is left and named.

    Args:
        run: a run folder with a trained head.
        images: an image, or a folder of images, which may hold folders.
        out: new folder, or one of an earlier call.
        round: whose head; default: the one that `difal label` trained on every answer, else the last round's.
        device: torch device of the encoder.
        threads: CPU threads, 0 for torch's choice.
        encoder: where the run's encoder is now, as `load_encoder` takes it, or the encoder itself.
        log: called with each line about what there is and what is done.

    Returns:
        How many images there are.

    Raises:
        ConfigError: no run, no head, another encoder, or `out` is something else's or holds masks of other images.
        DataError: no image, or one that cannot be used; names the file.
    """
    run_dir = RunDirectory(Path(run))
    config = Config(**{**run_dir.config(), "device": device, "threads": threads})
    if isinstance(encoder, str | Path):
        config, encoder = dataclasses.replace(config, encoder=str(encoder)), None
    head, head_file, which = _head(run_dir, round)
    facts, out = run_dir.facts(), Path(out)
    split, listing = open_images(images, config.size)
    split.ranges = ValueRanges(split.images, facts.get("ranges"))  # shown as the pool was
    load_encoder = LazyEncoder(config, encoder)
    if facts.get("weights") not in (None, load_encoder.weights):
        raise ConfigError(
            f"the encoder {config.encoder!r} has other weights (digest {load_encoder.weights}) than those that "
            f"{run_dir.folder} was made with ({facts['weights']}); give --encoder with where the old ones are"
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    before = _earlier(out)
    task = {
        "run": str(run_dir.folder.resolve()),
        "round": which,
        "head": digest_file(head_file),
        "encoder": {"name": config.encoder, "weights": load_encoder.weights},
        "settings": {"format": FORMAT, "size": config.size, "feature_seed": config.feature_seed},
        "classes": facts["classes"],
        "colors": facts["colors"],
        "ranges": split.ranges.to_json(),
        "folder": str(Path(images).resolve()),
        "images": contents(split, known=before.get("images")),
    }
    made = {
        name: _made_by(task, name, config.encoder_pixels if may_be_reduced([shape], config) else 0)
        for name, shape in zip(split.ids, split.shapes(), strict=True)
    }
    states = {name: _state(out, name, made[name]) for name in split.ids}
    _refuse_others(out, before, split.ids)
    missing = [at for at, name in enumerate(split.ids) if states[name] in (MISSING, STALE)]
    shapes = _look(split, missing, listing.lines(), log)
    for line in [*_state_lines(states), *_never_predicted(head, facts["classes"])]:
        log(line)
    if missing:
        for line in check_sizes(load_encoder(), config, shapes):
            log(line)
        _check_width(head, head_file, load_encoder())
    with exclusive(out):
        write_json(out / TASK, task)
        work = partial(_predict_one, split, out, made, head, np.array(task["colors"], np.uint8), load_encoder, config)
        for _ in tqdm(in_order(work, missing), "predict", total=len(missing), unit="image", disable=not missing):
            pass
    return len(split)


def _predict_one(
    split: FileSplit,
    out: Path,
    made: dict[str, str],
    head: Head,
    colors: np.ndarray,
    load_encoder: Callable,
    config: Config,
    index: int,
) -> None:
    name = split.ids[index]
    with in_hand.take(split.pixels(index)):
        whole = split.original(index)
        seen = split.image(index) if config.size else whole
        maps = encode(load_encoder(), seen, name, [0], config)
        found = dense_classes(head, maps, whole.shape[:2])[0].numpy()
        _write(out, name, made, whole, found, colors)


def _write(out: Path, name: str, made: dict[str, str], whole: np.ndarray, found: np.ndarray, colors) -> None:
    write_bytes(_picture_file(out, name), _jpeg(_blend(whole, found, colors)))
    texts = {MADE_BY: made[name], PIXELS: _pixels_digest(found)}
    write_bytes(_mask_file(out, name), to_png(_indexed(found, colors), texts))  # last: a mask has its picture


def _mask_file(out: Path, name: str) -> Path:
    return out / "masks" / f"{name}.png"


def _picture_file(out: Path, name: str) -> Path:
    return out / "pictures" / f"{name}.jpg"


def _made_by(task: dict, name: str, encoder_pixels: int) -> str:
    """The digest of all that a mask depends on; an encoder without a digest counts by its name."""
    _, _, image = task["images"][name]
    encoder = task["encoder"]["weights"] or task["encoder"]["name"]
    large = [encoder_pixels] if encoder_pixels else []
    return digest([task["head"], encoder, task["settings"], task["colors"], task["ranges"], name, image, *large])


def _pixels_digest(ids: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(ids).tobytes()).hexdigest()[:12]


def _state(out: Path, name: str, made: str) -> str:
    """Whether an image's mask is there, and made of what is there now."""
    path = _mask_file(out, name)
    if not path.is_file():
        return MISSING
    try:
        with Image.open(path) as picture:
            picture.load()
            texts, ids = getattr(picture, "text", {}), np.asarray(picture)
    except DAMAGE:
        return STALE
    if texts.get(PIXELS) != _pixels_digest(ids):
        return BY_HAND
    return DONE if texts.get(MADE_BY) == made and _picture_file(out, name).is_file() else STALE


def _never_predicted(head: Head, classes: Sequence[str]) -> list[str]:
    """A line about the classes of which the head has seen no label."""
    scores = head(torch.zeros(1, head.project.in_features, device=head.project.weight.device))[0]
    absent = [name for name, score in zip(classes, scores.tolist(), strict=False) if score < ABSENT / 2]
    absent += classes[len(scores) :]
    if len(absent) == len(classes) - 1:
        return [
            f"all labels were {next(name for name in classes if name not in absent)}, which is all that is predicted"
        ]
    return [f"no label was of {not_predicted(absent)}"] if absent else []


def _state_lines(states: dict[str, str]) -> list[str]:
    lines = []
    for state, what in (
        (DONE, "made of the same before, and left as they are"),
        (STALE, "made of another head, encoder, setting or image before, and made again"),
        (
            BY_HAND,
            "changed by hand since, and left as they are (delete them to have them made again)",
        ),
    ):
        names = [name for name, found in states.items() if found == state]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"{len(names)} masks {what}: {', '.join(names[:3])}{more}")
    return lines


def _look(split: FileSplit, missing: Sequence[int], left_out: Sequence[str], log: Callable) -> list[tuple[int, int]]:
    """Look at the images that are to be encoded, and say what there is; their shapes as they are read."""
    lines = [f"left out: {line}" for line in left_out]
    if missing:
        some = split.take(missing)
        some.ranges = split.ranges
        looks = look_at(some, "the images")
        lines = [f"images: {described(some, looks)}", *unused(some, looks), *lines]
    for line in lines:
        log(line)
    return [(split.size, split.size) if split.size else read_shape(look) for look in looks] if missing else []


def _head(run_dir: RunDirectory, index: int | None) -> tuple[Head, Path, int | str]:
    """The head, its file, and the round that it is of."""
    head = run_dir.live_head() if index is None else None
    if head is not None:
        return head, run_dir.live_head_file, "live"
    entry = _trained(run_dir, index)
    return entry.head(), entry.folder / "head.safetensors", entry.index


def _trained(run_dir: RunDirectory, index: int | None) -> Round:
    trained = [entry for entry in run_dir.rounds() if entry.has("head.safetensors")] if run_dir.facts() else []
    if not trained:
        raise ConfigError(
            f"{run_dir.folder} has no trained head yet; label pixels (`difal label --out` or `difal run --resume` with "
            f"this folder), and give the training that follows the first labels a minute"
        )
    if index is None:
        return trained[-1]
    for entry in trained:
        if entry.index == index:
            return entry
    raise ConfigError(f"`round` must be one with a head, {trained[0].index} to {trained[-1].index}, got {index}")


def _check_width(head: Head, path: Path, encoder) -> None:
    wanted, given = head.project.in_features, sum(encoder.channels)
    if wanted != given:
        raise ConfigError(f"{path} takes {wanted} numbers a pixel, and the encoder gives {given}; put the old one back")


def _earlier(out: Path) -> dict:
    """What an earlier call wrote of its task; {} where there was none."""
    path = out / TASK
    if path.is_file():
        task = read_json(path)
        if not isinstance(task, dict) or not isinstance(task.get("images"), dict):
            raise ConfigError(
                f"{out} holds predictions that do not say what made them (of an earlier version); delete it or give "
                f"another --out"
            )
        return task
    if out.exists() and (not out.is_dir() or any(one.name != ".lock" for one in out.iterdir())):
        raise DataError(f"`out` must be a new or empty folder, got {out}")
    return {}


def _refuse_others(out: Path, before: dict, names: Sequence[str]) -> None:
    """Masks of images that are not among these would pass for new ones."""
    others = [name for name in before.get("images", {}) if name not in set(names) and _mask_file(out, name).is_file()]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ConfigError(
            f"{out} holds masks of other images than these, {others[0]}{more}; delete them, or give another --out"
        )


def _indexed(ids: np.ndarray, colors: np.ndarray) -> Image.Image:
    picture = Image.fromarray(ids)  # "L"; a palette makes it "P", its numbers unchanged
    picture.putpalette(colors.tobytes())
    return picture


def _blend(image: np.ndarray, ids: np.ndarray, colors: np.ndarray) -> Image.Image:
    """The image and its classes' colours, half of each; a few rows at a time, since Pillow takes 4 bytes a pixel."""
    blended = np.empty_like(image)
    for top in range(0, len(image), ROWS):
        rows = slice(top, top + ROWS)
        shown, colored = Image.fromarray(image[rows]), Image.fromarray(colors[ids[rows]])
        blended[rows] = np.asarray(Image.blend(shown, colored, 0.5))
    return Image.fromarray(blended)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
