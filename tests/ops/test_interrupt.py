"""A long selection can be stopped with Ctrl-C, and other Python threads run meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from difal_kernels import available_backends, maxherding
from difal_kernels._progress import Progress

pytestmark = pytest.mark.skipif("cpu" not in available_backends("maxherding"), reason="the extension is not built")

# Selections far longer than the test waits: nothing but the interrupt ends them in time.
SCRIPT = """
import signal, sys, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
from difal_kernels import kcenter_greedy, maxherding, probcover
x = torch.randn(6000, 32, generator=torch.Generator().manual_seed(0))
calls = {
    "dense": lambda: maxherding(x, 6000, backend="cpu"),
    "matrix-free": lambda: maxherding(x, 6000, backend="cpu", memory_limit=60_000_000),
    "probcover": lambda: probcover(x, 5.0, 6000, backend="cpu"),
    "kcenter": lambda: kcenter_greedy(x, 6000, backend="cpu"),
}
print("begun", flush=True)
try:
    while True:
        calls[sys.argv[1]]()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")
@pytest.mark.parametrize("path", ["dense", "matrix-free", "probcover", "kcenter"])
def test_ctrl_c_stops_a_selection(path):
    command = [sys.executable, "-c", SCRIPT, path]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stdout.readline() == "begun\n", run.stderr.read()
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=120)
    finally:
        run.kill()
    assert out == "stopped\n", err
    assert run.returncode == 0


def test_other_threads_run_during_a_selection():
    """While one call into the extension is under way, the main thread goes on: the GIL is released."""
    from difal_kernels._native import load

    x = torch.randn(20000, 64, generator=torch.Generator().manual_seed(0))
    allowed = torch.ones(20000, dtype=torch.uint8)
    engine = load("_cpu").Farthest(
        rows=20000, dimension=64, type=0, features=x.data_ptr(), allowed=allowed.data_ptr(), threads=1
    )
    picks, distances = torch.empty(300, dtype=torch.int64), torch.empty(300, dtype=torch.float64)
    times = []

    def select():
        times.append(time.monotonic())
        engine.select(300, picks.data_ptr(), distances.data_ptr())
        times.append(time.monotonic())

    thread = threading.Thread(target=select)
    thread.start()
    seen = []
    while thread.is_alive():
        seen.append(time.monotonic())
        time.sleep(0)
    thread.join()
    quarter = (times[1] - times[0]) / 4
    assert any(times[0] + quarter < t < times[1] - quarter for t in seen)


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_progress_estimates_the_time_left(with_tqdm, capsys, monkeypatch):
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    maxherding(torch.randn(100, 4, generator=torch.Generator().manual_seed(0)), 40, progress=True)
    shown = capsys.readouterr().err
    assert "40/40" in shown
    assert ("<" if with_tqdm else "s left") in shown


def test_a_bar_shows_what_is_known_of_the_time_left(capsys):
    pytest.importorskip("tqdm")
    with Progress(10, "picks", True) as bar:
        bar.left = lambda: 7.0
        bar.update(3)
        bar.bar.refresh()
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "3/10" in shown
    assert "about 7 s left" in shown
    assert "<" not in shown
