"""The one pass over the encoder that every run needs: the pool's feature cache and the test set's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from difal import parallel
from difal.config import Config
from difal.data import Data, open_config_data
from difal.data.check import check_split
from difal.encoders.lazy import LazyEncoder
from difal.features.cache import WAVE, FeatureCache, Pixel, build_cache, settings_file
from difal.features.test_set import TestSet


def make_features(
    config: Config,
    data: Data | None = None,
    load_encoder: Callable | None = None,
    folder: Path | None = None,
    given: Sequence[Pixel] = (),
    wave: int = WAVE,
) -> tuple[FeatureCache, TestSet | None]:
    """Make, finish or open the caches of the pool and of the test set, in `folder` or `config.cache`; on all ranks.

    The pool's cache can be read up to the last complete wave of images while the rest is made; see `build_cache`.
    """
    config = dataclasses.replace(config, device=parallel.own_device(config.device))
    if config.threads:
        torch.set_num_threads(config.threads)
    data = data or open_config_data(config)
    load_encoder = load_encoder or LazyEncoder(config)
    if folder is None and config.cache is None:
        raise ValueError("`folder` or `config.cache` must name the folder of the features")
    folder = Path(folder or str(config.cache))
    with parallel.hold(folder, wait=True):
        parallel.on_first_rank(lambda: _check_images(folder, data))
        cache = build_cache(folder / "pool", data.train, load_encoder, config, given, wave)
        test = None
        if data.test is not None and data.test.has_masks:
            test = TestSet(folder / "test", data.test, load_encoder, config)
            test.fill()
    return cache, test


def _check_images(folder: Path, data: Data) -> None:
    """All images and masks, unless features of them were begun here: then they were checked."""
    if not settings_file(folder / "pool").is_file():
        check_split(data.train, "the pool's images")
    if data.test is not None and not (folder / "test/test.json").is_file():
        check_split(data.test, "the test images")
