"""A run's head at every pixel of images that it has not seen: what the labeling was for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from difal.config import Config
from difal.data.images import ValueRanges
from difal.data.readers import open_images
from difal.encoders.lazy import LazyEncoder
from difal.errors import ConfigError, DataError
from difal.features.dense import dense_classes
from difal.features.pixels import encode
from difal.files import exclusive, read_json, write_bytes, write_json
from difal.run.directory import Round, RunDirectory
from difal.run.oracles import to_png
from difal.threads import in_order


def predict(
    run: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    round: int | None = None,
    device: str = "cpu",
    threads: int = 0,
    encoder=None,
) -> int:
    """Write the most likely class of every pixel of each image.

    OUT/masks/NAME.png holds class ids, drawn in the classes' colours by its palette; OUT/pictures/NAME.jpg shows them
    over the image. Both have the image's own size. OUT/predict.json names the classes, and is written first; the same
    call goes on with what an interrupted one left.

    Args:
        run: a run folder with a trained head.
        images: an image, or a folder of images, which may hold folders.
        out: new folder, or one that the same call began.
        round: whose head; default: the one that `difal label` trained on every answer, else the last round's.
        device: torch device of the encoder.
        threads: CPU threads, 0 for torch's choice.
        encoder: the run's encoder, instead of loading it by its name.

    Returns:
        How many images there are.

    Raises:
        ConfigError: no run, no head, another encoder, or `out` is something else's.
        DataError: no image, or one that cannot be used; names the file.
    """
    run_dir = RunDirectory(Path(run))
    config = Config(**{**run_dir.config(), "device": device, "threads": threads})
    head, facts = run_dir.live_head() if round is None else None, run_dir.facts()
    which: int | str = "live"
    if head is None:
        entry = _trained(run_dir, round)
        head, which = entry.head(), entry.index
    split, _ = open_images(images, config.size)
    split.ranges = ValueRanges(split.images, facts.get("ranges"))  # shown as the pool was
    load_encoder = LazyEncoder(config, encoder)
    if facts.get("weights") not in (None, load_encoder.weights):
        raise ConfigError(
            f"the encoder {config.encoder!r} has other weights (digest {load_encoder.weights}) than those that "
            f"{run_dir.folder} was made with ({facts['weights']}); put the old ones back"
        )
    task = {
        "run": str(run_dir.folder.resolve()),
        "round": which,
        "images": str(Path(images).resolve()),
        "classes": facts["classes"],
        "colors": facts["colors"],
    }
    if config.threads:
        torch.set_num_threads(config.threads)
    out = Path(out)
    _begin(out, task)
    colors = np.array(task["colors"], np.uint8)

    def one(index: int) -> None:
        name = split.ids[index]
        mask, picture = out / "masks" / f"{name}.png", out / "pictures" / f"{name}.jpg"
        if mask.is_file():  # written last
            return
        whole = split.original(index)
        maps = encode(load_encoder(), split.image(index), name, [0], config)
        found = dense_classes(head, maps, whole.shape[:2])[0].numpy()
        write_bytes(picture, _jpeg(_blend(whole, colors[found])))
        write_bytes(mask, to_png(_indexed(found, colors)))

    with exclusive(out):
        load_encoder()  # before the workers, once
        for _ in tqdm(in_order(one, range(len(split))), "predict", total=len(split), unit="image"):
            pass
    return len(split)


def _trained(run_dir: RunDirectory, index: int | None) -> Round:
    trained = [entry for entry in run_dir.rounds() if entry.has("head.safetensors")] if run_dir.facts() else []
    if not trained:
        raise ConfigError(f"{run_dir.folder} has no trained head yet; label a round and `difal run --resume` first")
    if index is None:
        return trained[-1]
    for entry in trained:
        if entry.index == index:
            return entry
    raise ConfigError(f"`round` must be one with a head, {trained[0].index} to {trained[-1].index}, got {index}")


def _begin(out: Path, task: dict) -> None:
    path = out / "predict.json"
    if path.is_file():
        if read_json(path) != task:
            raise ConfigError(f"{out} holds other predictions (see {path}); delete it or give another --out")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"`out` must be a new or empty folder, got {out}")
    else:
        write_json(path, task)


def _indexed(ids: np.ndarray, colors: np.ndarray) -> Image.Image:
    picture = Image.fromarray(ids)  # "L"; a palette makes it "P", its numbers unchanged
    picture.putpalette(colors.tobytes())
    return picture


def _blend(image: np.ndarray, colored: np.ndarray) -> Image.Image:
    return Image.blend(Image.fromarray(image), Image.fromarray(colored), 0.5)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
