"""Debian's chromium, driven by Playwright, at a `difal label` that runs in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from difal.annotate.session import AHEAD

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = bool(os.environ.get("DIFAL_REQUIRE_BROWSER"))
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
WAIT = 1000 * int(os.environ.get("DIFAL_WAIT", 60))  # milliseconds; a busy machine is no fault


def need_browser() -> None:
    """Skip, or fail where `DIFAL_REQUIRE_BROWSER` is set, without chromium and Playwright."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        missing = "Playwright (pip install playwright)"
    else:
        missing = None if CHROMIUM else "chromium (apt-get install chromium)"
    if missing and REQUIRED:
        pytest.fail(f"{missing} is not installed, and DIFAL_REQUIRE_BROWSER is set")
    if missing:
        pytest.skip(f"{missing} is not installed")


def _heed_interrupts() -> None:
    """Shells have the jobs that they start in the background ignore SIGINT, which `Label.stop` sends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Label:
    """`difal label` in a process of its own.

    Args:
        folder: the run folder.
        arguments: what else is on its command line.
        browser: a program that is started with the page's address; default: none is.
    """

    def __init__(self, folder: Path, *arguments: str, browser: Path | None = None):
        self.folder, self.arguments, self.browser = Path(folder), arguments, browser
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "difal", "label", "--out", str(self.folder)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "python_api"), str(ROOT), *sys.path])}
        if self.browser is None:
            command.append("--no-browser")
        else:
            environment["BROWSER"] = str(self.browser)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "label.log", "ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self.folder,
                preexec_fn=_heed_interrupts,
            )
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            self.stop()
            raise RuntimeError(f"difal label said {line!r}\n{(self.folder / 'label.log').read_text()[-2000:]}")
        self.url = found[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Label:
        return self

    def __exit__(self, *error) -> None:
        if not self.process.stdout.closed:
            self.stop()


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for path in os.listdir("/proc"):
        if path.isdigit():
            try:
                with open(f"/proc/{path}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == parent:
                        found.append(int(path))
            except OSError:
                continue
    return found


def launch(playwright, *flags: str):
    return playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])


def question(page) -> str:
    """The id of the question shown; waits for one."""
    return page.wait_for_selector("body[data-question*='.']", timeout=WAIT).get_attribute("data-question")


def place(question_id: str) -> tuple[int, int, int]:
    """Image number, row and column of a question."""
    image, row, column = map(int, question_id.split(".")[1:4])
    return image, row, column


def next_question(page, before: str) -> None:
    """Wait until another question is shown, or none."""
    page.wait_for_selector(f"body:not([data-question='{before}'])", timeout=WAIT)


def all_ready(page) -> None:
    """Wait until the page holds as many questions as it may, pictures and all."""
    page.wait_for_selector(f"body[data-ready='{AHEAD}']", timeout=WAIT)


def acknowledged(page) -> None:
    """Wait until the server has acknowledged every answer."""
    page.wait_for_selector("body[data-pending='0']", timeout=WAIT)


def results(page, news: str) -> dict[str, str]:
    """What *Results* shows once `news` are among it."""
    page.click("#tool-results")
    page.wait_for_selector(f"#results-body td:text-is('{news}')", timeout=WAIT)
    rows = page.eval_on_selector_all(
        "#results-body tr", "all => all.map((row) => [...row.cells].map((c) => c.innerText))"
    )
    page.keyboard.press("Escape")
    return dict(rows)
