"""The page in a real browser: pixels, keys, overlay, classes, another page, a server that is away."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from annotate.annotators import flags
from annotate.browser import WAIT, Label, acknowledged, all_ready, launch, next_question, place, question
from difal.annotate.journal import of_type, read_journal
from difal.data.base import read_image

QUICK = flags(candidates=100, local=8, random=8, noise_samples=1, epochs=5, pictures=0, threads=1)
CLASSES = "sky,road,tree,water"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A large photograph, one that its camera held on its side, a tiny image and a small one: noise, to the pixel."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(4)
    for name, (height, width) in {"a_tiny": (40, 40), "b_small": (120, 160)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{name}.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its right side
    Image.fromarray(rng.integers(0, 256, (90, 140, 3), np.uint8)).save(folder / "c_turned.jpg", exif=turned, quality=95)
    large = np.kron(rng.integers(0, 256, (500, 750, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(large).save(folder / "d_large.png", compress_level=1)
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    arguments = [*flags(data=photos, classes=CLASSES, rounds=1, budget=6), *QUICK]
    with Label(tmp_path_factory.mktemp("run"), *arguments) as label:
        yield label


def asked_color(page, scale: float) -> np.ndarray:
    """What the screen shows of the asked pixel: its cell in the magnified view, less an edge for rounded boxes."""
    canvas = page.query_selector("#magnified")
    cell = json.loads(canvas.get_attribute("data-pixel"))
    box = canvas.bounding_box()
    screen = np.array(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    left, top = round(box["x"] * scale) + cell["x"], round(box["y"] * scale) + cell["y"]
    assert cell["size"] >= 8
    return screen[top + 2 : top + cell["size"] - 2, left + 2 : left + cell["size"] - 2].reshape(-1, 3)


@pytest.mark.parametrize("scale", [1, 1.25, 2])
def test_the_asked_pixel_is_seen_as_it_is_in_the_file(playwright, open_page, run, photos, scale):
    files = sorted(photos.iterdir())
    with launch(playwright, f"--force-device-scale-factor={scale}", "--window-size=1100,760") as chromium:
        page = open_page(run, chromium, no_viewport=True)  # a viewport would set the scale itself
        page.wait_for_selector("body[data-phase='asking']", timeout=WAIT)
        seen = set()
        for _ in range(60):
            here = question(page)
            image, row, column = place(here)
            if image not in seen:
                seen.add(image)
                wanted = read_image(files[image])[row, column]
                for _ in range(40):  # until it is painted, on a machine that is busy
                    page.wait_for_timeout(250)
                    shown = asked_color(page, scale)
                    if (shown == wanted).all():
                        break
                assert (shown == wanted).all(), (files[image].name, row, column)
            if len(seen) == len(files):
                break
            page.keyboard.press(".")  # another image, please
            next_question(page, here)
        assert len(seen) == len(files)
        assert page.evaluate("devicePixelRatio") == scale
        assert page.faults == []
        page.goto("about:blank")  # as in `open_page`


def test_keys_undo_back_and_reasons(open_page, run):
    journal = run.folder / "annotate/journal.jsonl"
    before = len(of_type(read_journal(journal), "answer"))
    page = open_page(run)
    asked = []

    def press(key):
        here = question(page)
        asked.append(here)
        page.keyboard.press(key)
        next_question(page, here)

    for key in ("1", "Numpad2", "-", ","):
        press(key)
    page.keyboard.press("Backspace")  # asks the last one again
    page.wait_for_selector(f"body[data-question='{asked[-1]}']")
    press("3")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(f"body[data-question='{asked[2]}']")
    assert "no class fits" in page.inner_text("#question")
    page.keyboard.press("4")  # instead
    page.keyboard.press("ArrowRight")
    press("2")
    acknowledged(page)
    lines = read_journal(journal)
    answers = of_type(lines, "answer")[before:]
    assert [(one["class_id"], one["reason"]) for one in answers] == [
        (0, None), (1, None), (None, "none"), (None, "unsure"), (2, None), (3, None), (1, None),
    ]  # fmt: skip
    assert of_type(lines, "retract")[-1]["of"] == answers[3]["id"]
    assert (answers[5]["x"], answers[5]["y"]) == (answers[2]["x"], answers[2]["y"])
    assert all(one["seconds"] is not None and one["seconds"] < 60 for one in answers[:4])
    assert page.faults == []


def test_fingers_can_hit_everything(open_page, run):
    page = open_page(run, has_touch=True)
    here = question(page)
    sizes = page.evaluate(
        "[...document.querySelectorAll('main#work button, header button')].filter((one) => one.offsetParent)"
        ".map((one) => [one.id || one.textContent, one.offsetWidth, one.offsetHeight])"
    )
    assert len(sizes) > 12
    assert [one for one in sizes if min(one[1:]) < 44] == []
    page.tap("#classes button >> nth=1")
    next_question(page, here)


def test_nothing_is_asked_of_another_host(open_page, run):
    page = open_page(run)
    question(page)
    page.keyboard.press("i")
    page.wait_for_selector("#gallery:not([hidden])")
    page.keyboard.press("Escape")
    page.wait_for_selector("#work:not([hidden])")
    assert page.hosts == {run.url.split("/")[2]}


def test_every_control_has_a_name_and_can_be_reached(open_page, run):
    page = open_page(run)
    question(page)
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, canvas[role], textarea, select')]"
        ".filter((one) => !(one.textContent.trim() || one.getAttribute('aria-label') || one.closest('label')))"
        ".map((one) => one.outerHTML)"
    )
    assert nameless == []
    page.keyboard.press("?")
    page.wait_for_selector("#help-dialog[open]")
    assert "undo" in page.inner_text("#help-body")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert page.get_attribute("html", "data-theme") == "dark"
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached.index("tool-help") < reached.index("whole") < reached.index("none") < reached.index("overlay")


def test_the_second_page_is_told(open_page, run):
    first = open_page(run)
    question(first)
    second = open_page(run)
    second.wait_for_selector("#other-dialog[open]", timeout=WAIT)
    second.keyboard.press("1")  # nothing happens
    second.click("#other-take")
    question(second)
    first.wait_for_selector("#other-dialog[open]", timeout=WAIT)
    second.context.close()
    first.wait_for_selector("#other-dialog:not([open])", state="attached", timeout=WAIT)


def test_answers_given_while_the_server_is_away_arrive_once(open_page, run):
    journal = run.folder / "annotate/journal.jsonl"
    page = open_page(run)
    question(page)
    all_ready(page)
    before = len(of_type(read_journal(journal), "answer"))
    run.kill()
    for _ in range(4):
        here = question(page)
        page.keyboard.press("1")
        next_question(page, here)
    assert page.get_attribute("body", "data-pending") == "4"
    assert "kept here" in page.inner_text("#trouble") or page.wait_for_selector("#trouble:not([hidden])")
    run.start()
    acknowledged(page)
    question(page)
    answers = of_type(read_journal(journal), "answer")
    assert len(answers) == before + 4
    assert len({one["id"] for one in answers}) == len(answers)
