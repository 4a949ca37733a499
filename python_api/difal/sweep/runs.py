"""The runs of a sweep: each in a process of its own, claimed by a file lock so that every rank takes another."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import BaseFileLock

from difal import parallel
from difal.config import Config
from difal.errors import UserError
from difal.files import claim, digest
from difal.run.directory import RunDirectory
from difal.run.loop import run


class Key(NamedTuple):
    """Which run of a sweep; `preset` is "" for the defaults."""

    preset: str
    acquisition: str
    seed: int


def run_unclaimed(
    todo: dict[Key, Config], jobs: int, folder: Path, claims: list[BaseFileLock]
) -> Iterator[tuple[Key, str | None]]:
    """Yield each run that this rank did as it ends, with the text of its error if it failed.

    Args:
        todo: the runs, in the order in which they are taken.
        jobs: runs at a time; 0 for one a core on a CPU, one on another device.
        folder: where the locks go by which a run is claimed.
        claims: gets the locks, to be held until all ranks are done, so that none does again what another did.

    Raises:
        UserError: a process died.
    """
    jobs = _jobs(todo, jobs)
    unclaimed = iter(list(todo.items()))

    def next_run() -> tuple[Key, Config] | None:
        for key, config in unclaimed:
            if (lock := claim(folder / f"{digest(list(key))}.lock")) is not None:
                claims.append(lock)
                return key, dataclasses.replace(config, device=parallel.own_device(config.device))
        return None

    if jobs == 1 and parallel.world_size() == 1:
        while (one := next_run()) is not None:
            yield one[0], do(one[1])
        return
    executor = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin_worker)
    running: dict[Future, Key] = {}
    try:
        while True:
            while len(running) < jobs and (one := next_run()) is not None:
                running[executor.submit(do, one[1])] = one[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process of the sweep died, perhaps because memory ran out; the same command goes on, "
            "with fewer --jobs if need be"
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _jobs(todo: dict[Key, Config], jobs: int) -> int:
    """How many runs this rank does at a time."""
    if not jobs and any(torch.device(config.device).type != "cpu" for config in todo.values()):
        jobs = 1
    jobs = jobs or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return max(1, min(jobs, len(todo)))


def _begin_worker() -> None:
    """One thread a process; it ends at once when the sweep is interrupted or killed, and then holds no run."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def do(config: Config) -> str | None:
    """Do one run from where it was; the text of its error if it fails."""
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # progress bars of several runs are of no use
            run(config, resume=RunDirectory(config.run_folder()).exists, log=lambda line: None, test_late=True)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def collect(key: Key, config: Config) -> dict:
    """What is kept of a finished run."""
    run_dir = RunDirectory(config.run_folder())
    classes = run_dir.facts()["classes"]
    rounds = run_dir.rounds()[: config.rounds]
    metrics = [found for one in rounds if (found := one.metrics())]
    clicks = dict.fromkeys((*classes, "skipped"), 0)
    seconds: dict[str, float] = {}
    for one in rounds:
        for label in one.labels():
            clicks["skipped" if label.class_id is None else classes[label.class_id]] += 1
        for stage, entry in one.stages().items():
            seconds[stage] = round(seconds.get(stage, 0.0) + entry["seconds"], 3)
    policies = metrics[-1]["miou"] if metrics else {}
    return {
        **key._asdict(),
        "queried": [one["queried"] for one in metrics],
        "miou": {policy: [round(one["miou"][policy], 5) for one in metrics] for policy in policies},
        "pixel_accuracy": [round(one["pixel_accuracy"], 5) for one in metrics],
        "class_iou": dict(zip(classes, metrics[-1]["class_iou"] if metrics else [], strict=bool(metrics))),
        "class_clicks": clicks,
        "seconds": seconds,
    }
