"""A signal is answered in the middle of a native call."""

import signal
import threading

import pytest
import torch

from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.problem import prepare
from selection import blobs

CPU = BACKENDS["cpu"]
pytestmark = [
    pytest.mark.skipif(CPU.unavailable() is not None, reason=str(CPU.unavailable())),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer that sends a signal"),
]


class Stop(Exception):
    pass


def stop(*_):
    raise Stop


def select_under_a_timer(native, picks, gains):
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    native.select(len(picks), picks.data_ptr(), gains.data_ptr())


@pytest.mark.parametrize("threads", [1, 2])
def test_one_long_native_call_ends_early_on_a_signal(threads):
    """All picks in one call, without a chance for Python to run in between."""
    assert threading.current_thread() is threading.main_thread()
    n = 3000
    (p,) = prepare(blobs(n, 64), n, bandwidth=1e5).problems  # so flat that float64 decides: minutes
    greedy = CPU.dense_greedy([p])
    greedy.threads = threads
    with greedy.matrix(0) as matrix:
        matrix.fill()
    greedy.start()
    picks, gains = torch.full((n,), -1), torch.empty(n, dtype=torch.float64)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(Stop):  # whenever it comes
            select_under_a_timer(greedy.native, picks, gains)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert picks[-1] == -1
