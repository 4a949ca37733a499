"""What the model thinks, on the page: guesses, overlay, uncertainty, clicks of her own, the gallery; many classes."""

import base64
import io
import json
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from annotate.annotators import flags
from annotate.browser import WAIT, Label, acknowledged, next_question, place, question
from difal.annotate.classes import KEYS
from difal.annotate.journal import of_type, read_journal
from difal.data.base import distinct_colors, read_image
from difal.run.directory import RunDirectory

CLASSES = ["left", "right", *(f"c{number}" for number in range(2, 45))]  # more than there are keys
SIZE = 64


def right_key(here: str) -> str:
    return "1" if place(here)[2] < SIZE // 2 else "2"


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Three images, blue at the left and red at the right."""
    folder, rng = tmp_path_factory.mktemp("halves"), np.random.default_rng(2)
    for name in "abc":
        image = rng.integers(0, 40, (SIZE, SIZE, 3))
        image[:, : SIZE // 2, 2] += 200
        image[:, SIZE // 2 :, 0] += 200
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def run(halves, tmp_path_factory, chromium):
    """A run whose head has learned the two halves."""
    settings = {
        "data": halves, "classes": ",".join(CLASSES), "rounds": 3, "budget": 4, "candidates": 200, "local": 40,
        "random": 8, "noise_samples": 1, "pictures": 0, "threads": 1,
    }  # fmt: skip
    with Label(tmp_path_factory.mktemp("run"), *flags(**settings)) as label:
        page = chromium.new_page()
        page.set_default_timeout(WAIT)
        page.goto(label.url)
        while not page.inner_text("#counts").startswith("round 2"):
            here = question(page)
            page.keyboard.press(right_key(here))
            next_question(page, here)
        page.wait_for_selector("body:not([data-live='0'])[data-trained='true']", timeout=WAIT)
        page.goto("about:blank")
        page.close()
        yield label


def answers(run) -> list[dict]:
    return of_type(read_journal(run.folder / "annotate/journal.jsonl"), "answer")


def ready(open_page, run):
    page = open_page(run)
    question(page)
    return page


def picture(url: str) -> np.ndarray:
    """A canvas's data URL as (H, W, 3)."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(int)


def drawn(page) -> np.ndarray:
    """The canvas of the whole image (H, W, 3)."""
    return picture(page.evaluate("document.getElementById('whole').toDataURL()"))


def at_pixels(canvas: np.ndarray) -> np.ndarray:
    """The canvas at the middle of every pixel of the image (SIZE, SIZE, 3)."""
    scale = min(canvas.shape[:2]) / SIZE
    top, left = (int((side - SIZE * scale) / 2) for side in canvas.shape[:2])
    middle = ((np.arange(SIZE) + 0.5) * scale).astype(int)
    return canvas[np.ix_(top + middle, left + middle)]


def away_from(here: str) -> np.ndarray:
    """Where the ring around the question does not reach (SIZE, SIZE)."""
    _, row, column = place(here)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.hypot(rows - row, columns - column) > 8


def view(run, image: int, part: str) -> np.ndarray:
    address, _, token = run.url.partition("#")
    request = Request(f"{address}api/view?image={image}&part={part}", headers={"X-Difal-Token": token})
    with urlopen(request) as response:
        return np.array(Image.open(io.BytesIO(response.read()))).astype(int)


def when_changed(page, before: np.ndarray) -> np.ndarray:
    for _ in range(200):
        if (drawn(page) != before).any():
            return drawn(page)
        page.wait_for_timeout(50)
    raise AssertionError("nothing else was drawn")


def test_space_confirms_the_guess(open_page, run):
    page = ready(open_page, run)
    here = question(page)
    guess = CLASSES[int(right_key(here)) - 1]
    # The guesses of an earlier head, of few answers, may still be there, and be wrong.
    page.wait_for_selector(f"#confirm:not([hidden]):has-text('{guess}?')", timeout=WAIT)
    page.keyboard.press(" ")
    next_question(page, here)
    acknowledged(page)
    before = answers(run)
    assert (CLASSES[before[-1]["class_id"]], before[-1]["guess_seen"]) == (guess, True)
    assert before[-1]["guess"] == before[-1]["class_id"]
    page.uncheck("#guesses")
    assert not page.is_visible("#confirm")
    page.evaluate("document.activeElement.blur()")
    here = question(page)
    page.keyboard.press(" ")  # nothing to confirm
    page.keyboard.press(right_key(here))
    next_question(page, here)
    acknowledged(page)
    assert [one["guess_seen"] for one in answers(run)[len(before) :]] == [False]
    assert page.faults == []


def test_the_prediction_over_the_image(open_page, run):
    page = ready(open_page, run)
    page.wait_for_selector("body[data-trained='true']", timeout=WAIT)  # no other head comes in between
    here = question(page)
    assert page.get_attribute("#overlay", "aria-pressed") == "false"  # hidden by default
    size = page.query_selector("#whole").bounding_box()
    page.fill("#opacity", "100")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("o")
    page.wait_for_selector("#legend button", timeout=WAIT)
    assert page.query_selector("#whole").bounding_box() == size  # the legend takes nothing of it
    page.keyboard.down("h")
    plain, free = drawn(page), away_from(here)
    page.keyboard.up("h")
    covered = when_changed(page, plain)
    ids = view(run, place(here)[0], "classes")
    assert set(np.unique(ids)) == {0, 1}
    colors = distinct_colors(2).astype(int)[ids]
    found = at_pixels(covered)
    near = [abs(found - dark * colors).max(-1) <= 2 for dark in (1, 0.35)]  # a class's colour, or its pattern
    assert (near[0] | near[1])[free].all()
    page.keyboard.down("h")
    assert (drawn(page) == plain).all()
    page.keyboard.up("h")
    assert (drawn(page) == covered).all()
    names = page.eval_on_selector_all("#legend button", "all => all.map((one) => one.textContent)")
    assert names == CLASSES[:2]  # those that are predicted here
    page.click("#legend button >> nth=0")  # the prediction of `left` is switched off
    without = at_pixels(when_changed(page, covered))
    assert (without == at_pixels(plain))[(ids == 0) & free].all()
    assert (without == found)[(ids == 1) & free].all()
    page.click("#legend button >> nth=0")
    page.evaluate("document.activeElement.blur()")
    assert (drawn(page) == covered).all()
    page.keyboard.press(right_key(here))
    next_question(page, here)
    acknowledged(page)
    assert answers(run)[-1]["overlay_seen"] is True
    page.keyboard.press("o")
    assert page.faults == []


def test_where_the_model_is_unsure(open_page, run):
    page = ready(open_page, run)
    page.wait_for_selector("body[data-trained='true']", timeout=WAIT)  # no other head comes in between
    here = question(page)
    plain = drawn(page)
    page.keyboard.press("u")
    heat = at_pixels(when_changed(page, plain))
    unsure = view(run, place(here)[0], "unsure")[..., None]
    assert unsure.max() > unsure.min()
    hot = np.concatenate([np.full_like(unsure, 255), 60 + 0.75 * unsure, 0.6 * unsure], -1)
    wanted = at_pixels(plain) + 0.9 * unsure / 255 * (hot - at_pixels(plain))
    assert abs(heat - wanted)[away_from(here)].max() <= 4
    assert page.faults == []


def test_clicks_where_she_wants(open_page, run):
    page = ready(open_page, run)
    asked, before = question(page), answers(run)
    page.keyboard.press("o")
    page.wait_for_selector("#legend button", timeout=WAIT)
    box = page.query_selector("#whole").bounding_box()
    scale = min(box["width"], box["height"]) / SIZE
    left, top = (box["width"] - SIZE * scale) / 2, (box["height"] - SIZE * scale) / 2
    x, y = 30, 20  # every answer is right: from a wrong one the head would learn
    page.click("#whole", position={"x": left + (x + 0.5) * scale, "y": top + (y + 0.5) * scale})
    page.wait_for_selector("#leave:not([hidden])", timeout=WAIT)
    assert page.get_attribute("body", "data-question") == ""
    page.keyboard.press("1")
    page.keyboard.press("2")  # of what pixel? None is marked
    page.focus("#whole")  # and by keyboard alone
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#question:has-text('Which class')", timeout=WAIT)
    page.keyboard.press("2")
    assert [page.is_disabled(name) for name in ("#undo", "#back", "#forward", "#later")] == [True] * 4
    acknowledged(page)
    page.keyboard.press("Escape")
    assert question(page) == asked
    new = answers(run)[len(before) :]
    assert [(one["kind"], one["x"], one["y"], one["class_id"]) for one in new] == [
        ("volunteered", x, y, 0),
        ("volunteered", x + 10, y + 1, 1),
    ]
    assert {one["image"] for one in new} == {f"{'abc'[place(asked)[0]]}.png"}
    assert all(one["overlay_seen"] and one["seconds"] is None for one in new)
    page.wait_for_selector("body[data-trained='true']", timeout=WAIT)
    facts = json.loads((run.folder / "annotate/head.json").read_text())
    assert facts["labels"] == len(answers(run))  # the live head has learned from them
    entries = RunDirectory(run.folder).rounds()
    kept = {label.place for entry in entries if entry.has("labels.jsonl") for label in entry.labels()}
    assert kept
    assert kept.isdisjoint({(one["image"], one["y"], one["x"]) for one in new})  # the rounds' heads have not
    assert page.faults == []


def test_closer_and_farther(open_page, run):
    """By wheel, drag, fingers and keys; the pixel under the pointer stays there, and is the one that a click marks."""
    page = open_page(run, has_touch=True)
    question(page)
    page.wait_for_selector("body[data-trained='true']", timeout=WAIT)  # no other head comes in between
    page.keyboard.press("o")
    page.wait_for_selector("#legend button", timeout=WAIT)
    whole = drawn(page)
    box = page.query_selector("#whole").bounding_box()
    scale = min(box["width"], box["height"]) / SIZE
    x, y = 40, 24
    at = [box[side] + (box[length] - SIZE * scale) / 2 + (one + 0.5) * scale
          for side, length, one in (("x", "width", x), ("y", "height", y))]  # fmt: skip
    page.mouse.move(*at)
    for _ in range(8):
        page.mouse.wheel(0, -100)
    when_changed(page, whole)
    page.wait_for_timeout(200)
    page.mouse.click(*at)
    page.wait_for_selector("#leave:not([hidden])", timeout=WAIT)
    page.wait_for_selector(f"#magnified[data-at='{x},{y}']", timeout=WAIT)
    page.mouse.move(*at)
    page.mouse.down()
    page.mouse.move(at[0] + 6 * 1.2**8 * scale, at[1], steps=6)  # six pixels of the image
    page.mouse.up()
    assert page.get_attribute("#magnified", "data-at") == f"{x},{y}"  # a drag marks nothing
    page.mouse.click(*at)
    page.wait_for_selector(f"#magnified[data-at='{x - 6},{y}']", timeout=WAIT)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    question(page)
    page.keyboard.press("Home")
    page.wait_for_timeout(100)
    assert (drawn(page) == whole).all()
    fingers = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 60), ("touchMove", 100), ("touchEnd", None)):
        points = [] if apart is None else [{"x": at[0] + side * apart, "y": at[1], "id": side} for side in (0, 1)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    when_changed(page, whole)
    page.keyboard.press("Home")
    page.wait_for_timeout(100)
    assert (drawn(page) == whole).all()
    for nearer, back in (("PageUp", "PageDown"), ("#closer", "#farther"), ("#closer", "#all")):
        for act in (nearer, back):
            page.tap(act) if act.startswith("#") else page.keyboard.press(act)
            if act == nearer:
                when_changed(page, whole)
        page.wait_for_timeout(100)
        assert (drawn(page) == whole).all()
    page.keyboard.press("o")
    assert page.faults == []


def test_a_new_question_is_shown_in_the_whole_image(open_page, run):
    """Where its ring is in sight: not as near as the question before."""
    page = ready(open_page, run)
    here = question(page)
    page.keyboard.press("PageUp")
    page.keyboard.press(right_key(here))
    next_question(page, here)
    question(page)
    shown = drawn(page)
    page.keyboard.press("PageUp")
    when_changed(page, shown)
    page.keyboard.press("Home")
    page.wait_for_timeout(100)
    assert (drawn(page) == shown).all()
    acknowledged(page)
    assert page.faults == []


def volunteer(run, x: int, y: int, class_id: int) -> None:
    """An answer that no page gives."""
    entry = {"id": f"v{x}.{y}", "type": "answer", "kind": "volunteered", "image": 0, "x": x, "y": y}
    body = {"entries": [{**entry, "class_id": class_id, "reason": None, "seconds": None}]}
    address, _, token = run.url.partition("#")
    headers = {"X-Difal-Token": token, "Content-Type": "application/json"}
    with urlopen(Request(f"{address}api/keep", json.dumps(body).encode(), headers)) as response:
        assert json.load(response)["kept"] == [entry["id"]]


def test_a_new_head_replaces_what_is_shown_of_the_one_before(open_page, run):
    """The prediction over the image, the guesses of the questions at hand, and all images."""
    page = ready(open_page, run)
    page.wait_for_selector("body[data-trained='true']", timeout=WAIT)
    page.keyboard.press("o")
    page.wait_for_selector("#legend button", timeout=WAIT)

    def newer(selector: str, name: str, x: int) -> None:
        """Wait until the elements show a head that has learned from one more answer."""
        before = int(page.get_attribute("body", "data-live"))
        volunteer(run, x, 3, 0)
        page.wait_for_function(
            """([selector, name, before]) => document.body.dataset.trained === 'true'
            && document.body.dataset.live > before
            && document.querySelector(selector).dataset[name] === document.body.dataset.live""",
            arg=[selector, name, before],
            timeout=WAIT,
        )

    with page.expect_response("**/api/guesses", timeout=WAIT) as heard:
        newer("#whole", "head", 3)
    assert heard.value.json()["guesses"]
    page.keyboard.press("i")
    page.wait_for_selector("#tiles[data-exact]", timeout=WAIT)
    newer("#tiles", "exact", 5)
    page.keyboard.press("i")
    page.keyboard.press("o")
    assert page.faults == []


def test_a_sketch_is_the_prediction_where_colours_tell(open_page, run):
    """The halves are far apart in colour: away from where they meet a pixel's class is that of its half."""
    ready(open_page, run).wait_for_selector("body[data-trained='true']", timeout=WAIT)
    address, _, token = run.url.partition("#")
    with urlopen(Request(f"{address}api/sketch?image=2", headers={"X-Difal-Token": token})) as response:
        ids = np.array(Image.open(io.BytesIO(response.read())))
    assert (ids[:, : SIZE // 4] == 0).all()
    assert (ids[:, 3 * SIZE // 4 :] == 1).all()


def test_all_images_with_their_predictions(open_page, run, halves):
    page = ready(open_page, run)
    page.keyboard.press("i")
    page.wait_for_selector("#tiles[data-exact]", timeout=WAIT)
    tiles = page.query_selector_all("#tiles button")
    assert len(tiles) == 3
    for tile, path in zip(tiles, sorted(halves.iterdir()), strict=True):
        found = picture(tile.eval_on_selector("canvas", "(one) => one.toDataURL()"))
        assert found.shape == (SIZE, SIZE, 3)
        assert abs(found - read_image(path)).max() > 50  # the prediction lies over it
    tiles[1].click()
    page.wait_for_selector("#leave:not([hidden])", timeout=WAIT)
    assert page.inner_text("#caption") == "b.png"
    page.keyboard.press("Escape")
    question(page)
    assert page.faults == []


def test_more_classes_than_keys(open_page, run):
    page = ready(open_page, run)
    assert len(page.query_selector_all("#classes button")) == len(CLASSES) > len(KEYS)
    assert len(page.query_selector_all("#classes button kbd")) == len(KEYS)
    here = question(page)
    page.keyboard.press("/")
    page.fill("#search-text", "C44")
    assert page.eval_on_selector_all("#search-found li", "all => all.map((one) => one.textContent)") == ["c44"]
    page.keyboard.press("Enter")
    next_question(page, here)
    acknowledged(page)
    assert answers(run)[-1]["class_id"] == 44
    page.keyboard.press("Backspace")  # it was none of those
    assert question(page) == here
    acknowledged(page)
    assert page.faults == []


def test_classes_change_in_the_page(open_page, run):
    page = ready(open_page, run)
    page.click("#tool-classes")
    page.fill("#classes-body form input", "moon")
    page.click("#classes-body form button")
    page.wait_for_selector(f"#classes [data-class-id='{len(CLASSES)}']", timeout=WAIT)
    page.wait_for_selector("[aria-label='Name of moon']", timeout=WAIT)
    page.fill("[aria-label='Name of c44']", "sun")
    page.click("[aria-label='Name of c44'] + button")
    page.wait_for_selector("[aria-label='Name of sun']", timeout=WAIT)
    page.select_option("[aria-label='Merge c43 into']", label="left")
    page.wait_for_selector("#classes [data-class-id='43']", state="detached", timeout=WAIT)
    assert page.query_selector("#classes [data-class-id='42']")  # the others keep their ids
    assert page.inner_text("#classes [data-class-id='44']") == "sun"
    page.click("li:has-text('merged c43 into left') button", timeout=WAIT)
    page.wait_for_selector("#classes [data-class-id='43']", timeout=WAIT)
    acknowledged(page)
    changes = [one["op"] for one in of_type(read_journal(run.folder / "annotate/journal.jsonl"), "class")]
    assert changes == ["add", "rename", "merge"]
    assert page.faults == []
