"""Draw the pictures of docs/label.md: the page in chromium, on drawn scenes, answered from their masks.

python docs/make_label_screenshots.py        docs/img/label_*.png; needs chromium and Playwright
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "python_api"), str(ROOT)]

from annotate.annotators import Annotator, flags  # noqa: E402
from annotate.browser import Label, need_browser, question  # noqa: E402

SETTINGS = {"data": "scenes:12,0,0", "candidates": 1000, "noise_samples": 1, "pictures": 0, "rounds": 3, "budget": 3}
ANSWERS, PAUSE = 48, 900  # milliseconds: about what a person takes


def main() -> None:
    need_browser()
    from playwright.sync_api import sync_playwright

    out = ROOT / "docs/img"
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        Label(Path(folder) / "run", *flags(**SETTINGS), "--annotator", "anna") as label,
    ):
        annotator = Annotator(playwright, label, Path(folder) / "profile", SETTINGS["data"])
        page = annotator.page
        page.set_viewport_size({"width": 1280, "height": 800})
        page.emulate_media(color_scheme="light")
        page.wait_for_selector("body[data-phase='asking']", timeout=600_000)
        for _ in range(ANSWERS):
            page.wait_for_timeout(PAUSE)
            annotator.answer()
        page.wait_for_selector("body:not([data-live='0'])[data-trained='true']", timeout=600_000)
        page.wait_for_selector("#confirm:not([hidden])", timeout=60_000)
        question(page)
        page.screenshot(path=out / "label_question.png")
        page.keyboard.press("i")
        page.wait_for_selector("#tiles[data-exact]", timeout=600_000)
        page.screenshot(path=out / "label_images.png")
        page.click("#tiles button >> nth=3")
        page.wait_for_selector("#legend button", timeout=60_000)
        page.click("#whole", position={"x": 330, "y": 250})
        page.wait_for_timeout(1000)
        page.screenshot(path=out / "label_prediction.png")
        annotator.close()
    print(*sorted(out.glob("label_*.png")), sep="\n")


if __name__ == "__main__":
    main()
