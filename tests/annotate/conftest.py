"""One chromium for all tests of the page, and pages that are closed whatever happens."""

import pytest

from annotate.browser import WAIT, launch, need_browser


@pytest.fixture(scope="session")
def playwright():
    need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="session")
def chromium(playwright):
    found = launch(playwright)
    yield found
    found.close()


@pytest.fixture
def open_page(chromium):
    """Opens a page at the address of a server, in a context of its own; all are closed after the test.

    What the page reports as an error is in its `faults`, whom it asks for anything in its `hosts`.
    """
    contexts = []

    def open_(label, browser=chromium, **options):
        size = {} if options.get("no_viewport") else {"viewport": {"width": 1100, "height": 760}}
        contexts.append(browser.new_context(color_scheme="light", **size, **options))
        contexts[-1].set_default_timeout(WAIT)
        page = contexts[-1].new_page()
        page.faults, page.hosts = [], set()
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda message: message.type == "error" and page.faults.append(message.text))
        page.on("request", lambda request: page.hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
        page.goto(label.url)
        return page

    yield open_
    for context in contexts:
        if context.browser.is_connected():
            for page in context.pages:
                page.goto("about:blank")  # on leaving, a page tells the server, so that the next need not wait
            context.close()
