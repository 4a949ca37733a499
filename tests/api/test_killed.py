"""A run killed at any moment and resumed ends as one that was never killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from api.fakes import outcome
from difal.files import TMP

TESTS = Path(__file__).resolve().parents[1]
# Lives once itself, so that everything is loaded, then forks a child per life. argv: a folder, then jobs: folder and
# how many crash points each life passes (0: it lives to the end).
DRIVER = """
import os, sys
from pathlib import Path
from api.fakes import FakeEncoder, tiny_config, tiny_data
from difal.run.directory import RunDirectory
from difal.run.loop import run

def live(folder):
    resume = RunDirectory(folder).exists
    run(tiny_config(folder, rounds=2), resume=resume, data=tiny_data(train=3, test=1), encoder=FakeEncoder(), log=len)

def lives(folder, points):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.environ["DIFAL_CRASH"] = f"*:{points}" if points else ""
    sys.stderr = open(os.devnull, "w")
    live(folder)
    os._exit(0)

live(Path(sys.argv.pop(1)))
for job in sys.argv[1:]:
    folder, *points = job.split(",")
    codes = [lives(Path(folder), int(n)) for n in points]
    print(*codes)
"""


def test_killed_at_many_points(tmp_path):
    plain = tmp_path / "never"
    # Each run dies at one point and then lives; one dies again and again, two points further each time.
    points = range(1, 50, 4)
    jobs = [
        str(tmp_path / "warm"),
        f"{plain},0",
        *(f"{tmp_path / str(n)},{n},0" for n in points),
        f"{tmp_path / 'often'}," + "3," * 40 + "0",
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, *jobs]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codes = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    assert codes[0] == [0]
    assert codes[1:-1] == [[-signal.SIGKILL, 0]] * len(points)
    assert codes[-1].count(-signal.SIGKILL) > 15
    assert codes[-1][-1] == 0
    wanted = outcome(plain)
    assert len(wanted) == 8
    for name in (*map(str, points), "often"):
        assert outcome(tmp_path / name) == wanted, name
        assert not list((tmp_path / name).rglob(TMP + "*")), name
