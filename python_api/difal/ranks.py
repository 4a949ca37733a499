"""One run on several processes, as `torchrun` starts them: rank 0 runs it, the others work for it.

Rank 0 alone reads and writes the run's folder and the cache; its code is that of a run in one process. Where it
passes many images through the encoder it hands them out, each to the rank that is free next, and puts the answers in
order; an image gives the same on every rank, so nothing depends on how many there are. The others hold an encoder and
the images, and answer. See `difal.serve` for their side, `difal.link` for the messages and for a rank that is lost.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch

from difal.errors import UserError
from difal.link import GRACE, Link, Message
from difal.threads import in_order as in_order_here
from difal.timing import StageClock

CHUNK = 1 << 26  # bytes of rows sent at a time
FAILED = 1
_team: Team | None = None


class Job:
    """Work on many items, each of which gives the same on any rank; `make` does one.

    A subclass sets `name`, by which `difal.serve` knows how to make the same job of an `order`.
    """

    name = ""

    def __init__(self) -> None:
        self.clock = StageClock()

    def order(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """JSON-able facts and tensors, from which another rank makes this job."""
        raise NotImplementedError

    def make(self, item: int) -> dict[str, Any]:
        """Tensors and arrays by name."""
        raise NotImplementedError

    def start(self) -> int:
        """Get ready; how many items this process does at a time."""
        self.threads = torch.get_num_threads()
        self.executor: Executor = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
        return self.threads

    def submit(self, item: int) -> Future:
        return self.executor.submit(self.make, item)

    def reason(self, error: BaseException) -> str:
        """What is told of an item that failed."""
        return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"

    def stop(self) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self.threads)  # the last call rules threads that are yet to come


def team() -> Team | None:
    """The ranks that work for this process; None where it is alone, or works for rank 0."""
    return _team


def workers() -> int:
    """Items that are worked on at a time."""
    return torch.get_num_threads() if _team is None else max(1, sum(_team.slots.values()))


def in_order(job: Job, items: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield job.make(item) for each item, in order, made by all ranks there are; see `difal.threads.in_order`."""
    if _team is None:
        yield from in_order_here(job.make, items)
        return
    for _, found in _team.each(job, items, ordered=True):
        yield found


def world() -> int:
    """How many processes the environment says there are."""
    described = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    return int(os.environ["WORLD_SIZE"]) if described else 1


def on_all(call: Callable[[], int], again: str, shared: bool = True) -> int:
    """`call()`, where torchrun started several processes on rank 0 alone, the others working for it; the exit code.

    Args:
        call: what is to be done.
        again: what to start again after a rank was lost.
        shared: whether there is work for the others.

    Raises:
        UserError: there is none, but there are others.
    """
    global _team
    if world() == 1:
        return call()
    if not shared:
        raise UserError("under torchrun there are `run`, `encode` and `sweep`; start this command without it")
    from difal.serve import serve
    from difal_kernels.distributed import connect

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    rank = connect("cuda" if int(os.environ.get("LOCAL_RANK", 0)) < gpus else "cpu")
    lost = _teller(rank, f"start all ranks again with {again}")
    signal.signal(signal.SIGTERM, _ended)
    if rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 is interrupted, and sends the others home
        return serve(lost)
    _team = Team(lost)
    code = FAILED
    try:
        code = call()
    finally:
        _team.close(code)
        _team = None
    return code


def leave(code: int) -> NoReturn:
    """End this process. Where there are other ranks, without what the libraries do last of all: a thread of theirs that
    is still there then would abort it, and a finished run would count as failed."""
    if world() > 1:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _teller(rank: int, again: str) -> Callable[[str], NoReturn]:
    """What to do where a rank is lost: say so and end. Files are whole or absent, so any moment will do."""

    def lost(reason: str) -> NoReturn:
        sys.stdout.flush()
        print(f"difal: error: rank {rank} of {world()}: {reason}; {again}", file=sys.stderr, flush=True)
        os._exit(FAILED)

    return lost


def _ended(number: int, frame: Any) -> NoReturn:
    """torchrun ends all ranks as soon as one has failed; the link's thread has a moment to say which."""
    time.sleep(GRACE)
    os._exit(128 + number)


class Team:
    """Rank 0's view of all ranks."""

    def __init__(self, lost: Callable[[str], NoReturn]):
        from difal_kernels.distributed import default_timeout

        self.news = threading.Condition()
        self.said: deque[tuple[int, Message]] = deque()
        self.slots: dict[int, int] = {}
        self.jobs = 0
        self.link = Link(default_timeout(), self._hear, lost)
        self.others = list(self.link.outbox)

    @property
    def size(self) -> int:
        return self.link.size

    def close(self, code: int) -> None:
        self.link.close({"kind": "end", "code": code})

    def _hear(self, rank: int, message: Message) -> None:
        with self.news:
            self.said.append((rank, message))
            self.news.notify()

    def _next(self) -> tuple[int, Message]:
        with self.news:
            while not self.said:
                self.news.wait()
            return self.said.popleft()

    def _tell_all(self, facts: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> None:
        for rank in self.others:
            self.link.post(rank, facts, tensors)

    def each(self, job: Job, items: Sequence[int], ordered: bool) -> Iterator[tuple[int, Any]]:
        """Yield (item, what it gave) as the items are done, or in their order."""
        if not len(items):
            return
        self.jobs += 1
        number, self.slots = self.jobs, {0: job.start()}
        facts, tensors = job.order()
        self._tell_all({"kind": "job", "number": number, "name": job.name, "order": facts}, tensors)
        todo, busy = deque(items), dict.fromkeys(range(self.size), 0)
        found: dict[int, Any] = {}
        given: deque[int] = deque()  # not yielded yet
        try:
            while todo or given:
                self._hand_out(job, number, todo, busy, given)
                item = given[0] if ordered else next((item for item in given if item in found), None)
                if item in found:
                    given.remove(item)
                    yield item, _value(found.pop(item))
                    continue
                rank, message = self._next()
                if message.facts.get("number") != number:
                    continue  # of a job that failed
                if message.facts["kind"] == "failed":
                    raise UserError(f"rank {rank}: {message.facts['error']}")
                if message.facts["kind"] == "ready":
                    self.slots[rank] = message.facts["slots"]
                    continue
                busy[rank] -= 1
                found[message.facts["item"]] = message
                for stage, seconds in message.facts["seconds"].items():
                    job.clock.add(stage, seconds)
        finally:
            self._tell_all({"kind": "enough", "number": number})
            job.stop()

    def _hand_out(self, job: Job, number: int, todo: deque, busy: dict[int, int], given: deque) -> None:
        """Give every rank what it can do, and one item more to have at hand; not too far ahead of what was yielded."""
        ahead = 3 * sum(self.slots.values())
        for rank, slots in self.slots.items():
            while todo and len(given) < ahead and busy[rank] < slots + bool(rank):
                item = todo.popleft()
                given.append(item)
                busy[rank] += 1
                if rank:
                    self.link.post(rank, {"kind": "do", "number": number, "item": item})
                else:
                    job.submit(item).add_done_callback(partial(self._own, job, number, item))

    def _own(self, job: Job, number: int, item: int, done: Future) -> None:
        if not done.cancelled():
            self._hear(0, answer(job, done, number, item))

    def send_rows(self, features: np.ndarray) -> np.ndarray:
        """Send each rank its part of the rows (N, D), perhaps a memory map, a piece at a time; rank 0's part."""
        count, chunk = len(features), max(1, CHUNK // features[:1].nbytes)
        cuts = [count * rank // self.size for rank in range(self.size + 1)]
        for rank in self.others:
            for begin in range(cuts[rank], cuts[rank + 1], chunk) or [cuts[rank]]:  # no rows have a width, too
                part = np.array(features[begin : min(begin + chunk, cuts[rank + 1])])
                self.link.post(rank, {"kind": "rows"}, {"rows": torch.from_numpy(part)})
                self.link.drain(rank)
        return np.array(features[: cuts[1]])

    def start_herding(self, facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Have every rank begin its part of a selection; returns when all are there."""
        self._tell_all({"kind": "herd", **facts}, tensors)
        waiting = set(self.others)
        while waiting:
            rank, message = self._next()
            if message.facts["kind"] == "herding":
                waiting.discard(rank)


def maxherding_of_all(
    features: np.ndarray,
    budget: int,
    *,
    labeled: np.ndarray | None,
    candidates: np.ndarray,
    kernel: str,
    device: str = "cpu",
):
    """`maxherding_sharded` over rows that this process has, on all ranks there are; a `ShardedSelection`."""
    tensors = {"candidates": torch.from_numpy(np.array(candidates))}
    if labeled is not None:
        tensors["labeled"] = torch.from_numpy(np.array(labeled))
    own = np.array(features) if _team is None else _team.send_rows(features)
    if _team is not None:
        _team.start_herding({"budget": budget, "kernel": kernel, "device": device}, tensors)
    return herd(own, budget, kernel, device, tensors)


def herd(rows: np.ndarray | torch.Tensor, budget: int, kernel: str, device: str, tensors: dict[str, torch.Tensor]):
    """This rank's part of a selection."""
    from difal_kernels.distributed import RankLostError, maxherding_sharded

    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    try:
        return maxherding_sharded(
            torch.as_tensor(rows).to(device), budget, kernel=kernel, return_info=True, **on_device
        )
    except RankLostError:
        time.sleep(2 * GRACE)  # the link's thread is about to say which rank it was, and to end this process
        raise


def answer(job: Job, done: Future, number: int, item: int) -> Message:
    """The message that an item is done, or why not."""
    facts = {"kind": "done", "number": number, "item": item, "seconds": {}}
    error = done.exception()
    if error is not None:
        return Message({**facts, "error": job.reason(error)}, {})
    value = done.result()
    if not isinstance(value, dict) or not all(isinstance(one, np.ndarray | torch.Tensor) for one in value.values()):
        return Message({**facts, "value": value}, {})
    return Message(facts, {name: torch.as_tensor(one) for name, one in value.items()})


def _value(message: Message) -> Any:
    if "error" in message.facts:
        raise UserError(message.facts["error"])
    return message.facts.get("value", message.tensors)
