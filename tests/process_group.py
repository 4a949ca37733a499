"""Ranks of a process group on this machine, started as torchrun starts them, for tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT), str(ROOT / "python_api"), str(ROOT / "tests")]


def start(world, arguments, timeout=40, **environment):
    """`python ARGUMENTS` on each of `world` ranks; `timeout` is after how many seconds a silent rank is lost."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join(filter(None, [*PATHS, os.environ.get("PYTHONPATH")]))
    shared = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared.update(OMP_NUM_THREADS="1", DIFAL_DISTRIBUTED_TIMEOUT=str(timeout), PYTHONPATH=paths, **environment)
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**shared, "RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finish(processes, ranks=None, seconds=300):
    """(error output, exit code) of some ranks; none is left behind."""
    try:
        return [
            (process.communicate(timeout=seconds)[1], process.returncode)
            for rank, process in enumerate(processes)
            if ranks is None or rank in ranks
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()
