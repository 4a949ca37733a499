"""Every example runs, in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDS = {  # example: what it imports beyond this package
    "scikit_activeml_digits": ["skactiveml"],
    "modal_digits": ["modAL"],
    "baal_digits": ["baal", "sklearn"],
    "small_text_lines": ["small_text"],
    "deep_al_digits": ["sklearn"],
    "two_stage_photos": ["skimage", "diffusers"],
    "facility_location_digits": ["sklearn"],
}


def test_each_example_is_run_here_or_makes_the_readmes_picture():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NEEDS, "photo"}


@pytest.fixture(scope="module")
def runs():
    """All of them, two at a time: most of it is waiting for imports."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ThreadPoolExecutor(2) as workers:
        yield {name: workers.submit(run, EXAMPLES / f"{name}.py", environment) for name in NEEDS if not missing(name)}


def missing(name):
    return [library for library in NEEDS[name] if importlib.util.find_spec(library) is None]


def run(path, environment):
    return subprocess.run(
        [sys.executable, str(path)], cwd=EXAMPLES.parent, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("name", NEEDS)
def test_example(name, runs):
    if missing(name):
        pytest.skip(f"{missing(name)[0]} is not installed")
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 40
    done = runs[name].result()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
