"""Every example runs, in a process of its own."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difal.data import IGNORE, open_data
from difal.metrics import class_iou, confusion_matrix
from difal.run.directory import RunDirectory

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
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NEEDS, "segment_photos", "photo"}


@pytest.fixture(scope="module")
def runs():
    """All of them, two at a time: most of it is waiting for imports."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ThreadPoolExecutor(2) as workers:
        yield {name: workers.submit(run, EXAMPLES / f"{name}.py", environment) for name in NEEDS if not missing(name)}


def missing(name):
    return [library for library in NEEDS[name] if importlib.util.find_spec(library) is None]


def run(path, environment, *arguments):
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, cwd=EXAMPLES.parent, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", NEEDS)
def test_example(name, runs):
    if missing(name):
        pytest.skip(f"{missing(name)[0]} is not installed")
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 40
    done = runs[name].result()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_segment_photos(tmp_path):
    """The outlines fit the photographs, and few queried pixels make the model that the README shows."""
    for library in ("skimage", "sklearn"):
        pytest.importorskip(library)
    example = runpy.run_path(str(EXAMPLES / "segment_photos.py"))
    example["write_data"](tmp_path / "data")
    data = open_data(str(tmp_path / "data"))
    masks = {Path(name).stem: data.train.mask(i) for i, name in enumerate(data.train.ids)}
    for name, shape in (("china", (427, 640)), ("coffee", (400, 600))):
        assert masks[name].shape == shape
        assert (masks[name] == IGNORE).mean() < 0.1
        for one, other in ((masks[name][1:], masks[name][:-1]), (masks[name][:, 1:], masks[name][:, :-1])):
            assert not ((one != other) & (one != IGNORE) & (other != IGNORE)).any()  # a band between any two classes
    points = {  # columns and rows, read off the photographs
        "china": {
            "sky": [(20, 20), (330, 100), (88, 155)],
            "far shore": [(350, 220), (85, 235)],
            "water": [(400, 280), (40, 300), (91, 291)],
            "pagoda": [(205, 38), (100, 125), (320, 175), (240, 375)],
            "trees": [(620, 300), (30, 230), (120, 400)],
        },
        "coffee": {
            "table": [(30, 200), (560, 30), (440, 370)],
            "saucer": [(100, 200), (420, 200), (250, 375)],
            "cup": [(180, 100), (300, 40), (280, 240), (210, 270)],
            "coffee": [(270, 150), (300, 105)],
            "spoon": [(360, 280), (410, 80)],
        },
    }
    for name, classes in points.items():
        assert set(np.unique(masks[name])) == {IGNORE, *map(data.classes.index, classes)}
        for class_name, places in classes.items():
            assert {int(masks[name][y, x]) for x, y in places} == {data.classes.index(class_name)}, class_name
    assert masks["china"][205, 450] == masks["coffee"][20, 20] == IGNORE  # haze; the floor

    done = run(EXAMPLES / "segment_photos.py", {**os.environ, "OMP_NUM_THREADS": "1"}, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    labels = [label for entry in RunDirectory(tmp_path / "out" / "run").rounds() for label in entry.labels()]
    assert len({label.place for label in labels}) == 40
    for label in labels:
        mask = masks[Path(label.image).stem]
        assert (IGNORE if label.skipped else label.class_id) == mask[label.y, label.x]
    counts = sum(
        confusion_matrix(mask, np.array(Image.open(tmp_path / "out" / "predicted" / "masks" / f"{name}.png")), 10)
        for name, mask in masks.items()
    )
    (said,) = re.findall(r"mIoU of .*: ([\d.]+) %", done.stdout)
    assert float(said) == pytest.approx(100 * np.nanmean(class_iou(counts)), abs=0.06)
    assert float(said) > 60  # five draws of the candidates: 66 to 82, with random pixels 46 to 69


@pytest.mark.parametrize(
    ("words", "message"),
    [("--acquisition best", "`acquisition` must be one of"), ("--seed -1", "`seed` must be at least 0, got -1")],
)
def test_segment_photos_checks_its_arguments_first(words, message, tmp_path, monkeypatch, capsys):
    for library in ("skimage", "sklearn"):
        pytest.importorskip(library)
    monkeypatch.setattr(sys, "argv", ["segment_photos.py", str(tmp_path / "out"), *words.split()])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(EXAMPLES / "segment_photos.py"), run_name="__main__")
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
