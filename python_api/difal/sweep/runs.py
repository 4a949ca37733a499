"""The runs of a sweep: each in a process of its own, on this machine or on all ranks of `torchrun`."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import torch

from difal.config import Config
from difal.errors import ConfigError, UserError
from difal.files import read_json, write_json
from difal.ranks import Job, team, world
from difal.run.directory import RunDirectory
from difal.run.loop import run

SEEN = "seen.json"  # by which a rank knows that it sees the folder that rank 0 sees


class Key(NamedTuple):
    """Which run of a sweep; `preset` is "" where no preset was asked for."""

    preset: str
    acquisition: str
    seed: int


class Runs(Job):
    """Whole runs, each in a process of its own; a team's ranks must see one folder."""

    name = "runs"

    def __init__(self, todo: Sequence[tuple[Key, Config]], jobs: int, folder: Path):
        super().__init__()
        self.todo, self.jobs, self.folder = todo, jobs, folder
        self.executor: ProcessPoolExecutor | None = None

    def order(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        token = {"is": secrets.token_hex(8)}
        write_json(self.folder / SEEN, token)
        runs = [[*key, config.to_dict()] for key, config in self.todo]
        return {"runs": runs, "jobs": self.jobs, "folder": str(self.folder), "token": token}, {}

    def start(self) -> int:
        jobs = self.jobs or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        if not self.jobs and any(torch.device(config.device).type != "cpu" for _, config in self.todo):
            jobs = 1
        jobs = min(jobs, len(self.todo))
        if jobs > 1 or world() > 1:  # a rank's own process has to answer rank 0
            self.executor = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin_worker)
        return jobs

    def make(self, item: int) -> dict | str:
        return do(*self.todo[item])

    def submit(self, item: int) -> Future:
        return self.executor.submit(do, *self.todo[item])

    def reason(self, error: BaseException) -> str:
        if isinstance(error, BrokenProcessPool):
            return (
                "a process of the sweep died, perhaps for want of memory; the same command goes on, "
                "with fewer --jobs if need be"
            )
        return super().reason(error)

    def stop(self) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)


def runs_of(order: dict[str, Any], _: dict[str, torch.Tensor]) -> Runs:
    """The `Runs` of an order, on another rank."""
    from difal.serve import own_config

    folder = Path(order["folder"])
    if not (folder / SEEN).is_file() or read_json(folder / SEEN) != order["token"]:
        raise ConfigError(f"{folder} is not the folder that rank 0 sees; put --out where every machine sees it")
    todo = [(Key(*key), own_config(config)) for *key, config in order["runs"]]
    return Runs(todo, order["jobs"], folder)


def finished(todo: dict[Key, Config], jobs: int, folder: Path) -> Iterator[tuple[Key, dict | str]]:
    """Each run as it ends, with what is kept of it, or the text of its error if it failed."""
    keys, runs = list(todo), Runs(list(todo.items()), jobs, folder)
    if not keys:
        return
    if (ranks := team()) is not None:
        for item, found in ranks.each(runs, range(len(keys)), ordered=False):
            yield keys[item], found
        return
    if runs.start() == 1:
        for item, key in enumerate(keys):
            yield key, runs.make(item)
        return
    try:
        futures = {runs.submit(item): key for item, key in enumerate(keys)}
        for future in as_completed(futures):
            if (error := future.exception()) is not None:
                raise UserError(runs.reason(error)) from None
            yield futures[future], future.result()
    finally:
        runs.stop()


def _begin_worker() -> None:
    """One thread a process; it ends at once when the sweep is interrupted or killed, and then holds no run."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def do(key: Key, config: Config) -> dict | str:
    """One run from where it was: what is kept of it, or the text of its error if it fails."""
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # progress bars of several runs are of no use
            run(config, resume=RunDirectory(config.run_folder()).exists, say=lambda line: None)
        return collect(key, config)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def collect(key: Key, config: Config) -> dict:
    """What is kept of a finished run."""
    run_dir = RunDirectory(config.run_folder())
    classes = run_dir.facts()["classes"]
    rounds = [one for one in run_dir.rounds()[: config.rounds] if one.has("metrics.json")]
    metrics = [one.metrics() for one in rounds]
    clicks, seconds = dict.fromkeys((*classes, "skipped"), 0), {}
    for one in rounds:
        for label in one.labels():
            clicks["skipped" if label.class_id is None else classes[label.class_id]] += 1
        for stage, entry in one.stages().items():
            seconds[stage] = round(seconds.get(stage, 0.0) + entry["seconds"], 3)
    policies = metrics[-1]["miou"] if metrics else {}
    return {
        **key._asdict(),
        "asked": [one["asked"] for one in metrics],
        "miou": {policy: [round(one["miou"][policy], 5) for one in metrics] for policy in policies},
        "pixel_accuracy": [round(one["pixel_accuracy"], 5) for one in metrics],
        "class_iou": dict(zip(classes, metrics[-1]["class_iou"] if metrics else [], strict=bool(metrics))),
        "class_clicks": clicks,
        "seconds": seconds,
    }
