"""Which pixels to query next: acquisition functions by name.

A *score* rates pixels one by one by the head's predictions, a *selector* chooses a round's pixels together and needs no
head. Each is a small file of this folder, and adding one is adding a file. Every NAME gives two acquisitions: `NAME`
chooses among the random pixels (a selector may ask for all local picks instead), `two-stage-NAME` among what stage 1
keeps of the local picks. `coverage` is stage 1 alone.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from difal import parallel
from difal.acquisition.base import SCORES, SELECTORS, Pool, Predictions, Score, Selector
from difal.acquisition.skips import answerable
from difal.config import FIELDS, Config
from difal.errors import ConfigError
from difal.features.cache import FeatureCache, Pixel
from difal.files import derive_seed
from difal.heads import Head, drop
from difal.timing import StageClock
from difal_kernels import maxherding
from difal_kernels.distributed import ShardedSelection, maxherding_sharded

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

TWO_STAGE = "two-stage-"
DEFAULT = str(FIELDS["acquisition"].default)
PROGRESS_MIN_PIXELS = 30_000  # from which on global herding takes long enough for a progress bar
__all__ = ["Picks", "acquisitions", "check_acquisition", "pixels_of", "reads_noise", "select", "training_dropout"]


def acquisitions() -> dict[str, str]:
    """Every acquisition's name and one line about it.

    Example:
        >>> acquisitions()["coverage"]
        'stage 1 alone: global MaxHerding over the local picks, given the queried pixels'
    """
    first = (DEFAULT, "two-stage-edald")
    lines = {rule.name: rule.summary for rule in sorted(_rules().values(), key=lambda rule: rule.name)}
    alone = {
        name: line if name in SELECTORS else f"stage 2 alone, over random pixels: {line}"
        for name, line in lines.items()
    }
    return {
        DEFAULT: f"the default: {alone.pop(DEFAULT)}",
        "two-stage-edald": "the paper's: stage 1, then eDALD, entropy plus DALD",
        "coverage": "stage 1 alone: global MaxHerding over the local picks, given the queried pixels",
        "random": alone.pop("random"),
        **alone,
        **{TWO_STAGE + name: f"stage 1, then {line}" for name, line in lines.items() if TWO_STAGE + name not in first},
    }


def _rules() -> dict[str, Score | Selector]:
    return {**SCORES, **SELECTORS}


def check_acquisition(name: str) -> str:
    if name not in acquisitions():
        raise ConfigError(f"`acquisition` must be one of {', '.join(acquisitions())}, got {name!r}")
    return name


class Picks(NamedTuple):
    """The pixels to query, best first, and what their choice rested on."""

    pixels: list[Pixel]
    scores: list[float | None]
    survivors: int  # candidates that stage 1 left for stage 2
    how: str


def select(
    cache: FeatureCache,
    head: Head | None,
    queried: Sequence[Pixel],
    budget: int,
    round_index: int,
    config: Config,
    clock: StageClock,
    classes: int = 2,
    labels: Sequence[int | None] = (),
) -> Picks:
    """Choose the pixels of one round.

    Args:
        cache: the pool's features.
        head: the classifier of the round before, None if there is none yet; then the first pixels are chosen by
            coverage where the acquisition has a stage 1, by the selector if it is one, else at random.
        queried: every pixel queried so far, labeled or skipped; none is queried twice, and coverage counts them all:
            the annotator saw what is near a skipped pixel, too.
        budget: pixels to query; fewer are given if the cache has no more.
        round_index: with the seed, makes random choices.
        config: `acquisition`, `keep`, `kernel`, `seed`, `share`, `edald_weight`, `noise_samples`,
            `dropout`, `radius`, `skips`, `penalty`.
        clock: gets the time per stage.
        classes: the number of classes, by which ProbCover guesses its radius.
        labels: the class of each pixel of `queried`, None where it was skipped; pixels like the skipped ones are
            avoided if `skips` is "avoid", except by `random`, which stays the baseline.

    Returns:
        `Picks`. The same arguments give the same picks. Ties go to the first pixel in pool order, after stage 1 to
        the one that covers more; where a score is the same at every pixel, coverage chooses, with a warning.
    """
    name = config.acquisition
    stage_1 = _has_stage_1(name)
    rule, pixels = _rules().get(name.removeprefix(TWO_STAGE)), pixels_of(name)
    rows = cache.open_rows(pixels, queried)
    rows = rows[within_share(cache, pixels, config)[rows]]
    budget = min(budget, len(rows))
    if budget == 0:
        return Picks([], [], 0, "nothing is left to query")
    answered = np.ones(len(rows))
    if config.skips == "avoid" and name != "random":
        with clock("scores"):
            skipped = [label is None for label in labels]
            rows, answered = answerable(cache, pixels, rows, queried, skipped, budget, config)
    before = rows
    if stage_1:
        ranked = rule is not None and head is not None
        keep = max(budget, round(config.keep * len(rows))) if ranked else budget
        with clock("global herding"):
            rows, gains = cover(cache, pixels, rows, queried, keep, config)
        if not ranked:
            return _picks(cache, pixels, rows, gains, len(rows), "coverage")
    with clock("scores"):
        if isinstance(rule, Score) and head is not None:
            generator = torch.Generator().manual_seed(derive_seed("score", config.seed, round_index))
            rated = rate(rule, cache, pixels, rows, head, generator, config)
            best = np.lexsort((np.arange(len(rows)) if stage_1 else rows, -rated))[:budget]  # stage 1: by coverage
            if np.ptp(rated) == 0 and len(rows) > budget:
                warnings.warn(f"{rule.name} is {rated[0]:g} at every pixel: coverage alone chooses", stacklevel=2)
                if not stage_1:
                    best = np.searchsorted(rows, cover(cache, pixels, rows, queried, budget, config)[0])
            return _picks(cache, pixels, rows[best], rated[best], len(rows), rule.name)
        seed = derive_seed("random", config.seed, round_index)
        pool = Pool(
            cache, pixels, np.sort(rows), before, answered, queried, labels, budget, head, seed, classes, config
        )
        chooser = rule if isinstance(rule, Selector) else SELECTORS["random"]
        chosen, values = chooser.function(pool)
        return _picks(cache, pixels, pool.rows[np.asarray(chosen)], values, len(rows), chooser.name)


def within_share(cache: FeatureCache, pixels: str, config: Config) -> np.ndarray:
    """(N m,) bool: the pixels that this run may query; runs that share a cache so have candidates of their own."""
    count = len(cache.features(pixels))
    rng = np.random.default_rng(derive_seed("share", config.seed, pixels))
    return rng.permutation(count) < max(1, round(config.share * count))


def training_dropout(config: Config) -> float:
    """The dropout with which the head is trained: that of acquisitions that read MC dropout, else none."""
    score = SCORES.get(config.acquisition.removeprefix(TWO_STAGE))
    return config.dropout if score is not None and score.samples == "dropout" else 0.0


def _has_stage_1(name: str) -> bool:
    return name == "coverage" or name.startswith(TWO_STAGE)


def pixels_of(name: str) -> str:
    """The set of the cache that an acquisition chooses from, "local" or "random"."""
    return "local" if _has_stage_1(name) else getattr(_rules()[name], "pixels", "random")


def reads_noise(config: Config) -> bool:
    """Whether the acquisition reads the features under the encoder's noise samples."""
    score = SCORES.get(config.acquisition.removeprefix(TWO_STAGE))
    return score is not None and score.samples == "noise"


def _picks(cache: FeatureCache, pixels: str, rows, scores, survivors: int, how: str) -> Picks:
    values = [None if value is None or not np.isfinite(value) else float(value) for value in scores]
    return Picks([cache.pixel(pixels, row) for row in rows], values, survivors, how)


def cover(
    cache: FeatureCache, pixels: str, rows: np.ndarray, queried: Sequence[Pixel], keep: int, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Choose by MaxHerding over a set of the cache, given the queried pixels; stage 1b is this on the local picks.

    Args:
        cache, pixels: the set that is covered.
        rows: those of its rows that may be chosen.
        queried: pixels that cover already.
        keep: how many to choose.
        config: `kernel`, `herding`, `device`.

    Returns:
        `keep` of the rows in pick order, and their gains.
    """
    features, labeled = cache.features(pixels), cache.features_of(queried) if queried else None
    options: dict[str, Any] = {"labeled": labeled, "candidates": rows, "kernel": config.kernel}
    if config.herding == "sharded":
        chosen = _cover_on_all_ranks(features, keep, config, options)
    else:
        chosen = maxherding(features, keep, return_info=True, progress=len(features) > PROGRESS_MIN_PIXELS, **options)
    return np.asarray(chosen.indices), np.asarray(chosen.gains)


def _cover_on_all_ranks(features: np.ndarray, keep: int, config: Config, options: dict) -> ShardedSelection:
    """The same selection, each rank with its block of the rows."""
    rows = torch.from_numpy(np.array(features[parallel.own_rows(len(features))])).to(config.device)
    on_device: dict[str, Any] = {
        name: torch.from_numpy(np.array(value)).to(config.device) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    chosen = maxherding_sharded(rows, keep, return_info=True, **on_device)
    return chosen._replace(indices=chosen.indices.cpu(), gains=chosen.gains.cpu())


def is_sharded(config: Config, cache: FeatureCache) -> bool:
    """Whether stage 1b runs on all ranks. One process is many times faster on a CPU, if its memory holds the rows."""
    if config.herding != "auto" or parallel.world_size() == 1 or not hasattr(os, "sysconf"):
        return config.herding == "sharded"
    rows_in_float32 = 4 * cache.features("local").size
    return rows_in_float32 > 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def rate(
    score: Score,
    cache: FeatureCache,
    pixels: str,
    rows: np.ndarray,
    head: Head,
    generator: torch.Generator,
    config: Config,
) -> np.ndarray:
    """(len(rows),) float64: a score over rows of the cache."""
    single = head.logits(cache.features(pixels), rows, learned=True)
    samples = None
    if score.samples == "noise":
        samples = head.logits(cache.noise(pixels), rows, learned=True)
    elif score.samples == "dropout":
        passes = single[:, None].expand(-1, config.noise_samples, -1)
        samples = drop(passes, config.dropout, generator)
    return np.asarray(score.function(Predictions(single, samples, generator, config)), np.float64)
