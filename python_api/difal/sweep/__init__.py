"""Presets x acquisitions x seeds, each run once, on features that are computed once.

    OUT/sweep.yaml                 the plan, with which `--resume OUT` goes on
    OUT/runs/[PRESET/]NAME-seedN   a run folder each, as of `difal run`
    OUT/caches/DIGEST               features, shared by all runs whose data, encoder and stage-1 settings agree
    OUT/results.json, table.md, curves.png   rewritten after every finished run (`--results` puts them elsewhere)

The runs go through `jobs` processes of one thread each. A run that is finished is not done again, one that was cut
short goes on at the step where it was.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import BaseFileLock

from difal import parallel
from difal.acquisition import check_acquisition, reads_noise
from difal.config import ENCODER_PIXELS, MAY_CHANGE, Config, check_keys, read_mapping
from difal.data import open_config_data
from difal.earlier_names import renamed_argument
from difal.errors import ConfigError, DataError, UserError
from difal.features.compute import make_features
from difal.files import digest, write_bytes, write_json, write_text
from difal.presets import check_encoder, make_config
from difal.run.directory import RunDirectory, absolute_paths
from difal.sweep.runs import Key, collect, run_unclaimed
from difal.sweep.table import curves, table, without_spread

ACQUISITIONS = ("two-stage-edald", "coverage", "edald", "entropy", "bald", "margin", "coreset", "random")
# What features depend on: runs that agree in these share a cache.
FEATURES = (
    *(
        "data",
        "encoder",
        "size",
        "classes",
        "limit",
        "labels",
        "candidates",
        "local",
        "random",
        "noise_samples",
        "kernel",
    ),
    *("void", "feature_seed", "cache_dtype", "test_pixels"),
)
EARLIER = {"bank_per_seed": "features_per_seed"}  # names in sweep.yaml files of earlier versions
OWN = ("presets", "acquisitions", "seeds", "jobs", "features_per_seed", "results", "paths")


@dataclass
class Sweep:
    """What a sweep does.

    Attributes:
        out: its folder.
        settings: settings of every run, over those of the preset.
        presets: names of presets; empty for the defaults.
        acquisitions, seeds: what is varied.
        jobs: runs at a time; 0 for one a core on a CPU, one on another device.
        features_per_seed: compute features for each seed anew, so that candidates and noise vary with it, too.
        results: where the table, the plot and their figures go; None for `out`.
        paths: where files and folders are that the settings name relative to another working directory.
    """

    out: Path
    settings: dict[str, Any] = field(default_factory=dict)
    presets: Sequence[str] = ()
    acquisitions: Sequence[str] = ACQUISITIONS
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    jobs: int = 0
    features_per_seed: bool = False
    results: Path | None = None
    paths: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out, self.results = Path(self.out), None if self.results is None else Path(self.results)
        for name in ("presets", "acquisitions", "seeds"):
            values = tuple(getattr(self, name))
            if len(set(values)) < len(values):
                raise ConfigError(f"`{name}` must differ, got {', '.join(map(str, values))}")
            setattr(self, name, values)
        if not self.acquisitions or not self.seeds:
            raise ConfigError("a sweep needs at least one acquisition and one seed")
        for name in self.acquisitions:
            check_acquisition(name)
        self.settings = check_keys(self.settings, "the sweep")
        for name in ("acquisition", "seed", "out"):
            if name in self.settings:
                raise ConfigError(f"`{name}` is what the sweep varies; leave it out")
        if self.jobs < 0:
            raise ConfigError(f"`jobs` must be at least 0, got {self.jobs}")

    def runs(self) -> list[Key]:
        """All runs, a seed at a time, so that an early look sees every acquisition."""
        presets = self.presets or ("",)
        return [Key(p, name, seed) for p in presets for seed in self.seeds for name in self.acquisitions]

    def config(self, key: Key) -> Config:
        """The settings of one run."""
        fixed = {"acquisition": key.acquisition, "seed": key.seed}
        if self.features_per_seed:
            fixed["feature_seed"] = key.seed
        config = make_config(None, {"pictures": 0, **self.settings, **fixed}, key.preset or None)
        name = f"{key.acquisition}-seed{key.seed}"
        config.out = str(self.out / "runs" / key.preset / name)
        if config.cache is None:
            features = {name: getattr(config, name) for name in FEATURES}
            if config.encoder_pixels != ENCODER_PIXELS:
                features["encoder_pixels"] = config.encoder_pixels
            config.cache = str(self.out / "caches" / digest(features))
        for name in ("data", "encoder", "cache", "labels"):
            setattr(config, name, self.place(getattr(config, name)))
        return config

    def place(self, path: str | None) -> str | None:
        """A path as it was when the sweep began, if it is there."""
        found = self.paths.get(path or "")
        return found if found and Path(found).exists() else path

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in OWN}
        values |= {name: list(values[name]) for name in ("presets", "acquisitions", "seeds")}
        values["results"] = None if self.results is None else str(self.results.resolve())
        values["paths"] = dict(self.paths)
        for config in map(self.config, self.runs()):
            named = {name: getattr(config, name) for name in ("data", "encoder", "cache", "labels")}
            absolute = absolute_paths(config)
            values["paths"] |= {named[name]: path for name, path in absolute.items() if named[name] != path}
        return {**values, **self.settings}


def read_sweep(path: Path) -> dict[str, Any]:
    """A YAML file of a sweep: what is varied, and settings of every run."""
    values = {EARLIER.get(name, name): value for name, value in read_mapping(path).items()}
    own = {name: value for name, value in values.items() if name in OWN}
    values = own | check_keys({name: value for name, value in values.items() if name not in OWN}, str(path))
    for name in ("presets", "acquisitions", "seeds"):
        if name in values and not isinstance(values[name], list):
            raise ConfigError(f"{path}: `{name}` must be a list such as [a, b], got {values[name]!r}")
    return values


@renamed_argument("say", "log")
def sweep(plan: Sweep, log: Callable[[str], None] = print) -> list[dict]:
    """Do the runs that are not finished, and write the table, the plot and their figures after each.

    Under torchrun every rank calls it and takes the next run that no rank has.

    Returns:
        What is kept of each run, in the order of `plan.runs()`.

    Raises:
        UserError: a setting cannot work, an earlier run in the folder had others, or runs failed. One that fails does
            not stop the others; the message lists all that did.
    """
    configs = {key: plan.config(key) for key in plan.runs()}
    for config in configs.values():
        _check_same(config)
    _check_data(configs)
    first = parallel.rank() == 0
    with parallel.hold(plan.out):
        todo = {key: config for key, config in configs.items() if not is_finished(config)}
        parallel.on_first_rank(lambda: _write_plan(plan))
        if first and len(todo) < len(configs):
            log(f"{len(configs) - len(todo)} of {len(configs)} runs are finished")
            _write(plan, _finished(configs))
        for config in {config.cache: config for config in todo.values()}.values():
            if first:
                log(f"features of {config.data}: {config.cache}")
            noise = any(reads_noise(one) for one in todo.values() if one.cache == config.cache)
            make_features(config, noise=noise)
        failed: dict[Key, str] = {}
        begun = time.monotonic()
        claims: list[BaseFileLock] = []
        for key, error in run_unclaimed(todo, plan.jobs, plan.out / "claims", claims):
            if error:
                failed[key] = error
                log(f"{_name(key)} failed: {error}")
                continue
            done = _finished(configs)
            if first:
                _write(plan, done)
            log(_progress(key, configs, done, len(todo) - len(failed), begun))
        failures = int(parallel.sum_over_ranks(np.array(len(failed))))
        claims.clear()
        parallel.on_first_rank(lambda: shutil.rmtree(plan.out / "claims", ignore_errors=True))
        done = _finished(configs)
        parallel.on_first_rank(lambda: _write(plan, done))
    if first and todo and (same := without_spread(list(done.values()))):
        log(f"the same with every seed: {', '.join(same)}; --share 0.8 gives each seed candidates of its own")
    if failures:
        raise UserError(
            f"{failures} of {len(configs)} runs failed; the same command tries them again:\n"
            + "\n".join(f"  {_name(key)}: {error}" for key, error in failed.items())
        )
    return [done[key] for key in configs]


def _finished(configs: dict[Key, Config]) -> dict[Key, dict]:
    return {key: collect(key, config) for key, config in configs.items() if is_finished(config)}


def _progress(key: Key, configs: dict[Key, Config], done: dict[Key, dict], todo: int, begun: float) -> str:
    """A line about a run that has just ended."""
    curve = done[key]["miou"].get("standard", [])
    line = f"[{len(done)}/{len(configs)}] {_name(key)}: {100 * curve[-1] if curve else float('nan'):.2f} % mIoU"
    left = len(configs) - len(done)
    per_run = (time.monotonic() - begun) / max(1, todo - left)
    return line + (f", about {_duration(left * per_run)} left" if left else "")


def _name(key: Key) -> str:
    return f"{key.preset + ' ' if key.preset else ''}{key.acquisition} seed {key.seed}"


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds > 5400
        else f"{seconds / 60:.0f} min"
        if seconds > 90
        else f"{seconds:.0f} s"
    )


def _check_same(config: Config) -> None:
    """Refuse to go on with a run that was begun with other settings."""
    run_dir = RunDirectory(config.run_folder())
    if not run_dir.exists:
        return
    before = Config(**run_dir.config()).to_dict()
    for name, value in config.to_dict().items():
        if name not in MAY_CHANGE | {"out", "cache", "pictures", "encoder_pixels"} and before[name] != value:
            raise ConfigError(
                f"{run_dir.folder} was begun with {name} = {before[name]!r}, this sweep has {value!r}; "
                f"give it the old setting, or another --out"
            )


def _check_data(configs: dict[Key, Config]) -> None:
    """Every data set has what a sweep needs, masks of the pool and of a test set; every encoder is there."""
    seen = set()
    for config in configs.values():
        check_encoder(config.encoder)
        what = (config.data, config.size, config.classes, config.limit)
        if what in seen:
            continue
        seen.add(what)
        data = open_config_data(config)
        if not data.train.has_masks or data.test is None or not data.test.has_masks:
            raise DataError(f"a sweep compares test results: {config.data} needs masks, and a test set with masks")


def is_finished(config: Config) -> bool:
    """Whether every round of the run is tested, where there is a head to test: not before the first label."""
    run_dir = RunDirectory(config.run_folder())
    return run_dir.exists and all(
        run_dir.round(index).has("metrics.json") or _is_without_label(run_dir, index) for index in range(config.rounds)
    )


def _is_without_label(run_dir: RunDirectory, index: int) -> bool:
    """Whether all that was queried up to a round, which is labeled, was skipped."""
    if not run_dir.round(index).has("labels.jsonl"):
        return False
    return all(label.class_id is None for label in run_dir.queried(index + 1, run_dir.known()))


def _write_plan(plan: Sweep) -> None:
    write_text(plan.out / "sweep.yaml", yaml.safe_dump(plan.to_dict(), sort_keys=False))


def _write(plan: Sweep, done: dict[Key, dict]) -> None:
    """The figures, the table and the plot of the runs that are finished."""
    folder = plan.results or plan.out
    runs = [done[key] for key in plan.runs() if key in done and done[key]["queried"]]
    if not runs:
        return
    write_json(folder / "results.json", {"sweep": _portable(plan), "machine": machine(), "runs": runs})
    write_text(folder / "table.md", table(runs))
    write_bytes(folder / "curves.png", curves(runs))


def _portable(plan: Sweep) -> dict[str, Any]:
    """The plan, without this machine's folders."""
    values = {
        name: value for name, value in plan.to_dict().items() if name not in ("cache", "results", "jobs", "paths")
    }
    if not str(values.get("data", "")).startswith("scenes"):
        values["data"] = Path(str(values.get("data", ""))).name
    return values


def machine() -> dict[str, Any]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__}
