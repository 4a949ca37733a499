"""How long the annotator's page takes from a key to the next painted question, measured in the browser.

    python bench/label_latency.py        bench/results/cpu/label_latency.md and .json

Three cases, the same pool: a server that answers at once, one whose every answer comes 200 ms late (the browser's own
emulation of a slow network), and one whose child process trains without a pause meanwhile. Needs chromium and
Playwright.
"""

from __future__ import annotations

from command import no_options

if __name__ == "__main__":
    no_options(__doc__)

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "python_api"), str(ROOT)]

from annotate.annotators import Annotator, flags
from annotate.browser import Label, need_browser, next_question, question
from tables import load_line, markdown, write

KEYS, PAUSE = 100, 0.35  # keys per case, and seconds between them: far faster than anybody labels
SETTINGS = {
    "data": "scenes:8,0,0",
    "candidates": 500,
    "local": 60,
    "random": 20,
    "noise_samples": 1,
    "pictures": 0,
    "rounds": 3,
    "budget": 50,
}
# From the key's own time stamp to the first task after the frame in which the next question was drawn.
PROBE = """
window.latencies = [];
let pressed = null;
addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
addEventListener("DOMContentLoaded", () => {
  new MutationObserver(() => {
    if (pressed === null || !document.body.dataset.question) return;
    const since = pressed;
    pressed = null;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => latencies.push(performance.now() - since);
      channel.port2.postMessage(0);
    });
  }).observe(document.body, { attributes: true, attributeFilter: ["data-question"] });
});
"""


def measure(page, keys: int = KEYS) -> list[float]:
    """Milliseconds from each of many keys to the next painted question."""
    page.evaluate("latencies.length = 0")
    for number in range(keys):
        here = question(page)
        page.keyboard.press(str(1 + number % 8))
        next_question(page, here)
        question(page)
        time.sleep(PAUSE)
    return page.evaluate("latencies")


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    need_browser()
    from playwright.sync_api import sync_playwright

    rows, load = {}, [os.getloadavg()[0]]
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        Label(Path(folder) / "run", *flags(**SETTINGS)) as label,
    ):
        annotator = Annotator(playwright, label, Path(folder) / "profile", SETTINGS["data"])
        page = annotator.page
        page.add_init_script(PROBE)
        page.reload()
        page.wait_for_selector("body[data-phase='asking']", timeout=600_000)
        page.wait_for_timeout(3000)
        rows["the server answers at once"] = measure(page)
        network = page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 200, "downloadThroughput": -1, "uploadThroughput": -1}
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", slow)
        page.wait_for_timeout(3000)
        rows["every answer of the server 200 ms late"] = measure(page)
        network.send("Network.emulateNetworkConditions", {**slow, "latency": 0})
        before = int(page.get_attribute("body", "data-live"))
        rows["the child process trains meanwhile"] = measure(page)
        heads = int(page.get_attribute("body", "data-live")) - before
        annotator.close()
    load.append(os.getloadavg()[0])
    table = [
        {
            "case": case,
            "keys": len(found),
            "p50_ms": round(statistics.median(found), 1),
            "p95_ms": round(quantile(found, 0.95), 1),
            "max_ms": round(max(found), 1),
        }
        for case, found in rows.items()
    ]
    report = markdown(table, ("case", "keys", "p50, ms", "p95, ms", "largest, ms"), "g") + (
        f"\nKey to next painted question, by `python bench/label_latency.py`; {heads} heads trained in the last case. "
        f"{load_line(load)}; chromium paints by software.\n"
    )
    print(report)
    write("label_latency", {"cases": table, "load": load}, report)


if __name__ == "__main__":
    main()
