"""What the picks of acquisitions are like, and what changing one thing about them is worth.

    python bench/why_order.py SWEEP --out bench/results/why_order.json
    python bench/why_order.py SWEEP --out bench/results/why_order.json --acquisitions entropy edald \
        --changes void apart temperature calibrated

The first form reads the finished runs of a `difal sweep` and measures their picks and heads. The second runs
acquisitions again with a change of one thing; a run without one would be that of the sweep. Both write the numbers to
--out and the tables beside it; what --out holds already stays.

    skipped       picks on void
    images        that a round's picks fall into, of the round's budget; the rounds that a head chose
    distance      from a pick to the nearest one of its round, as a share of the default bandwidth of random pixels
    coverage      of the pool's random pixels by all picks, as MaxHerding counts it
    rarest three  picks of the three classes that have the fewest pixels
    confidence    mean probability of the likeliest class, of the scores that acquisition functions read; and how often
                  that class is the true one; and the expected calibration error, of 15 bins
    temperature   by which dividing those scores makes the truth likeliest

    agreement     rank correlation of the acquisition's score with the entropy
    share         of DALD in eDALD, on average; of runs that read noise samples

Heads and scores are measured on the pool's random pixels that have a class.

Changes, each with a look at the truth that no annotator could have:

    void          void pixels are no candidates
    apart         a round queries one pixel of an image, among the ten times as many that it would query first
    temperature   acquisition functions read scores divided by the temperature that makes the truth likeliest
    calibrated    the same with a constant for each class besides, as for labels drawn at random
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command import Parser, check_names

CHANGES = ("void", "apart", "temperature", "calibrated")

if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("sweep", type=Path, help="folder of a sweep whose features are still there")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the numbers; the tables go beside it")
    parser.add_argument("--acquisitions", nargs="+", help="which of the sweep's; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, help="which of the sweep's; all by default")
    parser.add_argument("--changes", nargs="+", default=[], help=f"run again with these, of {', '.join(CHANGES)}")
    OPTIONS = parser.parse_args()
    check_names(parser, OPTIONS.changes, CHANGES, "change")

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from difal.acquisition import pixels_of, rate, reads_noise, select, training_dropout
from difal.acquisition.base import SCORES
from difal.config import Config
from difal.data import IGNORE, open_config_data
from difal.data.base import Data
from difal.encoders.lazy import LazyEncoder
from difal.features.cache import FeatureCache, Pixel
from difal.features.test_set import TestSet
from difal.files import read_json, write_json, write_text
from difal.heads import ABSENT, Head, train_head
from difal.metrics import summary
from difal.run.directory import RunDirectory
from difal.timing import StageClock
from difal_kernels import dald, entropy
from difal_kernels.ops.maxherding.bandwidth import median_bandwidth

BINS = 15
TEMPERATURES = np.geomspace(0.1, 10, 81)
FEWEST = 3  # classes that count as rare


class Pool:
    """A pool's features and, of every pixel in the cache, the truth."""

    def __init__(self, config: Config):
        self.data: Data = open_config_data(config)
        self.cache = FeatureCache(Path(str(config.cache)) / "pool")
        self.classes = len(self.data.classes)
        self.truth: dict[str, np.ndarray] = {}  # (N m,) class ids, void among them, of each set of the cache
        masks = [self.data.train.mask(image) for image in range(len(self.data.train))]
        for name in ("local", "random"):
            points = self.cache.arrays[f"{name}.points"]
            self.truth[name] = np.concatenate([m[tuple(p.T)] for m, p in zip(masks, points, strict=True)]).astype(int)
        self.counts = np.bincount(np.concatenate([m[m != IGNORE] for m in masks]), minlength=self.classes)
        self.index = {name: image for image, name in enumerate(self.data.train.ids)}
        self.known = np.flatnonzero(self.truth["random"] != IGNORE)
        self.random = torch.from_numpy(np.asarray(self.cache.features("random"), np.float32))
        self.bandwidth = median_bandwidth(self.random)

    def label(self, pixel: Pixel) -> int | None:
        value = int(self.data.train.mask(pixel.image)[pixel.row, pixel.column])
        return None if value == IGNORE else value

    def scores(self, head: Head) -> torch.Tensor:
        """(n, C) scores that acquisition functions read, of the random pixels with a class."""
        return head.logits(self.cache.features("random"), self.known, learned=True)

    @property
    def known_truth(self) -> torch.Tensor:
        return torch.from_numpy(self.truth["random"][self.known])


class Played:
    """The picks of a run by round, their labels, and the head of each round."""

    def __init__(self) -> None:
        self.picks: list[list[Pixel]] = []
        self.labels: list[int | None] = []
        self.heads: list[Head] = []
        self.miou: list[float] = []


def finished(folder: Path, pool: Pool, config: Config) -> Played:
    """A run of the sweep."""
    run_dir, played = RunDirectory(folder), Played()
    for entry in run_dir.rounds()[: config.rounds]:
        labels = entry.labels()
        played.picks.append([Pixel(pool.index[label.image], label.y, label.x) for label in labels])
        played.labels += [label.class_id for label in labels]
        played.heads.append(entry.head())
        played.miou.append((entry.metrics() or {})["miou"]["standard"])
    return played


class WithoutVoid(FeatureCache):
    """A cache whose void pixels are no candidates."""

    def __init__(self, pool: Pool):
        self.__dict__.update(pool.cache.__dict__)
        self.truth = pool.truth

    def open_rows(self, pixels: str, queried: Sequence[Pixel]) -> np.ndarray:
        rows = super().open_rows(pixels, queried)
        return rows[self.truth[pixels][rows] != IGNORE]


class Rescaled:
    """A head whose scores are divided by a temperature, and raised by a constant for each class."""

    def __init__(self, head: Head, temperature: float, constants: torch.Tensor | float = 0.0):
        self.head, self.temperature, self.constants = head, temperature, constants

    def __getattr__(self, name: str) -> Any:
        return getattr(self.head, name)

    def logits(self, features: np.ndarray, rows: np.ndarray, **options: Any) -> torch.Tensor:
        scores = self.head.logits(features, rows, **options)
        return torch.where(scores > ABSENT / 2, scores / self.temperature + self.constants, scores)


def negative_log_likelihood(scores: torch.Tensor, truth: torch.Tensor, temperature: float) -> float:
    """Mean negative logarithm of the truth's probability, over pixels of classes that the head knows."""
    known = scores.gather(1, truth[:, None])[:, 0] > ABSENT / 2
    return float(torch.nn.functional.cross_entropy(scores[known].double() / temperature, truth[known]))


def best_temperature(scores: torch.Tensor, truth: torch.Tensor) -> float:
    return float(min(TEMPERATURES, key=lambda one: negative_log_likelihood(scores, truth, float(one))))


def calibration(head: Head, scores: torch.Tensor, truth: torch.Tensor) -> Rescaled:
    """The head with the temperature and the constants that make the truth likeliest."""
    known = scores.gather(1, truth[:, None])[:, 0] > ABSENT / 2
    rows, targets = scores[known].double(), truth[known]
    sharpness = torch.ones((), dtype=torch.float64, requires_grad=True)
    constants = torch.zeros(scores.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([sharpness, constants], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(rows * sharpness + constants, targets)
        value = value + 1e-4 * constants.square().sum()  # a class without a pixel would sink for ever
        value.backward()
        return value

    optimizer.step(loss)
    return Rescaled(head, 1 / float(sharpness.detach()), constants.detach().float())


def change_head(change: str, head: Head | None, pool: Pool) -> Any:
    if head is None or change not in ("temperature", "calibrated"):
        return head
    scores, truth = pool.scores(head), pool.known_truth
    if change == "calibrated":
        return calibration(head, scores, truth)
    return Rescaled(head, best_temperature(scores, truth))


def play(config: Config, pool: Pool, change: str = "", test: TestSet | None = None) -> Played:
    """The rounds of a run with one thing changed, as the loop does them."""
    cache = WithoutVoid(pool) if change == "void" else pool.cache
    played, budget = Played(), config.round_budget(len(pool.data.train))
    for index in range(config.rounds):
        before = change_head(change, played.heads[-1] if played.heads else None, pool)
        queried = [pixel for picks in played.picks for pixel in picks]
        many = 10 * budget if change == "apart" and before is not None else budget
        clock = StageClock()
        chosen = select(cache, before, queried, many, index, config, clock, pool.classes, played.labels).pixels
        if many > budget:
            chosen = one_an_image(chosen, budget)
        played.picks.append(chosen)
        played.labels += [pool.label(pixel) for pixel in chosen]
        asked = [pixel for picks in played.picks for pixel in picks]
        usable = [(pixel, label) for pixel, label in zip(asked, played.labels, strict=True) if label is not None]
        features = cache.features_of([pixel for pixel, _ in usable])
        targets, dropout = np.array([label for _, label in usable]), training_dropout(config)
        played.heads.append(
            train_head(features, targets, cache.context(), pool.classes, config, index, dropout=dropout)
        )
    if test is not None:
        counts = test.evaluate(played.heads, pool.classes)
        played.miou = [summary(count)["miou"]["standard"] for count in counts]
    return played


def one_an_image(pixels: Sequence[Pixel], budget: int) -> list[Pixel]:
    """The first pixel of each image, in order; if there are too few images, the next of each, and so on."""
    kept: list[Pixel] = []
    rest = list(pixels)
    while rest and len(kept) < budget:
        seen: set[int] = set()
        kept += [pixel for pixel in rest if not (pixel.image in seen or seen.add(pixel.image))]
        taken = set(kept)
        rest = [pixel for pixel in rest if pixel not in taken]
    return kept[:budget]


def measure(played: Played, pool: Pool, config: Config) -> dict:
    """The figures of the docstring."""
    classes = [label for label in played.labels if label is not None]
    rare = np.argsort(pool.counts)[:FEWEST]
    picked = torch.from_numpy(
        np.asarray(pool.cache.features_of([p for picks in played.picks for p in picks]), np.float32)
    )
    covered = torch.exp(-((torch.cdist(pool.random, picked).min(1).values / pool.bandwidth) ** 2))
    apart = []
    for start, stop in list(pairwise(np.cumsum([0, *map(len, played.picks)])))[1:]:
        distance = torch.cdist(picked[start:stop], picked[start:stop]).fill_diagonal_(torch.inf)
        apart.append(float(distance.min(1).values.mean()) / pool.bandwidth)
    row: dict[str, Any] = {
        "miou": played.miou,
        "skipped": len(played.labels) - len(classes),
        "images": float(np.mean([len({pixel.image for pixel in picks}) for picks in played.picks[1:]])),
        "distance": float(np.mean(apart)),
        "coverage": float(covered.mean()),
        "rarest three": int(np.isin(classes, rare).sum()),
    }
    row |= {name: [] for name in ("confidence", "correct", "error", "temperature", "agreement", "share")}
    for head in played.heads:
        for name, value in of_head(head, pool, config).items():
            row[name].append(value)
    return row


def of_head(head: Head, pool: Pool, config: Config) -> dict[str, float]:
    scores, truth = pool.scores(head), pool.known_truth
    confidence, predicted = scores.double().softmax(1).max(1)
    correct = (predicted == truth).double()
    found = {
        "confidence": float(confidence.mean()),
        "correct": float(correct.mean()),
        "error": calibration_error(confidence.numpy(), correct.numpy()),
        "temperature": best_temperature(scores, truth),
    }
    unsure = entropy(scores).numpy()
    if score := SCORES.get(config.acquisition.removeprefix("two-stage-")):
        generator = torch.Generator().manual_seed(config.seed)
        rated = rate(score, pool.cache, "random", pool.known, head, generator, config)
        found["agreement"] = rank_correlation(rated, unsure)
    if reads_noise(config):
        disagreement = dald(head.logits(pool.cache.noise("random"), pool.known, learned=True)).numpy()
        found["share"] = float(disagreement.mean() / (unsure + disagreement).mean())
    return found


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean distance of confidence and frequency over bins of equal width, each weighed by its pixels."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - correct, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def runs_of(sweep: Path, acquisitions: Sequence[str] | None, seeds: Sequence[int] | None) -> Iterator[Path]:
    """The folders of a sweep's finished runs, seed by seed."""
    found = [path.parent for path in sweep.glob("runs/**/run.json")]
    for folder in sorted(found, key=lambda path: (path.name.rpartition("-seed")[2], path.name)):
        name, _, seed = folder.name.rpartition("-seed")
        run_dir = RunDirectory(folder)
        done = [entry.has("metrics.json") for entry in run_dir.rounds()]
        wanted = (not acquisitions or name in acquisitions) and (not seeds or int(seed) in seeds)
        if wanted and len(done) == run_dir.config()["rounds"] and all(done):
            yield folder


def main(args: argparse.Namespace, log: Callable[[str], None] = print) -> None:
    rows = read_json(args.out)["rows"] if args.out.exists() else {}
    pool, test = None, None
    folders = list(runs_of(args.sweep, args.acquisitions, args.seeds))
    if not folders:
        raise SystemExit(f"{args.sweep} has no finished run of these acquisitions and seeds; give a sweep's folder")
    for folder in folders:
        config = Config(**RunDirectory(folder).config())
        pool = pool or Pool(config)
        for change in args.changes or [""]:
            key = " ".join([config.head, config.acquisition, str(config.seed), *([change] if change else [])])
            if key in rows:
                continue
            if change:
                test = test or TestSet(Path(str(config.cache)) / "test", pool.data.test, LazyEncoder(config), config)
            played = play(config, pool, change, test) if change else finished(folder, pool, config)
            facts = {"head": config.head, "acquisition": config.acquisition, "seed": config.seed, "change": change}
            rows[key] = facts | {"pixels": pixels_of(config.acquisition)} | measure(played, pool, config)
            save(args.out, rows)
            log(f"{key}: {100 * np.mean(rows[key]['miou']):.2f} % mIoU over the rounds")
    save(args.out, rows)


def save(out: Path, rows: dict[str, dict]) -> None:
    write_json(out, {"torch": torch.__version__, "rows": rows})
    write_text(out.with_suffix(".md"), tables(list(rows.values())))


def tables(rows: Sequence[dict]) -> str:
    """Means over the seeds, and for changes the differences to the run of the same seed without one."""
    parts = ["# What picks and heads are like\n\nWritten by `bench/why_order.py`, which says what the columns are.\n"]
    for head in dict.fromkeys(row["head"] for row in rows):
        some = [row for row in rows if row["head"] == head]
        plain = [row for row in some if not row["change"]]
        if plain:
            parts += [f"## Head `{head}`\n", _measured(plain)]
        if len(plain) < len(some):
            parts += [f"## Head `{head}`, one thing changed\n", _changed(some)]
    return "\n".join(parts)


PICKS = {"skipped": 0, "images": 1, "distance": 3, "coverage": 3, "rarest three": 0}  # decimals
HEADINGS = (
    *("acquisition", "seeds", "mIoU, mean of the rounds", *PICKS),
    *("confidence / correct / error, first round", "the same, last round", "temperature, first, last"),
    *("agreement, first, last", "share, first, last"),
)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(rows: Sequence[dict], name: str, at: int | None = None) -> float:
    return float(np.mean([row[name] if at is None else row[name][at] for row in rows]))


def _measured(rows: Sequence[dict]) -> str:
    lines = [_line(HEADINGS), "|---" * len(HEADINGS) + "|"]
    for name in dict.fromkeys(row["acquisition"] for row in rows):
        some = [row for row in rows if row["acquisition"] == name]
        cells = [f"`{name}`", str(len(some)), f"{100 * np.mean([row['miou'] for row in some]):.1f}"]
        cells += [f"{_mean(some, what):.{digits}f}" for what, digits in PICKS.items()]
        for at in (0, -1):
            shares = [100 * _mean(some, what, at) for what in ("confidence", "correct", "error")]
            cells.append(" / ".join(f"{value:.0f}" for value in shares))
        for what in ("temperature", "agreement", "share"):
            cells.append(f"{_mean(some, what, 0):.2f}, {_mean(some, what, -1):.2f}" if some[0][what] else "")
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _changed(rows: Sequence[dict]) -> str:
    headings = ["acquisition", "change", "seeds", "points, mean of the rounds", "at the end", "skipped", "images"]
    lines = [_line(headings), "|---" * len(headings) + "|"]
    plain = {(row["acquisition"], row["seed"]): row for row in rows if not row["change"]}
    for name, change in dict.fromkeys((row["acquisition"], row["change"]) for row in rows if row["change"]):
        some = [row for row in rows if (row["acquisition"], row["change"]) == (name, change)]
        pairs = [(row, plain[name, row["seed"]]) for row in some if (name, row["seed"]) in plain]
        if not pairs:
            continue
        ahead = [[100 * (np.mean(a["miou"][at:]) - np.mean(b["miou"][at:])) for a, b in pairs] for at in (0, -1)]
        cells = [f"{np.mean(values):+.1f} ({', '.join(f'{one:+.1f}' for one in values)})" for values in ahead]
        for what in ("skipped", "images"):
            cells.append(f"{np.mean([b[what] for _, b in pairs]):.0f} to {np.mean([a[what] for a, _ in pairs]):.0f}")
        lines.append(_line([f"`{name}`", change, str(len(pairs)), *cells]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(OPTIONS)
