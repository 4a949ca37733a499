"""Runs the tests of difal_kernels with the extension under a sanitizer: `run.py address|thread [pytest arguments]`.

address is AddressSanitizer with UndefinedBehaviorSanitizer. The package is built into build/sanitize/NAME, so the
installed one is not touched. Python and torch are not instrumented; the sanitizer's runtime is loaded before them.
`run.py address tests/gpu` runs the emulated GPU kernels so: what they read or write beyond an array, or unaligned, is
found without a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNTIMES = {"address": "libasan.so", "thread": "libtsan.so"}


def options(name: str, logs: Path) -> dict[str, str]:
    """The sanitizers' own settings; each report goes to a file under `logs`, so that no test can swallow it."""
    if name == "address":
        return {
            # Frames of Python and torch cannot be told from leaks at exit, so leaks are read from the log below.
            "ASAN_OPTIONS": f"log_path={logs}/address:detect_leaks=1:detect_stack_use_after_return=1:"
            "strict_init_order=1:allocator_may_return_null=1",
            "UBSAN_OPTIONS": f"log_path={logs}/undefined:print_stacktrace=1",
            "LSAN_OPTIONS": "exitcode=0:max_leaks=0:print_suppressions=0",
            "PYTHONMALLOC": "malloc",  # Python's own pool hides from the leak checker what it holds
        }
    return {
        # Accesses of code that is not instrumented are not judged: its synchronisation is not seen either.
        "TSAN_OPTIONS": f"log_path={logs}/thread:ignore_noninstrumented_modules=1:halt_on_error=0:exitcode=66:"
        "history_size=4:report_signal_unsafe=0:die_after_fork=0",  # a test selects in a forked process
    }


def library(name: str) -> str:
    """Path of a runtime library of the compiler that builds the extension."""
    compiler = os.environ.get("CXX", "g++").split()
    path = subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    found = Path(path.stdout.strip())
    if not found.is_absolute():
        raise SystemExit(f"{compiler[0]} has no {name}; install its sanitizer runtimes (Debian: libgcc-12-dev)")
    return str(found.resolve())


def without_address_randomisation(command: list[str]) -> list[str]:
    """ThreadSanitizer of older compilers fails where the kernel spreads mappings widely."""
    probe = subprocess.run(["setarch", "-R", "true"], capture_output=True)
    return ["setarch", "-R", *command] if probe.returncode == 0 else command


def ours(report: str) -> list[str]:
    """The parts of a leak report whose allocation was made by our C++; any other report counts whole."""
    if "LeakSanitizer" not in report:
        return [report]
    return [part for part in report.split("\n\n") if "leak of" in part and " difal::" in part]


def main(name: str, arguments: list[str]) -> int:
    build = ROOT / "build" / "sanitize" / name
    logs = build / "logs"
    command = [sys.executable, "setup.py", "--quiet", "build_py", "build_ext"]
    for part in ("build_py", "build_ext"):
        at = command.index(part) + 1
        command[at:at] = ["--build-lib", str(build)]
    command += ["--build-temp", str(build / "objects")]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "DIFAL_SANITIZE": name}, check=True)
    logs.mkdir(exist_ok=True)
    for old in logs.iterdir():
        old.unlink()

    arguments = [str(ROOT / argument) if (ROOT / argument).exists() else argument for argument in arguments]
    emulated = {}
    if any("tests/gpu" in argument for argument in arguments):
        emulated = {"DIFAL_SANITIZE": name, "DIFAL_EMULATOR_CACHE": str(build / "emulator")}
        builder = [sys.executable, str(ROOT / "tests/gpu/emulator/build.py"), emulated["DIFAL_EMULATOR_CACHE"]]
        subprocess.run(builder, env={**os.environ, **emulated}, check=True)
    preload = [library(RUNTIMES[name]), library("libstdc++.so")]  # the latter for the interception of throw
    environment = {
        **os.environ,
        **options(name, logs),
        "LD_PRELOAD": " ".join(preload),
        "OMP_NUM_THREADS": "1",
        **emulated,
    }
    if emulated:  # each thread of a kernel has a stack of its own, which the check of returns takes for one
        environment["ASAN_OPTIONS"] += ":detect_stack_use_after_return=0"
    # From the build folder, so that `import difal_kernels` finds the sanitized package there.
    check = "import difal_kernels._cpu as m; print(m.__file__)"
    found = subprocess.run(
        without_address_randomisation([sys.executable, "-c", check]),
        cwd=build, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if str(build) not in found.stdout:
        raise SystemExit(f"the sanitized extension was not loaded: {found.stdout}{found.stderr}")
    # A sanitizer's shadow of the memory is no peak of ours. ThreadSanitizer gives up where a forked process starts a
    # thread whose id one of its parent's threads had ("dup thread with used id").
    left_out = "peak_memory" if name == "address" else "peak_memory or forked_process"
    tests = arguments or [str(ROOT / "tests/ops"), "-m", "not slow", "-k", f"not ({left_out})"]
    pytest = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *tests]
    run = subprocess.run(without_address_randomisation(pytest), cwd=build, env=environment)
    reports = [part for log in sorted(logs.iterdir()) for part in ours(log.read_text())]
    for report in reports[:10]:
        print(report)
    print(f"{name}: {len(reports)} reports, tests ended with {run.returncode}; logs in {logs}")
    return 1 if reports else run.returncode


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in RUNTIMES:
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
