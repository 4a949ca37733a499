"""Are an encoder's features worth having? mIoU at the budget of round 0, against simpler features.

    python bench/encoder_probe.py --data CAMVID --encoder tiny

One random labeled pixel in each training image, a head trained on them, and random test pixels. Rows: raw
7 x 7 RGB patches, with and without the pixel's position; the encoder's network with weights drawn anew; the
encoder. Columns: the loop's head (on L2-normalised hypercolumns, as in the loop; patches as they are) and a
linear classifier on standardised features. Mean and standard deviation over seeds, which change the labeled
pixels, the head and the untrained weights. Prints a Markdown table; --out keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from difal.config import Config
from difal.data import IGNORE, open_data
from difal.encoders import DiffusionEncoder, load_encoder
from difal.heads import train_head
from difal.metrics import confusion_matrix, mean_iou

CONTEXT = 8  # unlabeled pixels per training image that BatchNorm sees besides
L2_PENALTY = 3e-3  # of the linear classifier


class Pixels:
    """Chosen places of a split: row i of a feature array is pixel `points[i]` of image `image[i]`."""

    def __init__(self, split, per_image: int, seed: int, labeled: bool = True, every: int = 1):
        rng = np.random.default_rng(seed)
        self.split, image, points, labels = split, [], [], []
        for i in range(0, len(split), every):
            mask = split.mask(i)
            places = np.argwhere(mask != IGNORE) if labeled else np.argwhere(np.ones_like(mask, dtype=bool))
            chosen = places[rng.choice(len(places), min(per_image, len(places)), replace=False)]
            image += [i] * len(chosen)
            points.append(chosen)
            labels.append(mask[chosen[:, 0], chosen[:, 1]])
        self.image, self.points = np.array(image), np.concatenate(points)
        self.labels = np.concatenate(labels).astype(np.int64)

    def features(self, read) -> np.ndarray:
        """(n, D) float32 from `read(image, points)`, one call an image."""
        return np.concatenate([read(self.split.image(i), self.points[self.image == i]) for i in np.unique(self.image)])


def patches(position: bool, side: int = 7):
    def read(image, points):
        padded = np.pad(image, [(side // 2,) * 2] * 2 + [(0, 0)], mode="edge").astype(np.float32) / 127.5 - 1
        rows = np.stack([padded[r : r + side, c : c + side].ravel() for r, c in points])
        if position:
            rows = np.concatenate([rows, 2 * points / image.shape[:2] - 1], 1)
        return rows.astype(np.float32)

    return read


def hypercolumns(encoder: DiffusionEncoder):
    def read(image, points):
        pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
        return encoder.hypercolumns(pixels, torch.from_numpy(points), out_dtype=torch.float32).numpy()

    return read


def untrained(encoder: DiffusionEncoder, seed: int) -> DiffusionEncoder:
    """The same network, blocks and noise levels, with weights as they are before training."""
    torch.manual_seed(seed)
    unet = type(encoder.unet).from_config(encoder.unet.config)
    settings = {"blocks": encoder.blocks, "timesteps": encoder.timesteps, "resolution": encoder.resolution}
    return DiffusionEncoder(unet, encoder.scheduler, **settings)


def linear_predictions(features, targets, test, classes) -> np.ndarray:
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x, y = torch.from_numpy((features - mean) / deviation), torch.from_numpy(targets)
    weight = torch.zeros(x.shape[1] + 1, classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight[1:] + weight[0], y) + L2_PENALTY * weight[1:].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return (torch.from_numpy((test - mean) / deviation) @ weight[1:] + weight[0]).argmax(1).numpy()


def score(labeled, context, test, targets, truth, classes: int, seed: int) -> dict[str, float]:
    head = train_head(labeled, targets, context, classes, Config(seed=seed))
    with torch.no_grad():
        predictions = {"head": head(torch.from_numpy(test)).argmax(1).numpy()}
    predictions["linear"] = linear_predictions(labeled, targets, test, classes)
    return {name: 100 * mean_iou(confusion_matrix(truth, p, classes)) for name, p in predictions.items()}


def forward_seconds(encoder: DiffusionEncoder, image: np.ndarray) -> float:
    """Median time of one timestep's pass of one image."""
    noise = encoder.noise([0], *image.shape[:2])
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        encoder.maps(pixels, noise)
        times.append((time.perf_counter() - start) / len(encoder.timesteps))
    return float(np.median(times))


def probe(args) -> dict[str, dict]:
    data = open_data(args.data)
    if data.test is None or not (data.train.has_masks and data.test.has_masks):
        raise SystemExit(f"{args.data} has no masks or no test set: nothing can be measured on it")
    classes = len(data.classes)
    test = Pixels(data.test, args.test_pixels, seed=7, every=args.test_every)
    context = Pixels(data.train, CONTEXT, seed=99, labeled=False)
    labeled = [Pixels(data.train, 1, seed) for seed in range(args.seeds)]
    encoder = load_encoder(args.encoder)
    scores: dict[str, dict] = {}
    if args.out and args.out.exists():
        scores = json.loads(args.out.read_text(encoding="utf-8"))

    def measure(name, reader):
        """`reader(seed)` reads features; read once if it is the same for every seed."""
        if args.rows and name not in args.rows:
            return
        row = scores[name] = {"head": [], "linear": []}
        fixed = None
        for seed, chosen in enumerate(labeled):
            read = reader(seed)
            if fixed is None or name == "untrained":
                fixed = context.features(read), test.features(read)
            found = score(chosen.features(read), *fixed, chosen.labels, test.labels, classes, seed)
            for kind, value in found.items():
                row[kind].append(value)
            row["dimensions"] = fixed[1].shape[1]
        print(name, row, flush=True)

    measure("RGB 7x7", lambda seed: patches(False))
    measure("RGB 7x7 + position", lambda seed: patches(True))
    measure("untrained", lambda seed: hypercolumns(untrained(encoder, seed)))
    measure(args.encoder, lambda seed: hypercolumns(encoder))
    image = data.test.image(0)
    size = encoder.working_size(*image.shape[:2])
    print(f"one pass at {size}: {1e3 * forward_seconds(encoder, image):.0f} ms")
    return scores


def table(scores) -> str:
    def cell(values):
        return f"{np.mean(values):.1f} ± {np.std(values):.1f}"

    lines = ["| features | D | mIoU %, loop's head | mIoU %, linear |", "|---|---:|---:|---:|"]
    for name, row in scores.items():
        lines.append(f"| {name} | {row['dimensions']} | {cell(row['head'])} | {cell(row['linear'])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("DIFAL_CAMVID"), help="a data folder of the loop with masks")
    parser.add_argument("--encoder", default="tiny", help="as `difal.encoders.load_encoder` takes it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-every", type=int, default=4, help="use every n-th test image")
    parser.add_argument("--test-pixels", type=int, default=500, help="per test image")
    parser.add_argument("--rows", nargs="+", help="measure only these; the others stay as they are in --out")
    parser.add_argument("--out", type=Path, help="JSON file of the numbers")
    args = parser.parse_args()
    if not args.data:
        parser.error("--data: name a data folder, or set DIFAL_CAMVID")
    scores = probe(args)
    print(table(scores))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
