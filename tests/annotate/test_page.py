"""The page in a real browser: pixels, keys, overlay, classes, another page, a server that is away."""

from __future__ import annotations

import io
import json
import sys
import time

import numpy as np
import pytest
from PIL import Image

from annotate.annotators import flags
from annotate.browser import WAIT, Label, acknowledged, all_ready, launch, next_question, place, question, results
from difal.annotate.classes import Classes, looks
from difal.annotate.journal import of_type, read_journal
from difal.data import open_data
from difal.data.base import read_image

QUICK = flags(candidates=100, local=8, random=8, noise_samples=1, epochs=5, pictures=0, threads=1)
CLASSES = "sky,road,tree,water"
LOAD = "import sys, urllib.request as web; web.urlopen(sys.argv[1]).read(); print(sys.argv[1])"


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
    deep = rng.integers(500, 9000, (60, 80)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "e_deep.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run whose address the command opened in a browser of our own, which loads the page and writes it down."""
    folder = tmp_path_factory.mktemp("run")
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\n{sys.executable} -c "{LOAD}" "$1" >> {folder}/opened\n')
    browser.chmod(0o700)
    arguments = [*flags(data=photos, classes=CLASSES, rounds=1, budget=6), *QUICK]
    with Label(folder / "run", *arguments, browser=browser) as label:
        yield label


def test_the_browser_is_opened_with_the_token(run):
    opened = run.folder.parent / "opened"
    until = time.monotonic() + WAIT / 1000
    while time.monotonic() < until and not (opened.is_file() and opened.read_text()):
        time.sleep(0.05)
    assert opened.read_text().split() == [run.url]
    assert len(run.url.partition("#")[2]) >= 43


def asked_color(page, scale: float) -> np.ndarray:
    """What the screen shows of the asked pixel: its cell in the magnified view, less an edge for rounded boxes."""
    canvas = page.query_selector("#magnified")
    cell = json.loads(canvas.get_attribute("data-pixel"))
    box = canvas.bounding_box()
    screen = np.array(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    left, top = round(box["x"] * scale) + cell["x"], round(box["y"] * scale) + cell["y"]
    assert cell["size"] >= 8
    return screen[top + 2 : top + cell["size"] - 2, left + 2 : left + cell["size"] - 2].reshape(-1, 3)


def when_painted(page, scale: float, wanted: np.ndarray, tolerance: float = 0) -> np.ndarray:
    """`asked_color` as soon as it is what is wanted, or what it is after some seconds."""
    for _ in range(100):  # on a machine that is busy
        shown = asked_color(page, scale).astype(float)
        if abs(shown - wanted).max() <= tolerance:
            break
        page.wait_for_timeout(50)
    return shown


@pytest.mark.parametrize("scale", [1, 1.25, 2])
def test_the_asked_pixel_is_seen_as_it_is_in_the_file(playwright, open_page, run, photos, scale):
    files, pool = sorted(photos.iterdir()), open_data(str(photos), classes=CLASSES.split(",")).train
    with launch(playwright, f"--force-device-scale-factor={scale}", "--window-size=1100,760") as chromium:
        page = open_page(run, chromium, no_viewport=True)  # a viewport would set the scale itself
        page.wait_for_selector("body[data-phase='asking']", timeout=WAIT)
        seen = set()
        for _ in range(60):
            here = question(page)
            image, row, column = place(here)
            if image not in seen:
                seen.add(image)
                wanted = pool.image(image)[row, column]
                if files[image].name == "e_deep.png":  # 16 bits, of which the pool's range is shown
                    deep = np.array(Image.open(files[image]))
                    low, high = pool.ranges["16-bit grey"]
                    scaled = np.clip((deep[row, column] - low) / (high - low), 0, 1)
                    assert abs(wanted - 255 * scaled).max() <= 0.5
                else:
                    assert (wanted == read_image(files[image])[row, column]).all()
                assert (when_painted(page, scale, wanted) == wanted).all(), (files[image].name, row, column)
            if len(seen) == len(files):
                break
            page.wait_for_selector("#later:enabled", timeout=WAIT)  # while a single question is there it does nothing
            page.keyboard.press(".")  # another image, please
            next_question(page, here)
        assert len(seen) == len(files)
        assert page.evaluate("devicePixelRatio") == scale
        assert page.faults == []
        page.goto("about:blank")  # as in `open_page`


def test_brightness_and_contrast_change_what_is_seen_alone(open_page, run, photos):
    """And `b` gives the file's colours back."""
    page, pool = open_page(run), open_data(str(photos), classes=CLASSES.split(",")).train
    here = question(page)
    image, row, column = place(here)
    plain = pool.image(image)[row, column]
    assert (when_painted(page, 1, plain) == plain).all()
    page.fill("#brightness", "60")
    dark = np.round(plain * 0.6)
    assert abs(when_painted(page, 1, dark, 2) - dark).max() <= 2
    page.fill("#contrast", "150")
    both = np.clip((plain * 0.6 / 255 - 0.5) * 1.5 + 0.5, 0, 1) * 255
    assert abs(when_painted(page, 1, both, 3) - both).max() <= 3
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("3")
    next_question(page, here)
    acknowledged(page)
    last = of_type(read_journal(run.folder / "annotate/journal.jsonl"), "answer")[-1]
    assert (last["image"], last["y"], last["x"], last["class_id"]) == (pool.ids[image], row, column, 2)
    page.keyboard.press("Backspace")
    assert question(page) == here
    page.keyboard.press("b")
    assert (when_painted(page, 1, plain) == plain).all()
    acknowledged(page)
    assert page.faults == []


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
    press("-")
    acknowledged(page)
    lines = read_journal(journal)
    undone = {one["of"] for one in of_type(lines, "retract")}
    last = {
        (one["image"], one["y"], one["x"]): one["class_id"]
        for one in of_type(lines, "answer")
        if one["id"] not in undone
    }
    skipped = sum(class_id is None for class_id in last.values())
    labeled = str(len(last) - skipped)
    shown = results(page, labeled)
    assert skipped >= 1
    assert (shown["Pixels labeled"], shown["Pixels skipped"]) == (labeled, str(skipped))
    answers = of_type(lines, "answer")[before:]
    assert [(one["class_id"], one["reason"]) for one in answers] == [
        (0, None), (1, None), (None, "none"), (None, "unsure"), (2, None), (3, None), (1, None), (None, "none"),
    ]  # fmt: skip
    assert of_type(lines, "retract")[-1]["of"] == answers[3]["id"]
    assert (answers[5]["x"], answers[5]["y"]) == (answers[2]["x"], answers[2]["y"])
    assert all(one["seconds"] is not None and one["seconds"] < 60 for one in answers[:4])
    assert page.faults == []


WIDTHS = (
    (360, 780),
    (390, 844),
    (440, 956),
    (540, 720),
    (768, 1024),
    (900, 700),
    (1000, 700),
    (1024, 768),
    (1100, 760),
    (1140, 760),
    (1280, 800),
    (1600, 900),
)


def rows_of(page, selector: str) -> list[int]:
    """How many of the elements that are in sight each row has."""
    middles = page.evaluate(
        f"""[...document.querySelectorAll({selector!r})].filter((one) => getComputedStyle(one).visibility === 'visible')
        .map((one) => one.getBoundingClientRect()).filter((box) => box.width)
        .map((box) => Math.round(box.top + box.height / 2))"""
    )
    return [middles.count(middle) for middle in dict.fromkeys(middles)]


def test_no_button_stands_alone_in_a_row(open_page, run):
    page = open_page(run)
    question(page)
    for width, height in WIDTHS:
        page.set_viewport_size({"width": width, "height": height})
        controls = rows_of(page, "#zoom, #model > button, #model > label, #tones > *")
        assert sum(controls) == 8
        assert min(controls) > 1, (width, controls)
        assert len(controls) == 1 or width < 1280
        answering = rows_of(page, "#none, #unsure, #later, #undo, #back, #forward, #search")
        assert answering == ([7] if width >= 1000 else [3, 4]), width
        assert rows_of(page, "nav button") == [5], width


def test_what_the_model_does_moves_nothing(open_page, run):
    """Long news are cut, and told in full under the pointer; a failure is told in full."""
    page, tops = open_page(run), {}
    busy = {"name": "a_folder_of_photographs_of_2026", "round_size": 300, "round_open": 120, "answered": 1234}
    for phase in ("asking", "working", "failed"):
        with_news(page, phase=phase, seconds=1.7, seconds_left=900, message="out of memory, " * 12, **busy)
        question(page)
        page.wait_for_selector(f"body[data-phase='{phase}']")
        for width, height in WIDTHS:
            page.set_viewport_size({"width": width, "height": height})
            top = page.query_selector("#whole").bounding_box()["y"]
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (phase, width)
            tools, news = (page.query_selector(name).bounding_box() for name in ("nav", "#news"))
            assert news["x"] + news["width"] <= tools["x"] or news["y"] + news["height"] <= tools["y"], (phase, width)
            if phase == "failed":
                assert top <= tops[width] + 80
                assert page.evaluate("(one => one.scrollWidth <= one.clientWidth)(document.querySelector('#now'))")
            else:
                assert tops.setdefault(width, top) == top, (phase, width)
        if phase == "working":
            assert page.get_attribute("#phase", "title") == page.text_content("#phase") != ""
    assert page.faults == []


def test_long_names_of_classes(open_page, run):
    """They break, or are cut before the key that goes with them; no row leaves the window."""
    names = [
        "gravel track beside the field, or an unpaved road",
        "Verkehrszeichenhalterungskonstruktionsteil" * 2,
        "wall",
    ]
    classes = Classes([f"{names[number % 3]} {number}" for number in range(40)])
    page = open_page(run)

    def with_guess(route) -> None:
        asked = route.fetch().json()["questions"]
        route.fulfill(json={"questions": [{**one, "guess": {"class_id": 1, "chance": 0.9}} for one in asked]})

    page.route("**/api/next", with_guess)
    with_news(page, classes=[look.as_json() for look in looks(classes, {})])
    question(page)
    page.wait_for_selector("#confirm:not([hidden])")
    for width, height in WIDTHS:
        page.set_viewport_size({"width": width, "height": height})
        outside = page.evaluate(
            """[...document.querySelectorAll('main#work button, main#work button > *, header button')]
            .filter((one) => one.offsetParent && getComputedStyle(one).visibility === 'visible')
            .filter((one) => {
              const outer = one.closest('button') === one ? document.body : one.parentElement;
              const around = outer.getBoundingClientRect();
              const box = one.getBoundingClientRect();
              return box.left < around.left - 1 || box.right > around.right + 1;
            }).map((one) => one.outerHTML)"""
        )
        assert outside == [], width
        boxes = "[...document.querySelectorAll('main, html')]"
        assert page.evaluate(f"{boxes}.every((one) => one.scrollWidth <= one.clientWidth)"), width
    page.set_viewport_size({"width": 390, "height": 844})
    for act, dialog in (("?", "help"), ("/", "search")):
        page.keyboard.press(act)
        box = page.wait_for_selector(f"#{dialog}-dialog[open]")
        assert box.evaluate("(one) => one.scrollWidth <= one.clientWidth"), dialog
        page.keyboard.press("Escape")
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
    before = len(of_type(read_journal(run.folder / "annotate/journal.jsonl"), "answer"))
    taps = ["#classes button >> nth=1", "#unsure", "#none", "#classes button >> nth=3"]
    asked = []
    for target in taps:
        asked.append(here)
        page.tap(target)
        next_question(page, here)
        here = question(page)
    page.tap("#undo")
    assert question(page) == asked[-1]
    page.tap("#later")
    next_question(page, asked[-1])
    page.tap("#back")
    assert question(page) == asked[2]
    page.tap("#classes button >> nth=0")  # instead of "no class fits"
    page.wait_for_selector("#forward:disabled")
    acknowledged(page)
    lines = read_journal(run.folder / "annotate/journal.jsonl")
    answers = of_type(lines, "answer")[before:]
    assert [(one["class_id"], one["reason"]) for one in answers] == [
        (1, None), (None, "unsure"), (None, "none"), (3, None), (0, None),
    ]  # fmt: skip
    assert of_type(lines, "retract")[-1]["of"] == answers[3]["id"]
    assert of_type(lines, "later")[-1]["x"] == place(asked[3])[2]
    assert page.faults == []


def with_news(page, **changes):
    """Change what the page hears of the run's state."""
    page.add_init_script(
        f"""const ask = window.fetch; window.fetch = async (what, how) => {{
          const got = await ask(what, how);
          if (!/api\\/(hello|state)$/.test(what) || !got.ok) return got;
          return new Response(JSON.stringify({{ ...await got.json(), ...{json.dumps(changes)} }}));
        }};"""
    )
    page.reload()


def test_the_page_says_why_it_shows_no_prediction(open_page, run):
    page = open_page(run)
    with_news(page, live=0, answered=0)
    question(page)
    assert page.inner_text("#why") == ""
    for key in "ou":
        page.keyboard.press(key)
        page.wait_for_selector("#why:has-text('the model learns from your answers')")
        assert not page.is_visible("#legend button")
        page.keyboard.press(key)
        page.wait_for_selector("#why:empty", state="attached")
    with_news(page, live=0, answered=3, phase="encoding", encoded=2)
    question(page)
    page.keyboard.press("o")
    page.wait_for_selector("#why:has-text('2 of ')")
    assert page.faults == []


def test_buttons_that_would_do_nothing_look_so(open_page, run):
    page = open_page(run)
    question(page)
    names = ["#classes button >> nth=0", "#none", "#unsure", "#search"]
    assert [page.get_attribute(name, "aria-disabled") for name in names] == ["false"] * 4
    page.route("**/api/next", lambda route: route.fulfill(json={"questions": []}))
    page.reload()
    page.wait_for_selector("#waiting:not([hidden])")
    assert [page.get_attribute(name, "aria-disabled") for name in names] == ["true"] * 4
    assert float(page.eval_on_selector("#none", "(one) => getComputedStyle(one).opacity")) < 0.6
    page.click("#search", force=True)
    assert not page.is_visible("#search-dialog")
    assert page.is_disabled("#later")
    page.keyboard.press("ArrowLeft")  # earlier answers can be replaced all the same
    page.wait_for_selector("body[data-question*='.']")
    assert [page.get_attribute(name, "aria-disabled") for name in names] == ["false"] * 4
    assert page.faults == []


def test_classes_are_in_sight_on_a_phone(open_page, run):
    page = open_page(run, has_touch=True)
    page.set_viewport_size({"width": 390, "height": 844})
    question(page)
    box = page.query_selector("#classes").bounding_box()
    view = page.query_selector("#whole").bounding_box()
    assert page.evaluate("document.querySelector('main').scrollTop") == 0
    assert view["height"] > 150
    assert box["y"] + box["height"] <= page.query_selector("#none").bounding_box()["y"]  # before all other buttons
    assert view["y"] + view["height"] < box["y"]
    assert box["y"] + box["height"] < 844


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
    all_ready(page)
    for _ in range(2):  # each question is said to those who hear the page
        here = question(page)
        _, row, column = place(here)
        said = page.inner_text("#announced[role=status]")
        assert said.startswith(f"Pixel at x {column}, y {row} of "), said
        page.keyboard.press(".")
        next_question(page, here)
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
