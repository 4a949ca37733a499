"""The one pass over the encoder that every run needs: the pool's feature cache and the test set's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from difal import parallel
from difal.config import Config
from difal.data import Data, open_config_data
from difal.data.contents import changed
from difal.data.survey import Survey, kept_survey, survey
from difal.encoders.lazy import LazyEncoder
from difal.features.build import WAVE, build_cache
from difal.features.cache import FeatureCache, Pixel, StaleCache, settings_file
from difal.features.checks import check_encoder, check_smallest
from difal.features.maps import PoolMaps
from difal.features.test_set import TestSet

SURVEY = "survey.json"


def make_features(
    config: Config,
    data: Data | None = None,
    load_encoder: Callable | None = None,
    folder: Path | None = None,
    given: Sequence[Pixel] = (),
    wave: int = WAVE,
    found: Survey | None = None,
    log: Callable[[str], None] = lambda line: None,
    noise: bool = True,
    maps: PoolMaps | None = None,
) -> tuple[FeatureCache, TestSet | None]:
    """Make, finish or open the caches of the pool and of the test set, in `folder` or `config.cache`; on all ranks.

    The pool's cache can be read up to the last complete wave of images while the rest is made; see `build_cache`.

    Args:
        config: every setting.
        data: the pool and the test set, instead of opening `config.data`.
        load_encoder: gives the encoder; called only where something is left to do.
        folder: where the caches are, instead of `config.cache`.
        given: pixels labeled before the run.
        wave: images a rank encodes between two writes.
        found: rank 0's survey of the data, if it was made already; else it is made here.
        log: called on rank 0 with each line of a survey that is made here.
        noise: whether the noise samples behind DALD are wanted; see `difal.acquisition.reads_noise`.
        maps: keeps the feature maps of the pool's images that are encoded.
    """
    config = dataclasses.replace(config, device=parallel.own_device(config.device))
    if config.threads:
        torch.set_num_threads(config.threads)
    data = data or open_config_data(config)
    load_encoder = load_encoder or LazyEncoder(config)
    if folder is None and config.cache is None:
        raise ValueError("`folder` or `config.cache` must name the folder of the features")
    folder = Path(folder or str(config.cache))
    looked: list[Survey] = []  # rank 0 alone has a survey; every rank waits for it
    parallel.on_first_rank(lambda: looked.append(found or look(config, data, load_encoder, folder, log)))
    with parallel.hold(folder, wait=True):
        parallel.on_first_rank(lambda: _keep_survey(looked[0], folder))
        cache = build_cache(folder / "pool", data.train, load_encoder, config, given, wave, noise, maps)
        test = None
        if data.test is not None and data.test.has_masks:
            test = TestSet(folder / "test", data.test, load_encoder, config)
            test.fill()
    return cache, test


def look(config: Config, data: Data, load_encoder: Callable, folder: Path, log: Callable[[str], None]) -> Survey:
    """Look at all images, masks and the encoder, and say what there is; nothing is written.

    Args:
        config, data, load_encoder, folder: as for `make_features`.
        log: called with each line.

    Raises:
        ConfigError: the encoder or the settings do not suit the images.
        DataError: an image or a mask cannot be used.
    """
    found = survey(data, config.mask_check, folder / SURVEY)
    for line in found.lines:
        log(line)
    check_smallest(config, found.shapes)
    if not settings_file(folder / "pool").is_file():
        for line in check_encoder(config, data.train, load_encoder, found.shapes):
            log(line)
    return found


def _keep_survey(found: Survey, folder: Path) -> None:
    """Keep what was found beside the features, if they are of the same files."""
    check_files(folder, found)
    found.write(folder / SURVEY)


def check_files(folder: Path, found: Survey) -> None:
    """Compare the files of which features were made with those that are there now.

    Raises:
        StaleCache: one has other bytes; names it.
    """
    before = kept_survey(folder / SURVEY).files
    for name, made in (("pool", settings_file(folder / "pool")), ("test", folder / "test" / "test.json")):
        others = changed(before.get(name, {}), found.files.get(name, {})) if made.is_file() else []
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise StaleCache(
                f"{made.parent} holds features of {others[0]}{more} as it was before the file was changed; put it back "
                f"as it was, or delete {made.parent}, or give another --cache folder"
            )
