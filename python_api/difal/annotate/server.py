"""The HTTP server: the standard library's, on the loopback address alone."""

from __future__ import annotations

import os
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from difal.annotate.handlers import LARGEST_BODY, Gate, Request, Response, handle, problem
from difal.annotate.session import Session
from difal.errors import ConfigError
from difal.files import derive_seed, write_bytes

HOST = "127.0.0.1"
PORTS = range(21_000, 29_000)  # below the ports that systems hand out by themselves


class Handler(BaseHTTPRequestHandler):
    """Carries a request to `handlers.handle` and its response back."""

    protocol_version = "HTTP/1.1"  # connections are kept open
    server_version, sys_version = "difal", ""
    timeout = 60.0  # seconds that a client may take over a request, or leave its connection idle
    server: Server

    def do_GET(self) -> None:
        self._send(self._answer(b""))

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or "transfer-encoding" in self.headers:
            self._refuse(411, "the request must say how long its body is")
        elif len(length) > 10 or int(length) > LARGEST_BODY:
            self._refuse(413, f"the body may have at most {LARGEST_BODY} bytes")
        else:
            self._send(self._answer(self.rfile.read(int(length))))

    def _refuse(self, status: int, text: str) -> None:
        self.close_connection = True  # the body is left unread
        self._send(problem(status, text))

    def _answer(self, body: bytes) -> Response:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        try:
            return handle(request, self.server.session, self.server.gate)
        except Exception as error:
            return problem(500, f"{type(error).__name__}: {error}")

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in {**self.server.gate.headers(), **response.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", response.kind)
        self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, *args) -> None:
        """Say nothing: a line per request helps nobody."""


class Server(ThreadingHTTPServer):
    """Serves one session.

    Args:
        session: what is served.
        gate: who may come in.
        port: where; 0 for any that is free.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"

    def __init__(self, session: Session, gate: Gate, port: int):
        self.session, self.gate = session, gate
        super().__init__((HOST, port), Handler)

    def handle_error(self, request, client_address) -> None:
        """Say nothing of a browser that has gone away in the middle of a response."""

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        """Where the page is; what follows `#` is not sent, and so stands in no log."""
        return f"http://{HOST}:{self.port}/#{self.gate.token}"

    def serve_in_background(self) -> None:
        threading.Thread(target=self.serve_forever, daemon=True, name="difal-server").start()


def usual_port(folder: Path) -> int:
    """The run's own port: a page that is open goes on with a server that was started again."""
    return PORTS[derive_seed("port", str(folder.resolve())) % len(PORTS)]


def make_server(session: Session, gate: Gate, port: int | None) -> Server:
    """A server on `port`, or on the run's own or else on any free one.

    Raises:
        ConfigError: the port that was asked for cannot be had.
    """
    if port is not None:
        try:
            return Server(session, gate, port)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"`--port` {port} cannot be used ({reason}); give another, or none") from None
    try:
        return Server(session, gate, usual_port(session.folder))
    except OSError:
        return Server(session, gate, 0)


def token_of(folder: Path) -> str:
    """The run's token, 256 random bits, made once; the file is for its owner alone."""
    path = folder / "token"
    if not path.is_file():
        old = os.umask(0o077)
        try:
            write_bytes(path, secrets.token_urlsafe(32).encode())
        finally:
            os.umask(old)
    return path.read_text(encoding="ascii").strip()
