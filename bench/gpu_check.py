"""The steps of gpu_check.sh, one after the other, within a time; every line on disk as soon as it is said."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = {"smoke": 240.0, "bench": 360.0, "host": 7200.0}
MIN_STEP_SECONDS = 5.0  # seconds: no step is begun with less
TOLD_LINES = 12  # of a step that failed: what a person sees though no file comes back
GRACE = 5.0  # seconds from asking a step to end to ending it
# A step is a process group, to be ended with all that it starts. A session of its own would outlive a run that is
# killed, and go on with the GPU.
GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
EMULATED = 10.0  # times as long may a step of a run without a GPU take


@dataclass(frozen=True)
class Step:
    """A command, and the seconds that it may take. `needs`: a program without which it is left out."""

    name: str
    seconds: float
    command: Sequence[str]
    needs: str | None = None
    env: dict[str, str] = field(default_factory=dict)


class Clock:
    """Time, and waiting for the next line of a step; a test has another."""

    def now(self) -> float:
        return time.monotonic()

    def next_line(self, lines: queue.SimpleQueue[str | None], seconds: float) -> str | None:
        """A line, or None at the end. Raises queue.Empty after so many seconds."""
        return lines.get(timeout=max(0.0, seconds))


class Records:
    """results.jsonl and log.txt in a folder; what is written is there though the process be killed.

    One log of all steps: a machine that is lent may hand back a few files only.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.jsonl").open("a").close()  # before a step is begun whose results would be lost

    def row(self, row: dict[str, Any]) -> None:
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def log(self, step: str) -> Any:
        log = (self.folder / "log.txt").open("a", buffering=1)
        log.write(f"== {step}\n")
        return log


class Run:
    """Runs steps until none or no time is left.

    Args:
        steps: in order, the most valuable first.
        seconds: for all of them.
        records: where everything goes.
        clock: the time.
        say: what a person is told.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        seconds: float,
        records: Records,
        clock: Clock | None = None,
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ):
        self.steps, self.records, self.clock, self.say = steps, records, clock or Clock(), say
        self.end = self.clock.now() + seconds
        self.running: tuple[Step, subprocess.Popen] | None = None
        self.last_lines: deque[str] = deque(maxlen=TOLD_LINES)

    def all(self) -> int:
        """Run them; how many failed or were stopped."""
        failed = 0
        for step in self.steps:
            began = self.clock.now()
            status = self.one(step)
            took = round(self.clock.now() - began, 1)
            failed += status not in ("passed", "left out: not installed")
            self.records.row({"step": step.name, "status": status, "took_seconds": took})
            if status != "passed":
                for line in self.last_lines:
                    self.say(f"   {line.rstrip()}")
            self.say(f"== {step.name}: {status} after {took:.0f} s")
        return failed

    def one(self, step: Step) -> str:
        self.last_lines.clear()
        left = self.end - self.clock.now()
        if left < MIN_STEP_SECONDS:
            return "left out: no time"
        if step.needs and shutil.which(step.needs) is None:
            return "left out: not installed"
        self.records.row({"step": step.name, "status": "begun"})
        until = self.clock.now() + min(step.seconds, left)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **step.env}
        process = subprocess.Popen(
            step.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT,
            env=environment, **GROUP,
        )  # fmt: skip
        self.running = step, process
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        reader = threading.Thread(target=read, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            with self.records.log(step.name) as log:
                while True:
                    try:
                        line = self.clock.next_line(lines, until - self.clock.now())
                    except queue.Empty:
                        return f"stopped: it may take {min(step.seconds, left):.0f} s"
                    if line is None:
                        break
                    log.write(line)
                    self.last_lines.append(line)
                    self.keep(step, line)
            try:
                status = process.wait(max(GRACE, until - self.clock.now()))
            except subprocess.TimeoutExpired:
                return "stopped: it did not end when it had said all"
            return "passed" if status == 0 else f"failed with status {status}"
        finally:
            stop(process)
            self.running = None

    def keep(self, step: Step, line: str) -> None:
        """A line that is a JSON object is a result."""
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            self.records.row({"step": step.name, **row})
            self.say(f"   {line.rstrip()}")

    def interrupted(self, number: int, frame: Any) -> None:
        """Leave no step running, and say where it was."""
        if self.running:
            step, process = self.running
            stop(process, 0.5)
            self.records.row({"step": step.name, "status": f"killed by signal {number}"})
        sys.exit(128 + number)


def read(stream: Any, lines: queue.SimpleQueue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def stop(process: subprocess.Popen, grace: float = GRACE) -> None:
    """End a step with all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(grace)
        except (ProcessLookupError, PermissionError):
            break
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold it; the next step is to run all the same
        process.wait(grace)


# What is run.


def sources_changed() -> list[str]:
    """Sources of the extensions that are not as they were when the wheel in dist/gpu was made."""
    listed = ROOT / "dist/gpu/sources.sha256"
    if not listed.is_file():
        return [f"{listed.name} is not there"]
    before = {path: digest for digest, path in (line.split(maxsplit=1) for line in listed.read_text().splitlines())}
    found = (p for p in (ROOT / "csrc").rglob("*") if p.is_file() and "sanitize" not in p.relative_to(ROOT).parts)
    files = [ROOT / "setup.py", *found]
    now = {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def install_wheel() -> str:
    """Take the extensions of this Python out of dist/gpu, where the source tree has none; what was done."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    target = ROOT / "difal_kernels"
    if (target / f"_cuda{suffix}").exists():
        return "the extension is built"
    for wheel in sorted((ROOT / "dist/gpu").glob("*.whl")):
        try:
            with zipfile.ZipFile(wheel) as archive:
                found = {Path(name).name: archive.read(name) for name in archive.namelist() if name.endswith(suffix)}
        except (zipfile.BadZipFile, zlib.error):
            return f"{wheel.name} is damaged; `make gpu-wheel` makes it anew"
        if found and (changed := sources_changed()):
            return f"{wheel.name} is of other sources ({', '.join(changed[:3])}); `make gpu-wheel` makes it anew"
        for name, content in found.items():
            partial = target / f"{name}.partial"  # a run that is killed here leaves no half of one
            partial.write_bytes(content)
            partial.rename(target / name)
        if found:
            return f"the extension comes from {wheel.name}"
    return "no extension is built, and dist/gpu has no wheel for this Python"


def pytest(*arguments: str, seconds: float = 60.0) -> list[str]:
    """Tests, none of which may take longer."""
    limit = ["--timeout", f"{seconds:.0f}"] if importlib.util.find_spec("pytest_timeout") else []
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "--maxfail", "5", *limit, *arguments]
    return [*command, "-W", "default"]  # warnings of another version of torch are no failures


def plan(mode: str, no_gpu: bool, out: Path) -> list[Step]:
    """The steps of a run, the most valuable first."""
    python, emulated = sys.executable, ["--no-gpu"] if no_gpu else []
    paths = [str(ROOT), str(ROOT / "python_api"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"PYTHONPATH": os.pathsep.join(paths), "DIFAL_JOBS": "0", "DIFAL_CUDA": "1"}
    env["DIFAL_CUDA_ARCHS"] = os.environ.get("DIFAL_CUDA_ARCHS", "native")
    if no_gpu or mode == "host":
        env |= {"TRITON_INTERPRET": "1", "DIFAL_EMULATOR_CACHE": str(ROOT / "build/emulator")}
    else:
        env["DIFAL_REQUIRE_BACKENDS"] = "cuda,triton"
    slower = EMULATED if no_gpu else 1.0

    def step(name: str, seconds: float, *command: str, needs: str | None = None) -> Step:
        return Step(name, seconds * slower, command, needs, env)

    smoke = lambda name, seconds: step(name, seconds, python, "bench/gpu_smoke.py", name, *emulated)  # noqa: E731
    tests = lambda *arguments: pytest(*arguments, seconds=60 * slower)  # noqa: E731
    if mode == "host":
        return [
            step("compile", 1800, python, "bench/compile_cuda.py", needs="nvcc"),
            step("compile-triton", 1800, python, "bench/compile_triton.py"),
            step("tests-triton", 1500, *pytest("tests/triton", "-n", "2")),
            step("tests-cuda", 1200, *pytest("tests/gpu", "-n", "2")),
            step("small-cases", 600, python, "tests/gpu/small_cases.py", "--emulated"),
            step("bench", 600, python, "bench/gpu_smoke.py", "bench-dry-run", "--no-gpu"),
        ]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = no_gpu or (ROOT / f"difal_kernels/_cuda{suffix}").exists()
    steps = [] if built else [step("build", 150, python, "setup.py", "build_ext", "--inplace", needs="nvcc")]
    some = ["-k", "small_and_odd"] if no_gpu else []
    if mode == "smoke":
        return [
            *steps,
            smoke("facts", 40),  # the first import of torch on a machine may take long
            smoke("product", 40),
            smoke("pick", 20),
            smoke("exact", 45),
            smoke("local", 25),
            smoke("camvid", 20),
            smoke("edald", 10),
            smoke("hypercolumns", 15),
            smoke("cityscapes", 35),
            smoke("million", 60),
            # Many kernels and types are many compilations of the product.
            step("tests-cuda", 60, *tests("tests/gpu/test_cuda_maxherding.py", "-n", "2" if no_gpu else "8", *some)),
            step("tests-maps", 40, *tests("tests/gpu/test_cuda_maps.py", "-n", "2" if no_gpu else "8")),
        ]
    small = [python, "tests/gpu/small_cases.py", *(["--emulated"] if no_gpu else [])]
    # Before CUDA 12.3 the option was called --kernel-regex. Triton's kernels are left out.
    sanitize = ["compute-sanitizer", "--error-exitcode", "9", "--kernel-name", "kns=difal", "--tool"]
    bench = [python, "bench/bench_gpu.py", "--out", str(out), "--seconds", "170"]
    if no_gpu:
        bench = [python, "bench/gpu_smoke.py", "bench-dry-run", "--no-gpu"]
    # Names without template arguments and parameters, the default. Clocks stay as they are: the device is lent.
    profile = ["ncu", "--kernel-name-base", "function", "--kernel-name", "regex:^(select_kernel|fill)$"]
    profile += ["--launch-count", "2", "--set", "full", "--clock-control", "none"]
    ignored = ["--ignore", "tests/triton/test_compile.py", "-n", "2" if no_gpu else "8"]
    return [
        *steps,
        step("baselines", 175, *bench),
        smoke("products", 40),
        step("tests-triton", 80, *tests("tests/triton", *ignored, *some)),
        step("memcheck", 40, *sanitize, "memcheck", *small, needs="compute-sanitizer"),
        step("racecheck", 30, *sanitize, "racecheck", *small, needs="compute-sanitizer"),
        step("profile", 30, *profile, python, "bench/gpu_smoke.py", "pick", *emulated, needs="ncu"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=list(SECONDS))
    parser.add_argument("--no-gpu", action="store_true", help="the same steps in miniature, on emulated kernels")
    options = parser.parse_args()
    usual = SECONDS[options.mode] * (EMULATED if options.no_gpu else 1)
    out = Path(os.environ.get("OUT") or ROOT / ("build/gpu_check" if options.no_gpu else "bench/results/gpu")).resolve()
    try:
        seconds = float(os.environ.get("SECONDS_LEFT") or usual)
        records = Records(out)
    except ValueError:
        parser.error(f"SECONDS_LEFT must be a number, got {os.environ['SECONDS_LEFT']!r}")
    except OSError as error:
        parser.error(f"nothing can be written to OUT={out}: {error}")
    if not math.isfinite(seconds):
        parser.error(f"SECONDS_LEFT must be finite, got {seconds}")
    said = "emulated" if options.no_gpu or options.mode == "host" else install_wheel()
    print(f"== {said}", flush=True)
    records.row({"run": options.mode, "no_gpu": options.no_gpu, "seconds": seconds, "extension": said})
    run = Run(plan(options.mode, options.no_gpu, out), seconds, records)
    signal.signal(signal.SIGTERM, run.interrupted)
    signal.signal(signal.SIGINT, run.interrupted)
    failed = run.all()
    print(f"== {failed} steps failed or were left out for want of time{'; no GPU was used' * options.no_gpu}")
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
