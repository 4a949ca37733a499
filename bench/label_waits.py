"""How long an annotator waits for the first question, for a prediction by a new head, and for all images.

    python bench/label_waits.py             bench/results/cpu/label_waits.md and .json
    python bench/label_waits.py --busy 6    label_waits_busy.*: beside six processes that compute without a pause

First question: from the start of the command to the question drawn, 60 photographs of 1200 x 800 pixels that nothing
is known of. Predictions: 60 images of 256 x 256 pixels. All of them are opened as soon as the page knows of the first
head, stay open while the next one is trained, and are opened after the command was started again; each time until the
head has seen every pixel. Needs chromium and Playwright.
"""

from __future__ import annotations

from command import Parser

if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile")
    BUSY = parser.parse_args().busy

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "python_api"), str(ROOT)]

from annotate.annotators import flags
from annotate.browser import Label, children, launch, need_browser, next_question, place, question
from api.fakes import write_folder
from difal.data import open_data
from difal.data.scenes import CLASSES, draw_scene
from tables import load_line, markdown, write

IMAGES, HEADS = 60, 5
# When the page drew the prediction of which head over the image, by the machine's clock.
PROBE = """
window.drawn = [];
addEventListener("DOMContentLoaded", () => {
  new MutationObserver(() => {
    const version = Number(document.getElementById("whole").dataset.head);
    requestAnimationFrame(() => drawn.push([version, Date.now()]));
  }).observe(document.getElementById("whole"), { attributes: true, attributeFilter: ["data-head"] });
});
"""


def photographs(folder: Path) -> Path:
    folder.mkdir()
    for number in range(IMAGES):
        picture, _ = draw_scene(number, 256)
        Image.fromarray(picture).resize((1200, 800), Image.Resampling.BICUBIC).save(
            folder / f"{number:02d}.jpg", quality=92
        )
    return folder


def first_question(chromium, folder: Path) -> dict[str, float]:
    """Seconds from the command's start to the page's address, and to the first question."""
    data = photographs(folder / "photographs")
    began = time.monotonic()
    with Label(folder / "first", *flags(data=data, classes=",".join(CLASSES))) as label:
        address = time.monotonic() - began
        page = chromium.new_page()
        page.goto(label.url)
        page.wait_for_selector("body[data-question*='.']", timeout=600_000)
        asked = time.monotonic() - began
        page.close()
    return {"the page's address": address, "the first question": asked}


def by_mask(page, pool) -> None:
    here = question(page)
    image, row, column = place(here)
    value = int(pool.mask(image)[row, column])
    page.keyboard.press("-" if value == 255 else str(1 + value))
    next_question(page, here)


def gallery(page, label: Label) -> tuple[float, float]:
    """Seconds until all images show the head's predictions, and the child's processor seconds meanwhile."""
    began, head = time.monotonic(), int(page.get_attribute("body", "data-live"))
    busy_before = processor_seconds(label)
    page.keyboard.press("i")
    found = until_all(page, "exact", head) - began, processor_seconds(label) - busy_before
    page.keyboard.press("Escape")
    question(page)
    return found


def processor_seconds(label: Label) -> float:
    """What the child process has taken so far, all its threads together."""
    files = [Path(f"/proc/{child}/stat") for child in children(label.process.pid)]
    fields = [file.read_text().rpartition(")")[2].split() for file in files]
    return sum(int(ticks) for one in fields for ticks in one[11:13]) / os.sysconf("SC_CLK_TCK")


def until_all(page, mark: str, head: int) -> float:
    """The time when all images show the predictions of `head`."""
    while int(page.get_attribute("#tiles", f"data-{mark}") or 0) < head:
        page.wait_for_timeout(20)
    return time.monotonic()


def next_gallery(page) -> float:
    """Seconds from the next head, which is being trained, until all images show its predictions; they are open."""
    before = int(page.get_attribute("body", "data-live"))
    page.keyboard.press("i")
    while (head := int(page.get_attribute("body", "data-live"))) == before:
        page.wait_for_timeout(20)
    began = time.monotonic()
    seconds = until_all(page, "exact", head) - began
    page.keyboard.press("Escape")
    question(page)
    return seconds


def predictions(chromium, folder: Path) -> dict[str, float]:
    """Seconds from a new head to its prediction over the image shown, and until all images show theirs."""
    data = write_folder(folder / "images", masks=True, count=IMAGES, size=256)
    pool, known = open_data(data).train, "body:not([data-live='0'])[data-trained='true']"
    with Label(folder / "run", *flags(data=data, rounds=2, budget=1, pictures=0)) as label:
        page = chromium.new_page()
        page.add_init_script(PROBE)
        page.goto(label.url)
        page.wait_for_selector("body[data-phase='asking']", timeout=600_000)
        for _ in range(30):
            by_mask(page, pool)
        page.wait_for_selector(known, timeout=600_000)
        first, first_busy = gallery(page, label)
        for _ in range(9):
            by_mask(page, pool)
        training = next_gallery(page)
        page.keyboard.press("o")
        page.wait_for_selector("#whole[data-head]:not([data-head=''])", timeout=60_000)
        waits = []
        for _ in range(HEADS):
            before = int(page.get_attribute("body", "data-live"))
            by_mask(page, pool)
            page.wait_for_selector(f"body:not([data-live='{before}'])[data-trained='true']", timeout=60_000)
            version = int(page.get_attribute("body", "data-live"))
            made = (label.folder / "annotate/head.safetensors").stat().st_mtime
            page.wait_for_selector(f"#whole[data-head='{version}']", timeout=60_000)
            page.wait_for_timeout(200)
            when = next(at for drawn, at in page.evaluate("drawn") if drawn >= version)
            waits.append(when / 1000 - made)
        page.goto("about:blank")
        page.close()
    with Label(folder / "run") as label:
        page = chromium.new_page()
        page.goto(label.url)
        page.wait_for_selector("body:not([data-live='0'])[data-question*='.']", timeout=600_000)
        again, again_busy = gallery(page, label)
        page.goto("about:blank")
        page.close()
    return {
        "a new head's prediction over the image, median": statistics.median(waits),
        "the same, longest of five heads": max(waits),
        "all 60 images with the head's predictions, opened at the first head": first,
        "processor time of the child process meanwhile": first_busy,
        "all 60 images by the next head, where they were open while it was trained": training,
        "all 60 images, opened with the first question of a command that was started again": again,
        "processor time of the child process in that": again_busy,
    }


@contextmanager
def busy(count: int):
    """Keep `count` processes computing meanwhile."""
    found = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in found:
            process.kill()
            process.wait()


def main(others: int) -> None:
    need_browser()
    from playwright.sync_api import sync_playwright

    load = os.getloadavg()[0]
    with (
        busy(others),
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        launch(playwright) as chromium,
    ):
        found = {**first_question(chromium, Path(folder)), **predictions(chromium, Path(folder))}
    load = (load, os.getloadavg()[0])
    table = [{"wait": name, "seconds": round(seconds, 2)} for name, seconds in found.items()]
    flag, name = (f" --busy {others}", "label_waits_busy") if others else ("", "label_waits")
    report = markdown(table, ("until", "s"), "g") + f"\n`python bench/label_waits.py{flag}`, {load_line(load)}.\n"
    print(report)
    write(name, {"waits": table, "load": load}, report)


if __name__ == "__main__":
    main(BUSY)
