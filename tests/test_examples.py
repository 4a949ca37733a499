"""Every example runs, in a process of its own."""

import importlib.util
import subprocess
import sys
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


@pytest.mark.parametrize("name", NEEDS)
def test_example(name):
    for library in NEEDS[name]:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) < 40
    done = subprocess.run([sys.executable, str(path)], cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
