"""What features are worth: mIoU of heads trained on one labeled pixel of each pool image, encoder by encoder.

    python bench/encoder_probe.py --data CAMVID --features rgb+position untrained tiny efficientnet-lite0 \
        --out bench/results/encoder_probe.json

Features are named by what they are:

    rgb          the 7 x 7 pixels around the pixel, in [-1, 1]
    position     row and column of the pixel, in [-1, 1]
    untrained    the network of `tiny` with random weights
    ENCODER      L2-normalised hypercolumns of what `difal.encoders.load_encoder` takes; TEXT=ENCODER calls it TEXT
    A+B          both, one after the other; the linear head standardises each number, the MLP takes them as they are

Columns: each of the loop's heads, with its default settings. Mean and standard deviation over seeds, which change the
labeled pixels and the head. Writes the numbers to --out and the table beside it; a row of other features that --out
holds already stays.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from command import Parser, check_names

if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--data", default=os.environ.get("DIFAL_CAMVID"), help="a data folder of the loop with masks")
    parser.add_argument("--features", nargs="+", default=["rgb+position", "untrained", "tiny"], help="see above")
    parser.add_argument("--heads", nargs="+", help="all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test-every", type=int, default=3, help="use every n-th test image")
    parser.add_argument("--test-pixels", type=int, default=1000, help="of each of them")
    parser.add_argument("--limit", type=int, help="use the first LIMIT images of each split only")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    parser.add_argument("--out", type=Path, help="JSON file of the numbers; the table goes beside it")
    OPTIONS = parser.parse_args()
    if not OPTIONS.data:
        parser.error("--data: name a data folder, or set DIFAL_CAMVID")

import time

import numpy as np
import torch
from tqdm import tqdm

from difal.config import Config
from difal.data import IGNORE, open_data
from difal.data.base import Split
from difal.encoders import load_encoder
from difal.encoders.training import new_encoder
from difal.files import derive_seed, read_json, write_json, write_text
from difal.heads import HEADS, train_head
from difal.metrics import confusion_matrix, mean_iou
from difal.threads import in_order

CONTEXT = 8  # unlabeled pixels of each pool image that the heads see besides
SIDE = 7  # of an RGB patch


class Pixels:
    """Random pixels of images of a split, `points[i]` (m, 2) and `labels[i]` (m,) of image i."""

    def __init__(self, split: Split, images: range, per_image: int, *seed, labeled: bool = True):
        self.points, self.labels = {}, {}
        for i in images:
            mask = split.mask(i)
            eligible = np.argwhere(mask != IGNORE) if labeled else np.argwhere(np.ones_like(mask, dtype=bool))
            rng = np.random.default_rng(derive_seed("encoder probe", *seed, i))
            chosen = eligible[rng.choice(len(eligible), min(per_image, len(eligible)), replace=False)]
            self.points[i] = chosen
            self.labels[i] = mask[chosen[:, 0], chosen[:, 1]].astype(np.int64)

    def targets(self) -> np.ndarray:
        """(n,) class ids, image after image, in the order of the features."""
        return np.concatenate(list(self.labels.values()))


def read_rgb(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    padded = np.pad(image, [(SIDE // 2,) * 2] * 2 + [(0, 0)], mode="edge").astype(np.float32) / 127.5 - 1
    return np.stack([padded[r : r + SIDE, c : c + SIDE].ravel() for r, c in points])


def read_position(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    return (2 * points / image.shape[:2] - 1).astype(np.float32)


class Hypercolumns:
    """Reads an encoder's hypercolumns, as the loop reads its features: noise sample 0, normalised."""

    def __init__(self, encoder):
        self.encoder = encoder

    def __call__(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
        return self.encoder.hypercolumns(pixels, torch.from_numpy(points), out_dtype=torch.float32).numpy()


def make_reader(name: str):
    if name == "untrained":
        return Hypercolumns(new_encoder("tiny", seed=0))
    return {"rgb": read_rgb, "position": read_position}.get(name) or Hypercolumns(load_encoder(name))


class Features:
    """Features of the pixels that the probe needs; each source is read once, in one pass over the images."""

    def __init__(self, split: Split, sets: list[Pixels]):
        self.split, self.sets, self.kept = split, sets, {}

    def __call__(self, source: str) -> list[np.ndarray]:
        """A (n, D) float32 array for each of the sets."""
        if source not in self.kept:
            self.kept[source] = self._read(make_reader(source), source)
        return self.kept[source]

    def _read(self, reader, source: str) -> list[np.ndarray]:
        def one(i: int) -> list[np.ndarray]:
            counts = [len(pixels.points[i]) for pixels in self.sets]
            rows = reader(self.split.image(i), np.concatenate([pixels.points[i] for pixels in self.sets]))
            return np.split(rows, np.cumsum(counts)[:-1])

        images = list(self.sets[0].points)
        found = list(tqdm(in_order(one, images), source, len(images), leave=False, unit="image"))
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def joined(self, sources: list[str]) -> list[np.ndarray]:
        return [np.concatenate(rows, axis=1) for rows in zip(*map(self, sources), strict=True)]


def score(head: str, labeled, targets, context, test, truth, classes: int, seed: int) -> float:
    """Test mIoU in percent."""
    trained = train_head(labeled, targets, context, classes, Config(head=head, seed=seed))
    predicted = trained.logits(test, np.arange(len(test))).argmax(1).numpy()
    return 100 * mean_iou(confusion_matrix(truth, predicted, classes))


def probe(args, rows: dict[str, dict]) -> None:
    """Measure each of `args.features` and put it into `rows`, saved after each."""
    data = open_data(args.data, limit=args.limit)
    if data.test is None or not (data.train.has_masks and data.test.has_masks):
        raise SystemExit(f"{args.data} has no masks or no test set: nothing can be measured on it")
    classes = len(data.classes)
    seeds = range(args.seeds)
    images, test_images = range(len(data.train)), range(0, len(data.test), args.test_every)
    context = Pixels(data.train, images, CONTEXT, "context", labeled=False)
    labeled = [Pixels(data.train, images, 1, "labeled", seed) for seed in seeds]
    test = Pixels(data.test, test_images, args.test_pixels, "test")
    truth = test.targets()
    pool, tested = Features(data.train, [context, *labeled]), Features(data.test, [test])
    for text in args.features:
        name, _, given = text.rpartition("=")
        sources = given.split("+")
        row = {"features": given, "test_images": len(test_images), "test_pixels": args.test_pixels}
        row |= {head: [] for head in args.heads}
        start = time.perf_counter()
        beside, *some = pool.joined(sources)
        (rest,) = tested.joined(sources)
        for seed in seeds:
            targets = labeled[seed].targets()
            for head in args.heads:
                row[head].append(score(head, some[seed], targets, beside, rest, truth, classes, seed))
        row["dimensions"] = rest.shape[1]
        rows[name or given] = row
        cells = {head: f"{np.mean(row[head]):.1f}" for head in args.heads}
        print(f"{name or given}: {cells}, {time.perf_counter() - start:.0f} s", flush=True)
        save(args, data.name, rows)


def save(args, data: str, rows: dict[str, dict]) -> None:
    facts = {"data": data, "torch": torch.__version__, "rows": rows}
    if args.out:
        write_json(args.out, facts)
        write_text(args.out.with_suffix(".md"), table(args.heads, rows) + "\n")


def table(heads: list[str], rows: dict[str, dict]) -> str:
    def cell(values: list[float]) -> str:
        return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if values else "-"

    lines = [
        f"| features | numbers a pixel | test pixels | {' | '.join(f'mIoU %, {head} head' for head in heads)} |",
        f"|---|---:|---:|{'---:|' * len(heads)}",
    ]
    for name, row in rows.items():
        cells = [str(row["dimensions"]), f"{row['test_images']} x {row['test_pixels']}"]
        cells += [cell(row.get(head, [])) for head in heads]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    args.heads = args.heads or sorted(HEADS)
    check_names(parser, args.heads, HEADS, "head")
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = read_json(args.out).get("rows", {}) if args.out and args.out.exists() else {}
    probe(args, rows)
    print(table(args.heads, rows))


if __name__ == "__main__":
    main(OPTIONS)
