"""Messages between rank 0 and every other rank of a run, and word of a rank that is lost.

A thread of each process does nothing else: some twenty times a second every rank sends rank 0 what it has to say, if
only that it is there, and rank 0 answers. So a rank whose process ends is missed at once, one that hangs after the
timeout, however long the work between two messages takes; and since rank 0 speaks with each rank in a group of two,
it knows which one it is, and tells the others. What a process does about it is up to `lost`.

Messages are JSON and tensors (safetensors), as bytes over gloo; nothing is pickled.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from safetensors.torch import load, save

PULSE = 0.05  # seconds that a rank with nothing to say waits before it says so
GRACE = 5.0  # seconds more that the others give rank 0 than it gives them, so that it can tell who is lost


class Message(NamedTuple):
    """JSON-able facts, and tensors by name."""

    facts: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def packed(self) -> torch.Tensor:
        head = json.dumps(self.facts).encode()
        body = save({name: tensor.contiguous() for name, tensor in self.tensors.items()}) if self.tensors else b""
        return torch.frombuffer(bytearray(len(head).to_bytes(8, "little") + head + body), dtype=torch.uint8)

    @classmethod
    def unpacked(cls, data: torch.Tensor) -> Message:
        content = data.numpy().tobytes()
        end = 8 + int.from_bytes(content[:8], "little")
        return cls(json.loads(content[8:end]), load(content[end:]) if len(content) > end else {})


class Link:
    """This process's end of it; on rank 0 the ends of all others.

    Args:
        timeout: seconds after which a rank that says nothing is lost.
        receive: called in the link's thread with the rank that a message came from, and the message.
        lost: called in the link's thread with what is to be said of the loss; does not return.
    """

    def __init__(self, timeout: float, receive: Callable[[int, Message], None], lost: Callable[[str], NoReturn]):
        self.rank, self.size, self.timeout = dist.get_rank(), dist.get_world_size(), timeout
        self.receive, self.lost = receive, lost
        patience = timedelta(seconds=timeout if self.rank == 0 else timeout + GRACE)
        # A group for each pair: gloo closes all connections of a group in which one wait timed out.
        groups = {rank: dist.new_group([0, rank], timeout=patience, backend="gloo") for rank in range(1, self.size)}
        self.groups = groups if self.rank == 0 else {0: groups[self.rank]}
        self.outbox: dict[int, queue.Queue[Message]] = {rank: queue.Queue() for rank in self.groups}
        self.thread = threading.Thread(target=self._talk, daemon=True, name="difal-link")
        self.thread.start()

    def post(self, rank: int, facts: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> None:
        """Have a message sent."""
        self.outbox[rank].put(Message(facts, tensors or {}))

    def drain(self, rank: int) -> None:
        """Wait until the last message posted to `rank` is on its way, so that large ones do not pile up."""
        while not self.outbox[rank].empty():
            time.sleep(PULSE / 10)

    def close(self, facts: dict[str, Any]) -> None:
        """Rank 0: tell every rank `facts`, and that they are the last, and wait until all know."""
        for rank in self.outbox:
            self.post(rank, {**facts, "last": True})
        self.thread.join()

    def _talk(self) -> None:
        turn = self._answer_all if self.rank == 0 else self._report
        open_ = set(self.groups)
        try:
            while open_:
                open_ -= turn(open_)
        except BaseException as error:  # a thread's error reaches nobody, and the other ranks would wait
            self.lost(f"{type(error).__name__}: {error}")

    def _report(self, _: set[int]) -> set[int]:
        """The turn of a rank but 0: say something, hear something. The ranks that said their last."""
        try:
            own = self.outbox[0].get(timeout=PULSE)
        except queue.Empty:
            own = None
        try:
            self._send(0, own)
            answer = self._get(0, dist.irecv(size := _size(), 0, group=self.groups[0]), size, self.timeout + GRACE)
        except RuntimeError as error:
            self.lost(_reason(0, error))
        if answer is None:
            return set()
        if "lost" in answer.facts:
            self.lost(answer.facts["lost"])
        self.receive(0, answer)
        return {0} if answer.facts.get("last") else set()

    def _answer_all(self, open_: set[int]) -> set[int]:
        """The turn of rank 0: hear every rank, then answer each. The ranks that were told the last."""
        said: dict[int, Message | None] = {}
        lost: dict[int, str] = {}
        sizes = {rank: _size() for rank in sorted(open_)}
        waits: dict[int, dist.Work] = {}
        for rank, size in sizes.items():
            try:
                waits[rank] = dist.irecv(size, rank, group=self.groups[rank])
            except RuntimeError as error:
                lost[rank] = _reason(rank, error)
        begun = time.monotonic()
        until = begun + self.timeout  # for all together
        for rank, wait in waits.items():
            if lost:  # time for the others to come and be told, less than their patience with rank 0
                until = min(until, begun + GRACE - 1)
            left = max(0.1, until - time.monotonic())
            try:
                said[rank] = self._get(rank, wait, sizes[rank], left)
            except RuntimeError as error:
                lost[rank] = _reason(rank, error)
        leaving = set()
        for rank, message in said.items():
            if message is not None and not lost:
                self.receive(rank, message)
        for rank in said:
            own = Message({"lost": "; ".join(lost.values())}, {}) if lost else self._next(rank)
            with suppress(RuntimeError):  # lost since it spoke: the next turn finds it, and tells all
                self._send(rank, own)
            if own is not None and own.facts.get("last"):
                leaving.add(rank)
        if lost:
            self.lost("; ".join(lost.values()))
        return leaving

    def _next(self, rank: int) -> Message | None:
        try:
            return self.outbox[rank].get_nowait()
        except queue.Empty:
            return None

    def _send(self, rank: int, message: Message | None) -> None:
        data = torch.empty(0, dtype=torch.uint8) if message is None else message.packed()
        dist.send(torch.tensor([len(data)]), rank, group=self.groups[rank])
        if len(data):
            dist.send(data, rank, group=self.groups[rank])

    def _get(self, rank: int, wait: dist.Work, size: torch.Tensor, seconds: float) -> Message | None:
        wait.wait(timedelta(seconds=seconds))
        if not size:
            return None
        data = torch.empty(int(size), dtype=torch.uint8)
        dist.recv(data, rank, group=self.groups[rank])
        return Message.unpacked(data)


def _size() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int64)


def _reason(rank: int, error: RuntimeError) -> str:
    """Gloo's words are long, and name a file of its source."""
    text = str(error).splitlines()[0].partition("] ")[2] or str(error)
    return f"rank {rank} died or hangs ({text.partition('. ')[0]})"
