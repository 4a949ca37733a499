"""The one pass over the encoder that every run needs: the pool's feature cache and the test set's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from difal.config import Config
from difal.data import Data, open_config_data
from difal.data.survey import Survey, survey
from difal.encoders.lazy import LazyEncoder
from difal.features.cache import FeatureCache, Pixel, build_cache
from difal.features.test_set import TestSet
from difal.files import exclusive

SURVEY = "survey.json"


def make_features(
    config: Config,
    data: Data | None = None,
    load_encoder: Callable | None = None,
    folder: Path | None = None,
    given: Sequence[Pixel] = (),
    found: Survey | None = None,
) -> tuple[FeatureCache, TestSet | None]:
    """Make, finish or open the caches of the pool and of the test set, in `folder` or `config.cache`.

    Args:
        config: every setting.
        data: the pool and the test set, instead of opening `config.data`.
        load_encoder: gives the encoder; called only where something is left to do.
        folder: where the caches are, instead of `config.cache`.
        given: pixels labeled before the run.
        found: the survey of the data, if it was made already; else it is made here.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    data = data or open_config_data(config)
    load_encoder = load_encoder or LazyEncoder(config)
    folder = Path(folder or config.cache)
    with exclusive(folder, wait=True):
        found = found or survey(data, config.mask_check, folder / SURVEY)
        if not (folder / SURVEY).is_file():
            found.write(folder / SURVEY)
        cache = build_cache(folder / "pool", data.train, load_encoder, config, given)
        test = None
        if data.test is not None and data.test.has_masks:
            test = TestSet(folder / "test", data.test, load_encoder, config)
            test.fill()
    return cache, test
