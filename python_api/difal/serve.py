"""What ranks other than 0 do: hold images and encoder, and work for rank 0 until it sends them home.

All they know of the run is what rank 0's orders say, and what they read of the images and the encoder's files.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, NoReturn

import torch

from difal.config import Config
from difal.data import Data, open_config_data
from difal.data.base import Split
from difal.encoders.lazy import LazyEncoder
from difal.errors import DataError
from difal.features.cache import Pixel, PoolImages
from difal.features.test_set import Counting, TestImages, heads_of
from difal.files import digest
from difal.link import Link, Message
from difal.ranks import Job, answer, herd
from difal.sweep.runs import runs_of
from difal_kernels.distributed import default_timeout


def serve(lost: Callable[[str], NoReturn]) -> int:
    """Do what rank 0 asks; its exit code, when it has no more to ask."""
    inbox: queue.Queue[Message] = queue.Queue()
    link = Link(default_timeout(), lambda rank, message: inbox.put(message), lost)
    job: Job | None = None
    rows: list[torch.Tensor] = []
    while True:
        facts, tensors = inbox.get()
        number = facts.get("number")
        if facts["kind"] == "end":
            return facts["code"]
        if facts["kind"] == "rows":
            rows.append(tensors["rows"])
        elif facts["kind"] == "herd":
            link.post(0, {"kind": "herding"})
            with suppress(ValueError, TypeError):  # rank 0 has the same
                herd(torch.cat(rows), facts["budget"], facts["kernel"], own_device(facts["device"]), tensors)
            rows.clear()
        elif facts["kind"] == "job":
            try:
                job = JOBS[facts["name"]](facts["order"], tensors)
                link.post(0, {"kind": "ready", "number": number, "slots": job.start()})
            except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
                link.post(0, {"kind": "failed", "number": number, "error": str(error)})
                job = None
        elif facts["kind"] == "do" and job is not None:
            job.submit(facts["item"]).add_done_callback(_reporter(link, job, number, facts["item"]))
        elif facts["kind"] == "enough" and job is not None:
            job.stop()
            job = None


def _reporter(link: Link, job: Job, number: int, item: int) -> Callable:
    def report(done) -> None:
        if not done.cancelled():
            facts, tensors = answer(job, done, number, item)
            link.post(0, {**facts, "seconds": job.clock.take()}, tensors)

    return report


def own_device(name: str) -> str:
    """The device of this rank where rank 0's is `name`: of several GPUs its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name


def own_config(values: dict[str, Any]) -> Config:
    config = Config(**{**values, "device": own_device(values["device"])})
    if config.threads:
        torch.set_num_threads(config.threads)
    return config


@lru_cache(1)
def _data(*what) -> Data:
    data, size, classes, limit = what
    return open_config_data(Config(data=data, size=size, classes=classes, limit=limit))


@lru_cache(1)
def _encoder(name: str, device: str) -> LazyEncoder:
    return LazyEncoder(Config(encoder=name, device=device))


def _images(config: Config, which: str, order: dict[str, Any]) -> tuple[Split, LazyEncoder]:
    """This rank's pool or test images and its encoder, which must be those of rank 0."""
    split = getattr(_data(config.data, config.size, config.classes, config.limit), which)
    encoder = _encoder(config.encoder, config.device)
    if split is None or digest(split.fingerprint()) != order["pool"]:
        raise DataError(f"{config.data} holds other images here than on rank 0; give every machine the same")
    if encoder.weights != order["weights"]:
        raise DataError(f"the encoder {config.encoder!r} has other weights here than on rank 0")
    return split, encoder


def _bank(order: dict[str, Any], _: dict[str, torch.Tensor]) -> Job:
    config = own_config(order["config"])
    pool, encoder = _images(config, "train", order)
    return PoolImages(pool, encoder(), config, [Pixel(*one) for one in order["given"]])


def _test(order: dict[str, Any], _: dict[str, torch.Tensor]) -> Job:
    config = own_config(order["config"])
    split, encoder = _images(config, "test", order)
    encoder()
    return TestImages(split, encoder, config)


def _count(order: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Job:
    return Counting(_test(order, {}), heads_of(order["heads"], tensors), order["classes"])


JOBS: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Job]] = {
    "cache": _bank,
    "test": _test,
    "count": _count,
    "runs": runs_of,
}
