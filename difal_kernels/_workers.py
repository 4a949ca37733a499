"""Threads that each run torch on one core, for work that alternates between torch's GEMM and native code.

With torch's own parallelism the helper threads of each GEMM spin on their cores for a while after it has ended, and so
slow down whatever runs next. Here each thread does whole tasks, GEMM and all, and nobody waits but at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch


class Workers:
    """`count` threads that live as long as the context; with one, everything runs in the caller.

    Args:
        count: number of threads; torch's own setting is a good choice.
    """

    def __init__(self, count: int):
        self.count = count
        self._threads: list[threading.Thread] = []
        self._change = threading.Condition()
        self._work: Callable[[Any, int], None] = lambda item, slot: None  # guarded by _change, as are the four below
        self._items: list[Any] = []
        self._next = self._busy = 0
        self._closed = False
        self._error: BaseException | None = None

    def __enter__(self) -> Workers:
        if self.count > 1:
            before = torch.get_num_threads()
            ready = threading.Barrier(self.count + 1)
            for slot in range(self.count):
                thread = threading.Thread(target=self._serve, args=(slot, ready), daemon=True)
                self._threads.append(thread)
                thread.start()
            ready.wait()
            torch.set_num_threads(before)  # the workers' setting is their own; this is everybody else's
        return self

    def __exit__(self, *exc: object) -> None:
        with self._change:
            self._closed = True
            self._items = []
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def run(self, work: Callable[[Any, int], None], items: Iterable[Any]) -> None:
        """Call work(item, slot) for all items, `slot` in [0, count) being the thread's; return when all are done.

        Items are begun in order. The first exception is raised again here, when the work under way has ended.
        """
        items = list(items)
        if not self._threads:
            for item in items:
                work(item, 0)
            return
        with self._change:
            self._work, self._items, self._next = work, items, 0
            self._change.notify_all()
            try:
                self._change.wait_for(lambda: self._next >= len(self._items) and self._busy == 0)
            except BaseException:  # Ctrl-C
                self._items = []
                raise
            self._items = []
            if self._error is not None:
                error, self._error = self._error, None
                raise error

    def _serve(self, slot: int, ready: threading.Barrier) -> None:
        torch.get_num_threads()  # lets torch set this thread up, so that it does not do so later
        torch.set_num_threads(1)
        ready.wait()
        with self._change:
            while True:
                self._change.wait_for(lambda: self._closed or self._next < len(self._items))
                if self._closed:
                    return
                work, item = self._work, self._items[self._next]
                self._next += 1
                self._busy += 1
                self._change.release()
                try:
                    work(item, slot)
                except BaseException as error:
                    failure: BaseException | None = error
                else:
                    failure = None
                finally:
                    self._change.acquire()
                self._busy -= 1
                if failure is not None:
                    self._error = self._error or failure
                    self._items = []
                if self._busy == 0 and self._next >= len(self._items):
                    self._change.notify_all()
