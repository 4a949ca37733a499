"""Slips of the hand, what a key may not do, and what the journal is told of an answer: through the page."""

import numpy as np
import pytest
from PIL import Image

from annotate.annotators import SETTINGS, flags
from annotate.browser import WAIT, Label, acknowledged, all_ready, next_question, place, question
from difal.annotate.journal import of_type, read_journal

CLASSES = ("sky", "road", "tree")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on three images of noise, of which more pixels are asked than the tests answer."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / f"{name}.png")
    settings = {**SETTINGS, "data": folder, "classes": ",".join(CLASSES), "rounds": 1, "budget": 16}
    with Label(tmp_path_factory.mktemp("run") / "run", *flags(**settings)) as label:
        yield label


def lines(run, kind: str = "answer") -> list[dict]:
    return of_type(read_journal(run.folder / "annotate/journal.jsonl"), kind)


def ready(open_page, run):
    page = open_page(run)
    question(page)
    all_ready(page)
    return page


def test_with_no_answer_there_is_nothing_to_undo(open_page, run):
    """The first of these tests: the journal is empty."""
    page = ready(open_page, run)
    assert lines(run) == []
    assert [page.is_disabled(name) for name in ("#undo", "#back", "#forward", "#later")] == [True, True, True, False]
    here = question(page)
    for key in ("Backspace", "Control+z", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
        assert question(page) == here
    page.keyboard.press("1")
    next_question(page, here)
    assert [page.is_disabled(name) for name in ("#undo", "#back", "#forward")] == [False, False, True]
    acknowledged(page)
    assert (len(lines(run)), lines(run, "retract")) == (1, [])
    assert page.faults == []


def test_a_key_that_is_held_answers_once(open_page, run):
    page, before = ready(open_page, run), len(lines(run))
    asked = question(page)
    for _ in range(4):
        page.keyboard.down("2")  # all but the first are repeats of the keyboard
    page.keyboard.up("2")
    next_question(page, asked)
    acknowledged(page)
    assert [one["class_id"] for one in lines(run)[before:]] == [1]
    page.keyboard.press("Control+z")
    assert question(page) == asked
    acknowledged(page)
    assert [one["of"] for one in lines(run, "retract")] == [lines(run)[-1]["id"]]
    assert page.faults == []


def test_keys_do_nothing_while_a_dialog_is_open(open_page, run):
    page, before = ready(open_page, run), len(lines(run))
    here = question(page)
    for opener, dialog in (("#tool-help", "#help-dialog"), ("#tool-results", "#results-dialog")):
        page.click(opener)
        page.wait_for_selector(f"{dialog}[open]")
        for key in ("1", "-", ",", ".", "Backspace", "o"):
            page.keyboard.press(key)
        page.keyboard.press("Escape")
        page.wait_for_selector(f"{dialog}:not([open])", state="attached")
        assert question(page) == here
        assert page.get_attribute("#overlay", "aria-pressed") == "false"
    page.keyboard.press("3")
    next_question(page, here)
    acknowledged(page)
    assert [one["class_id"] for one in lines(run)[before:]] == [2]
    assert page.faults == []


def test_an_earlier_answer_is_marked_among_the_classes(open_page, run):
    page = ready(open_page, run)
    here = question(page)
    page.keyboard.press("2")
    next_question(page, here)
    assert page.query_selector("#classes .chosen") is None
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(f"body[data-question='{here}']")
    assert page.inner_text("#question") == "You said: road. Another answer replaces it."
    assert page.eval_on_selector_all("#classes .chosen", "all => all.map((one) => one.dataset.classId)") == ["1"]
    page.keyboard.press("ArrowRight")
    next_question(page, here)
    assert page.query_selector("#classes .chosen") is None
    acknowledged(page)
    assert page.faults == []


def test_the_buttons_of_prediction_and_uncertainty(open_page, run):
    """Either is the button of its key, and only one of both is on."""
    page = ready(open_page, run)
    names = ("#overlay", "#uncertainty")
    for act, on in (("#overlay", 0), ("#uncertainty", 1), ("o", 0), ("u", 1), ("#uncertainty", None)):
        page.click(act) if act.startswith("#") else page.keyboard.press(act)
        assert [page.get_attribute(name, "aria-pressed") for name in names] == [
            str(on == number).lower() for number in (0, 1)
        ], act
    assert page.faults == []


def test_seconds_are_those_of_one_question(open_page, run):
    """By a clock of the test's own; none are told of a question during which the page was out of sight."""
    page, before = open_page(run), len(lines(run))
    page.add_init_script("window.clock = 1000; performance.now = () => window.clock;")
    page.reload()
    question(page)
    all_ready(page)
    for seconds, hidden in ((3, False), (2, False), (4, True), (1.5, False)):
        here = question(page)
        page.evaluate(f"window.clock += {1000 * seconds}")
        if hidden:
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.keyboard.press("1")
        next_question(page, here)
    acknowledged(page)
    assert [one["seconds"] for one in lines(run)[before:]] == [3, 2, None, 1.5]
    assert page.faults == []


def test_an_answer_that_is_refused_is_told_and_takes_no_other_with_it(open_page, run):
    page, before = ready(open_page, run), len(lines(run))
    page.route("**/api/keep", lambda route: route.abort())  # the server is away
    asked = []
    for _ in range(3):
        asked.append(question(page))
        page.keyboard.press("1")
        next_question(page, asked[-1])

    def keep(route) -> None:
        entries = route.request.post_data_json["entries"]
        bad = any(f"{one['y']}.{one['x']}" == ".".join(asked[1].split(".")[2:4]) for one in entries)
        route.fulfill(status=400, json={"error": "it is too late"}) if bad else route.continue_()

    page.unroute("**/api/keep")
    page.route("**/api/keep", keep)
    page.wait_for_selector("#trouble:has-text('An answer was refused: it is too late')", timeout=WAIT)
    acknowledged(page)
    kept = [(one["y"], one["x"]) for one in lines(run)[before:]]
    assert kept == [place(one)[1:] for one in (asked[0], asked[2])]
    for _ in range(2):  # news of the server do not take it away
        with page.expect_response("**/api/state", timeout=WAIT):
            pass
    assert page.inner_text("#trouble-text") == "An answer was refused: it is too late"
    page.click("#trouble-close")
    assert not page.is_visible("#trouble")
