"""What a run on a lent GPU has learned is on disk, however it ends (bench/gpu_check.py)."""

import json
import os
import queue
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from gpu_check import EMULATED, MIN_STEP_SECONDS, SECONDS, Clock, Records, Run, Step, install_wheel, main, plan

BENCH = Path(__file__).parents[1] / "bench"
NAMES = [step.name for step in plan("smoke", True, Path())]


class FakeClock(Clock):
    """Time passes where a step says so: a line "lasts N"."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def next_line(self, lines, seconds):
        while True:
            line = lines.get(timeout=60)
            if line is None or not line.startswith("lasts "):
                return line
            lasted = float(line.split()[1])
            if lasted > seconds:
                self.time += max(0.0, seconds)
                raise queue.Empty
            self.time += lasted


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def saying(*lines: str) -> tuple[str, ...]:
    return "printf", "%s\\n", *lines


def run(folder: Path, mode: str, lasting: dict[str, list[str]]) -> tuple[dict[str, str], float, list[dict]]:
    """A real plan, whose steps say these lines: the status of each, seconds that passed, and all rows."""
    clock = FakeClock()
    steps = [
        replace(step, command=saying(*lasting.get(step.name, ["lasts 10"]), '{"learned": 1}'), needs=None)
        for step in plan(mode, False, folder)
    ]
    steps = [step for step in steps if step.name != "build"]
    Run(steps, SECONDS[mode], Records(folder), clock, say=lambda line: None).all()
    found = rows(folder)
    status = {row["step"]: row["status"] for row in found if "status" in row and row["status"] != "begun"}
    return status, clock.now(), found


@pytest.mark.parametrize("mode", ["smoke", "bench"])
def test_a_run_that_goes_well(tmp_path, mode):
    status, seconds, found = run(tmp_path, mode, {})
    assert set(status.values()) == {"passed"}
    assert seconds == 10 * len(status) < SECONDS[mode]
    assert sum("learned" in row for row in found) == len(status)


def test_steps_that_hang_cost_their_own_time_and_the_run_its_own(tmp_path):
    hang = ['{"early": 1}', "lasts 1000"]
    status, seconds, found = run(
        tmp_path, "smoke", {"exact": hang, "camvid": hang, "million": hang, "cityscapes": hang}
    )
    assert status["facts"] == status["local"] == "passed"
    assert status["exact"] == "stopped: it may take 45 s"
    assert {row["step"] for row in found if "early" in row} == {"exact", "camvid", "cityscapes", "million"}
    assert "lasts" not in (tmp_path / "log.txt").read_text()
    assert len(list(tmp_path.iterdir())) <= 8  # that a lent machine hands back
    assert seconds <= SECONDS["smoke"]
    assert status["tests-cuda"] in ("passed", "left out: no time")


def test_no_step_is_begun_without_time(tmp_path):
    clock = FakeClock()
    steps = [Step("long", 100, saying("lasts 18")), Step("short", 1, saying("x"))]
    assert Run(steps, 18 + MIN_STEP_SECONDS / 2, Records(tmp_path), clock, say=lambda line: None).all() == 1
    assert rows(tmp_path)[-1] == {"step": "short", "status": "left out: no time", "took_seconds": 0.0}


def test_a_step_that_fails_is_told_and_the_next_one_runs(tmp_path):
    steps = [Step("bad", 10, ("sh", "-c", "echo because; exit 7")), Step("good", 10, saying("fine"))]
    steps.append(Step("absent", 10, saying(""), needs="no-such-program"))
    said: list[str] = []
    assert Run(steps, 60, Records(tmp_path), say=said.append).all() == 1
    status = [row["status"] for row in rows(tmp_path) if "took_seconds" in row]
    assert status == ["failed with status 7", "passed", "left out: not installed"]
    assert [line.strip() for line in said if not line.startswith("==")] == ["because"]
    assert (tmp_path / "log.txt").read_text() == "== bad\nbecause\n== good\nfine\n"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SECONDS_LEFT", "12 s", "SECONDS_LEFT must be a number, got '12 s'"),
        ("SECONDS_LEFT", "nan", "SECONDS_LEFT must be finite, got nan"),
        ("OUT", str(Path(__file__)), f"nothing can be written to OUT={Path(__file__).resolve()}"),
    ],
)
def test_settings_that_cannot_be_used_are_told_before_anything_runs(tmp_path, name, value, words):
    env = {**os.environ, "OUT": str(tmp_path), "SECONDS_LEFT": "0", name: value}
    command = [sys.executable, str(BENCH / "gpu_check.py"), "smoke", "--no-gpu"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "==" not in done.stdout


def test_empty_settings_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpu_check.ROOT", tmp_path)
    monkeypatch.setattr("gpu_check.plan", lambda *_: [])
    for name in ("OUT", "SECONDS_LEFT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "smoke", "--no-gpu"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stay
    assert main() == 0
    assert rows(tmp_path / "build/gpu_check")[0]["seconds"] == SECONDS["smoke"] * EMULATED


def test_a_step_is_of_the_runs_session(tmp_path):
    """A machine that kills a command at its time kills what is of its session: nothing may go on with the GPU."""
    script = (
        "import json, os; print(json.dumps({'session': os.getsid(0), 'group': os.getpgrp(), 'process': os.getpid()}))"
    )
    Run([Step("one", 30, (sys.executable, "-c", script))], 60, Records(tmp_path), say=lambda line: None).all()
    (found,) = [row for row in rows(tmp_path) if "session" in row]
    assert found["session"] == os.getsid(0)
    assert found["group"] == found["process"]


def test_a_step_that_says_no_more_and_does_not_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_check.GRACE", 0.2)
    silent = ("sh", "-c", "exec >&- 2>&-; sleep 60")
    steps = [Step("silent", 1, silent), Step("good", 10, saying("fine"))]
    assert Run(steps, 60, Records(tmp_path), say=lambda line: None).all() == 1
    status = [row["status"] for row in rows(tmp_path) if "took_seconds" in row]
    assert status == ["stopped: it did not end when it had said all", "passed"]


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """A source tree without an extension, and a wheel of its sources."""
    monkeypatch.setattr("gpu_check.ROOT", tmp_path)
    for folder in ("csrc/cuda", "difal_kernels", "dist/gpu"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "setup.py").write_text("how\n")
    (tmp_path / "csrc/cuda/one.cu").write_text("what\n")
    extension = f"difal_kernels/_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    with zipfile.ZipFile(tmp_path / "dist/gpu/some.whl", "w") as archive:
        archive.writestr(extension, "compiled")
    makes = next(line for line in (BENCH.parent / "Makefile").read_text().splitlines() if "sources.sha256" in line)
    subprocess.run(makes.strip(), shell=True, check=True, cwd=tmp_path)
    return tmp_path / extension


def test_the_wheel_that_was_carried_is_installed(carried, tmp_path):
    (tmp_path / "csrc/sanitize/__pycache__").mkdir(parents=True)
    for name in ("run.py", "__pycache__/run.pyc"):
        (tmp_path / "csrc/sanitize" / name).write_text("no source of it\n")
    assert install_wheel() == "the extension comes from some.whl"
    assert carried.read_text() == "compiled"


@pytest.mark.parametrize("change", ["csrc/cuda/one.cu", "csrc/cuda/new.h", "setup.py"])
def test_a_wheel_of_other_sources_is_not_installed(carried, tmp_path, change):
    (tmp_path / change).write_text("otherwise\n")
    assert f"some.whl is of other sources ({change})" in install_wheel()
    assert not carried.exists()


def test_a_wheel_of_sources_that_nothing_lists_is_not_installed(carried, tmp_path):
    (tmp_path / "dist/gpu/sources.sha256").unlink()
    assert "some.whl is of other sources (sources.sha256 is not there)" in install_wheel()
    assert not carried.exists()


def test_a_wheel_that_is_damaged_is_not_installed(carried, tmp_path):
    wheel = tmp_path / "dist/gpu/some.whl"
    whole = wheel.read_bytes()
    for damaged in (whole[:-30], b"", whole.replace(b"compiled", b"compilex")):
        wheel.write_bytes(damaged)
        assert install_wheel() == "some.whl is damaged; `make gpu-wheel` makes it anew"
        assert list((tmp_path / "difal_kernels").iterdir()) == []


def test_an_extension_is_there_whole_or_not_at_all(carried, monkeypatch):
    """Though the run is killed as it is written: else the next run takes half of one."""
    write = Path.write_bytes

    def killed(path, content):
        write(path, content[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        install_wheel()
    assert not carried.exists()
    monkeypatch.setattr(Path, "write_bytes", write)
    assert install_wheel() == "the extension comes from some.whl"
    assert carried.read_text() == "compiled"


DRIVER = """
import json, signal, sys
from pathlib import Path
from gpu_check import Records, Run, Step
names, last, folder = sys.argv[1].split(","), sys.argv[2], Path(sys.argv[3])
hang = "while sleep 0.1; do echo; done"  # until nobody reads it
steps = []
for name in names:
    said = json.dumps({"learned": name})
    script = f"echo '{said}'; echo a line of {name}; {hang if name == last else 'true'}"
    steps.append(Step(name, 60, ("sh", "-c", script)))
run = Run(steps, 100, Records(folder))
signal.signal(signal.SIGTERM, run.interrupted)
run.all()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("last", NAMES)
def test_a_run_that_is_killed_has_kept_what_it_learned(tmp_path, last, number):
    command = [sys.executable, "-c", DRIVER, ",".join(NAMES), last, str(tmp_path)]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(BENCH)}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    log = tmp_path / "log.txt"
    until = time.monotonic() + 60
    while not (log.exists() and f"a line of {last}\n" in log.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(60)
    done = NAMES[: NAMES.index(last) + 1]
    found = rows(tmp_path)
    assert [row["learned"] for row in found if "learned" in row] == done
    assert [row["step"] for row in found if row.get("status") == "passed"] == done[:-1]
    assert f"a line of {last}" in log.read_text()
    if number == signal.SIGTERM:
        assert found[-1] == {"step": last, "status": "killed by signal 15"}
        assert process.returncode == 128 + signal.SIGTERM
