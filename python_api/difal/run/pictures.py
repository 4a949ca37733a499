"""What the report shows of a few pool images: the last head's prediction and the maps behind stage 2."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

import difal_kernels
from difal.acquisition.base import Predictions
from difal.acquisition.edald import rate
from difal.config import Config
from difal.data import Data
from difal.features.dense import dense_classes, dense_learned
from difal.features.pixels import encode
from difal.files import write_tensors
from difal.run.directory import RunDirectory

LONG_SIDE = 768  # pixels; larger images are drawn smaller, since the logits of all their pixels take gigabytes


def draw_pictures(run_dir: RunDirectory, data: Data, load_encoder: Callable, config: Config) -> None:
    """Write `pictures/rRRR-NNN.safetensors` for the pool images queried last and most: prediction and scores.

    The head is that of the last round but one, if there is one: the maps then show what the last picks rested on.
    """
    rounds = run_dir.rounds()
    heads = [entry for entry in rounds[:-1] if entry.has("head.safetensors")] or rounds[-1:]
    if not heads or not heads[-1].has("head.safetensors"):
        return
    head = heads[-1].head()
    clicks = Counter(pick.image for entry in rounds for pick in entry.picks())
    last = Counter(pick.image for pick in rounds[-1].picks())
    order = sorted(range(len(data.train)), key=lambda i: (-last[data.train.ids[i]], -clicks[data.train.ids[i]], i))
    shown = order[: config.pictures]
    generator = torch.Generator()  # which eDALD does not read
    for number, index in enumerate(tqdm(shown, "pictures of the report", leave=False, unit="image")):
        path, name = run_dir.folder / "pictures" / f"r{len(rounds):03d}-{number:03d}.safetensors", data.train.ids[index]
        facts = {"name": name, "round": str(heads[-1].index), "head": heads[-1].head_digest()}
        if path.is_file() and picture_facts(path) == facts:
            continue
        image = data.train.image(index)
        size = _drawn_size(image.shape[:2])
        first = encode(load_encoder(), image, name, [0], config)
        others = (encode(load_encoder(), image, name, [draw + 1], config) for draw in range(config.noise_samples))
        logits = torch.cat([dense_learned(head, one, size) for one in itertools.chain([first], others)])
        logits = logits.flatten(1, 2).movedim(1, 0)  # (H W, 1 + K, C), fixed noise first
        entropy = difal_kernels.entropy(logits[:, 0])
        dald = difal_kernels.dald(logits[:, 1:])
        edald = rate(Predictions(logits[:, 0], logits[:, 1:], generator, config))  # as it ranks, with its `compat`
        tensors = {
            "image": torch.from_numpy(_drawn(image, size, Image.Resampling.LANCZOS)),
            "prediction": dense_classes(head, first, size)[0],
            "entropy": entropy.reshape(size).half(),
            "dald": dald.reshape(size).half(),
            "edald": edald.reshape(size).half(),
        }
        if data.train.has_masks:
            tensors["mask"] = torch.from_numpy(_drawn(data.train.mask(index), size, Image.Resampling.NEAREST))
        write_tensors(path, tensors, facts)


def picture_facts(path: Path) -> dict[str, str]:
    """The image's `name`, and `round` and digest (`head`) of the head that drew a picture; {} of a damaged file."""
    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _drawn_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, LONG_SIDE / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def _drawn(image: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    return np.array(Image.fromarray(image).resize(size[::-1], how))
