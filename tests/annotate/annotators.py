"""An annotator that knows the masks and answers by keys through the page, in a browser that may be killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from annotate.browser import CHROMIUM, FLAGS, WAIT, Label, next_question, place, question
from difal.annotate.classes import assign_keys
from difal.data import open_data
from difal.data.base import IGNORE

SETTINGS = {
    "candidates": 200,
    "local": 60,
    "random": 20,
    "noise_samples": 1,
    "epochs": 5,
    "pictures": 0,
    "threads": 1,
}


def flags(**settings) -> list[str]:
    """Settings as flags of the command line."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


class Annotator:
    """A browser with a profile of its own, at the page of a `difal label`.

    Args:
        playwright: Playwright.
        label: the server's process.
        profile: folder of the browser's profile; what the page keeps survives the browser there.
        data: what is labeled.
        touch: whether it has a touch screen.
    """

    def __init__(self, playwright, label: Label, profile: Path, data: str, touch: bool = False):
        self.playwright, self.label, self.profile, self.touch = playwright, label, profile, touch
        self.data = open_data(data)
        self.keys = assign_keys(self.data.classes)
        self.open()

    def open(self) -> None:
        self.context = self.playwright.chromium.launch_persistent_context(
            str(self.profile),
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": 900, "height": 640},
            has_touch=self.touch,
        )
        self.context.set_default_timeout(WAIT)
        self.page = self.context.pages[0]
        self.visit()

    def visit(self) -> None:
        """Open the page, again and again if need be: the server may be away, or go in the middle of it."""
        from playwright.sync_api import Error

        until = time.monotonic() + WAIT / 1000
        while True:
            try:
                self.page.goto(self.label.url)
                self.page.wait_for_selector("body[data-phase]", timeout=WAIT / 4)
                return
            except Error:
                if not self.processes() or time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def reopen(self, error: Exception) -> None:
        """Open the page in a new browser, if the old one's death is what an error came of; else raise the error."""
        from playwright.sync_api import Error

        until = time.monotonic() + 5
        while self.processes():  # it takes a moment to die
            if time.monotonic() > until:
                raise error
            time.sleep(0.05)
        try:
            self.open()
        except Error as again:
            self.reopen(again)  # it was killed while it opened

    def kill(self) -> None:
        """End the browser by SIGKILL, at once."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)

    def processes(self) -> list[int]:
        """The browser's own process, first; its others end with it."""
        found, mark = [], f"--user-data-dir={self.profile}".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except OSError:
                continue
            if mark in command and b"--type=" not in command:
                found.append(int(path.parent.name))
        return found

    def answer(self, tap: bool = False) -> str:
        """Answer the question shown, by its key or by a tap; its id."""
        here = question(self.page)
        image, row, column = place(here)
        class_id = int(self.data.train.mask(image)[row, column])
        if tap:
            self.page.tap("#none" if class_id == IGNORE else f"#classes [data-class-id='{class_id}']")
        else:
            self.page.keyboard.press("-" if class_id == IGNORE else self.keys[class_id])
        next_question(self.page, here)
        return here

    def done(self) -> bool:
        """Whether all rounds are done; waits until that, or a question, is shown."""
        self.page.wait_for_selector("body[data-phase='done'], body[data-question*='.']", timeout=WAIT)
        return self.page.get_attribute("body", "data-phase") == "done"

    def close(self) -> None:
        self.context.close()
