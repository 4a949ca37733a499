"""Work on several CPU cores, with results that do not depend on how many there are.

The sums inside a matrix product, a convolution or a mean come out in another order, and so with other last bits, when
torch splits them over another number of threads. A run amplifies such bits: a pick that changes, changes all that
follow. Floating-point work of the loop is therefore done on one torch thread each, and the cores are kept busy with
several images at a time. (difal_kernels' own kernels give the same result on any number of threads.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread():
    """Pin torch to one thread, in this Python thread; also a decorator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class PixelsInHand:
    """Bounds the pixels of the images that are worked on at a time, whatever the number of threads.

    Args:
        most: pixels of all of them together; an image of more is worked on alone.
    """

    def __init__(self, most: int):
        self.most, self.count = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self, pixels: int):
        """Wait until there is room for an image of so many pixels, and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: self.count == 0 or self.count + pixels <= self.most)
            self.count += pixels
        try:
            yield
        finally:
            with self._changed:
                self.count -= pixels
                self._changed.notify_all()


in_hand = PixelsInHand(1 << 27)


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield function(item) for each item, in order, as many at a time as torch has threads, each on one.

    At most one result more than there are workers is made ahead of its use. An exception comes up in its item's turn.

    Example:
        >>> list(in_order(lambda n: n * n, [3, 1, 2]))
        [9, 1, 4]
    """
    workers = torch.get_num_threads()
    if workers == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    ahead: deque[Future[R]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(workers)  # the last call rules threads that are yet to come
