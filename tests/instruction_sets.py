"""Python code under another instruction set than the widest: in a process of its own, for it is chosen once."""

import os
import subprocess
import sys
from pathlib import Path

OPS = Path(__file__).parent / "ops"


def run_under(isa: str, code: str, *arguments: object) -> str:
    """Run code in tests/ops with DIFAL_ISA; return what it printed.

    Raises:
        AssertionError: it failed; with its standard error.
    """
    paths = [str(OPS), str(OPS.parent), *filter(None, sys.path)]
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=OPS,
        env={**os.environ, "DIFAL_ISA": isa, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
