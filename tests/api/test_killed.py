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
# how many crash points each life passes (0: it lives to the end). A folder called `known...` is of a run that was given
# the labels of `known.csv`.
DRIVER = """
import os, sys
from pathlib import Path
from api.fakes import FakeEncoder, tiny_config, tiny_data
from difal.run.directory import RunDirectory
from difal.run.loop import run

def live(folder):
    resume = RunDirectory(folder).exists
    config = tiny_config(folder, rounds=2, labels="known.csv" if folder.name.startswith("known") else None)
    run(config, resume=resume, data=tiny_data(train=3, test=1), encoder=FakeEncoder(), log=len)

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
    points, given = range(1, 50, 4), range(1, 24, 2)
    jobs = [
        str(tmp_path / "warm"),
        f"{plain},0",
        *(f"{tmp_path / str(n)},{n},0" for n in points),
        *(f"{tmp_path / f'known{n}'},{n},0" for n in given),
        f"{tmp_path / 'known'},0",
        f"{tmp_path / 'often'}," + "3," * 40 + "0",
    ]
    (tmp_path / "known.csv").write_text("image,x,y,class_id\ntrain0,3,4,1\ntrain2,20,9,2\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, *jobs]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codes = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    assert codes[0] == [0]
    assert codes[1:-2] == [[-signal.SIGKILL, 0]] * (len(points) + len(given))
    assert codes[-2] == [0]
    assert codes[-1].count(-signal.SIGKILL) > 15
    assert codes[-1][-1] == 0
    wanted, with_labels = outcome(plain), outcome(tmp_path / "known")
    assert len(wanted) == len(with_labels) == 8
    for name in (*map(str, points), "often", *(f"known{n}" for n in given)):
        assert outcome(tmp_path / name) == (with_labels if name.startswith("known") else wanted), name
        assert not list((tmp_path / name).rglob(TMP + "*")), name
