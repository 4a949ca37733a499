"""Where the page can be: in a notebook's cell, and behind a proxy with a name of its own and without TLS."""

import http.client
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from annotate.annotators import SETTINGS, flags
from annotate.browser import WAIT, Label, acknowledged, launch, next_question, question
from api.fakes import write_folder
from difal.annotate import notebook, show
from difal.annotate.journal import of_type, read_journal

QUICK = {**SETTINGS, "rounds": 1, "budget": 2, "candidates": 60, "local": 8, "random": 8}


@contextmanager
def listening(handler):
    """A server of another program on the loopback address; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda request, address: None  # the browser has gone
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def test_in_a_notebook(chromium, tmp_path, monkeypatch):
    """The classes are named in the frame, and a question is answered there."""
    monkeypatch.setattr(notebook, "_shown", {})
    data = write_folder(tmp_path / "photos", masks=False, count=3)
    (data / "classes.txt").unlink()
    run = tmp_path / "run"
    frame = show(run, data=str(data), height=500, **QUICK)
    assert show(run).src == frame.src
    behind = show(run, proxy="/user/ann/proxy/").src
    assert behind == f"/user/ann/proxy/{frame.src.split(':')[2]}"

    class Notebook(Quiet):
        def do_GET(self) -> None:
            self.reply(200, [("Content-Type", "text/html")], frame._repr_html_().encode())

    [(_, stack)] = notebook._shown.values()
    with stack, listening(Notebook) as port:
        page = chromium.new_page()
        page.set_default_timeout(WAIT)
        page.goto(f"http://127.0.0.1:{port}/")
        inner = page.wait_for_selector("iframe").content_frame()
        inner.wait_for_selector("#setup-dialog[open]", timeout=WAIT)
        inner.fill("#setup-names", "sky\nroad\n\ntree ")
        inner.click("#setup-go")
        here = question(inner)
        assert inner.eval_on_selector_all("#classes button", "all => all.length") == 3
        inner.click("#classes button >> nth=2")
        next_question(inner, here)
        acknowledged(inner)
        page.close()
    [answer] = of_type(read_journal(run / "annotate/journal.jsonl"), "answer")
    assert answer["class_id"] == 2


def test_behind_a_proxy(playwright, open_page, tmp_path):
    data = write_folder(tmp_path / "photos", masks=False, count=3)

    class Proxy(Quiet):
        """As jupyter-server-proxy: /proxy/PORT/PATH goes to PATH of that port, the Host header unchanged."""

        def pass_on(self) -> None:
            _, _, port, path = self.path.split("/", 3)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with closing(http.client.HTTPConnection("127.0.0.1", int(port))) as connection:
                connection.request(self.command, f"/{path}", body, dict(self.headers))
                response = connection.getresponse()
                self.reply(response.status, response.getheaders(), response.read())

        do_GET = do_POST = pass_on

    with (
        Label(tmp_path / "run", *flags(data=data, **QUICK), "--allow-host", "Hub.example") as label,
        listening(Proxy) as port,
        launch(playwright, "--host-resolver-rules=MAP hub.example 127.0.0.1") as chromium,
    ):
        there = f"http://hub.example:{port}/proxy/" + label.url.split(":")[2]
        label.url = there
        page = open_page(label, chromium)
        here = question(page)
        assert page.evaluate("isSecureContext") is False
        page.keyboard.press("2")
        next_question(page, here)
        acknowledged(page)
        assert page.hosts == {f"hub.example:{port}"}
        assert page.faults == []
        page.goto("about:blank")
    assert len(of_type(read_journal(tmp_path / "run/annotate/journal.jsonl"), "answer")) == 1
