"""What `difal label` says of the folder before it asks: the lines of `difal run`."""

import threading

import numpy as np
import pytest
from PIL import Image

from annotate.browser import Label
from api.fakes import write_folder
from difal.annotate.start import own_defaults
from difal.config import Config
from difal.data import open_data
from difal.data.survey import survey
from difal.run.start import budget_line


def lines_of(label, last):
    """What the command prints up to a line that begins with `last`; nothing more for five minutes ends it."""
    found = []

    def read():
        for line in label.process.stdout:
            found.append(line.rstrip("\n"))
            if line.startswith(last):
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(300)
    return found


def test_the_terminal_says_what_there_is(tmp_path):
    data = tmp_path / "data"
    (data / "more").mkdir(parents=True)
    (data / "masks").mkdir()
    (data / "old").mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8))
    for name in ("a.png", "more/b c.PNG"):
        picture.save(data / name)
    for name in ("a.png", "more/b c.png"):
        (data / "masks" / name).parent.mkdir(exist_ok=True)
        Image.fromarray((np.arange(40 * 48) % 2).astype(np.uint8).reshape(40, 48)).save(data / "masks" / name)
    for name in ("photo.HEIC", ".hidden.png", "notes.md", "old/predict.json"):
        (data / name).write_bytes(b"x")
    (data / "dead.png").symlink_to("nowhere.png")
    settings = {"budget": 2.0, "rounds": 3, "local": 10, "random": 10, "candidates": 60}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    with Label(tmp_path / "run", "--data", str(data), "--classes", "a,b", "--encoder", "tiny", *flags) as label:
        said = [line for line in lines_of(label, "queries: ") if not line.startswith("stop with")]
    expected = survey(open_data(data, classes=("a", "b"))).lines
    assert said == [*expected, budget_line(Config(**settings), 2)]
    reasons = ("hidden files", "links that lead nowhere", ".heic files", "of difal predict", "no pictures")
    assert all(any(line.startswith("left out: 1 ") and why in line for line in said) for why in reasons)
    assert "masks: a 50.0 %, b 50.0 %, void 0.0 %" in said


def test_the_terminal_says_what_stops_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(b"")
    with Label(tmp_path / "run", "--data", str(tmp_path / "data"), "--classes", "a,b", "--encoder", "tiny") as label:
        said = lines_of(label, "difal: error: ")
    assert "a.png is not a readable image" in said[-1]


@pytest.mark.parametrize(
    ("images", "size", "given", "budget", "local"),
    [
        (6, 64, {}, 5.0, 200),  # 300 of 1,200
        (30, 64, {}, 1.0, 50),
        (6, 16, {}, 5.0, 64),  # a quarter of the image
        (6, 64, {"candidates": 100}, 5.0, 100),
        (6, 64, {"local": 60}, 5.0, 60),
        (6, 64, {"budget": 3.0}, 3.0, 120),
        (6, 64, {"budget": 0.5}, 0.5, 50),
    ],
)
def test_a_new_run_has_pixels_to_choose_among(tmp_path, images, size, given, budget, local):
    data = open_data(str(write_folder(tmp_path, masks=False, count=images, size=size)))
    found = own_defaults(Config(**given), data, given)
    assert (found.budget, found.local) == (budget, local)
