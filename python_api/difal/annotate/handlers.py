"""What each request gets, as functions of (request, session): no socket, no thread, any server can carry them.

Every request under `api/` needs the token. Requests that change something are POST and JSON. Images are asked for by
number. Nothing of a request ever becomes part of a path.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from difal.annotate.session import Session
from difal.errors import LabelError

LARGEST_BODY = 1 << 20
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN_HEADER = "x-difal-token"
SCRIPTS = (
    "main", "net", "store", "asking", "drawing", "lens", "classes", "overlay", "gallery", "help", "panels",
)  # fmt: skip
PAGE_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    **{f"{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
}


@dataclass(frozen=True)
class Request:
    """A request; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path.lstrip("/")

    @property
    def query(self) -> dict[str, str]:
        return {key: values[-1] for key, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """Who may come in.

    Args:
        token: what every request under `api/` must carry.
        hosts: names of the machine that a browser may have been given, besides the loopback's.
        framed: whether a notebook on a loopback address or on one of `hosts` may show the page in a frame.
    """

    token: str
    hosts: tuple[str, ...] = ()
    framed: bool = False

    def refusal(self, request: Request) -> Response | None:
        """Why a request gets nothing, or None."""
        host = request.headers.get("host", "")
        if host_name(host) not in (*LOOPBACK, *self.hosts):
            return problem(421, f"this server does not go by the name {host_name(host)[:100]!r}; see --allow-host")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return problem(403, "the request comes from another site")
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and request.path:
            return problem(403, "the request comes from another site")
        if not request.path.startswith("api/"):
            return None
        given = request.headers.get(TOKEN_HEADER, "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self.token.encode()):
            return problem(401, "the token is missing or wrong; open the address that `difal label` printed")
        return None

    def headers(self) -> dict[str, str]:
        """What every response says about itself."""
        around = "'none'"
        if self.framed:
            names = (*LOOPBACK[:2], *self.hosts)
            around = " ".join(f"http://{name}:* https://{name}:*" for name in names)
        return {
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: "
                f"data:; base-uri 'none'; form-action 'none'; frame-ancestors {around}"
            ),
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }


def host_name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of an IPv6 address."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def handle(request: Request, session: Session, gate: Gate) -> Response:
    """Answer a request."""
    refused = gate.refusal(request)
    if refused is not None:
        return refused
    if request.method == "GET" and request.path in PAGE_FILES:
        name, kind = PAGE_FILES[request.path]
        return Response(200, (resources.files("difal.annotate") / "page" / name).read_bytes(), kind)
    if request.path not in {"GET": set(GET), "POST": set(POST)}.get(request.method, ()):
        known = request.path in GET or request.path in POST or request.path in PAGE_FILES
        return problem(405 if known else 404, "there is nothing here")
    try:
        if request.method == "GET":
            return GET[request.path](session, request.query)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return problem(415, "the body must be JSON, with the content type application/json")
        return Response(200, _json(POST[request.path](session, _object(request.body))))
    except LabelError as error:
        return problem(400, str(error))
    except OSError as error:  # the disk is full, say: the page keeps its answers and sends them again
        return problem(507, f"{error.strerror or error}")


def problem(status: int, text: str) -> Response:
    return Response(status, _json({"error": text}))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _object(body: bytes) -> dict:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise LabelError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise LabelError("the body must be an object")
    return value


def _number(query: dict[str, str], key: str, count: int) -> int:
    text = query.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < count):
        raise LabelError(f"{key} must be a number from 0 to {count - 1}, got {text[:40]!r}")
    return int(text)


def _page(body: dict) -> str:
    page = body.get("page")
    if not isinstance(page, str) or not 0 < len(page) <= 64:
        raise LabelError("page must be the page's own id")
    return page


def _list(body: dict, key: str, kind: type, most: int) -> list:
    value = body.get(key)
    if not isinstance(value, list) or len(value) > most or not all(isinstance(one, kind) for one in value):
        raise LabelError(f"{key} must be a list of at most {most}")
    return value


def _overview(session: Session, query: dict[str, str]) -> Response:
    image = _number(query, "image", len(session.data.train))
    return Response(200, session.images.overview(image), "image/png")


def _window(session: Session, query: dict[str, str]) -> Response:
    image = _number(query, "image", len(session.data.train))
    height, width = session.images.size(image)
    x, y = _number(query, "x", width), _number(query, "y", height)
    return Response(200, session.images.window(image, x, y), "image/png")


def _view(session: Session, query: dict[str, str]) -> Response:
    image = _number(query, "image", len(session.data.train))
    part = query.get("part")
    if part not in ("classes", "unsure"):
        raise LabelError("part must be classes or unsure")
    found = session.background.view(image, part)
    if found is None:
        return problem(404, "there is no prediction yet")
    return Response(200, found[0], "image/png", {"X-Difal-Version": str(found[1])})


def _thumbnail(session: Session, query: dict[str, str]) -> Response:
    image = _number(query, "image", len(session.data.train))
    return Response(200, session.images.thumbnail(image), "image/png")


def _sketch(session: Session, query: dict[str, str]) -> Response:
    found = session.background.sketch(_number(query, "image", len(session.data.train)))
    if found is None:
        return problem(404, "there is no prediction yet")
    content, version, exact = found
    return Response(200, content, "image/png", {"X-Difal-Version": str(version), "X-Difal-Exact": str(int(exact))})


def _answers(session: Session, query: dict[str, str]) -> Response:
    image = _number(query, "image", len(session.data.train))
    return Response(200, _json({"answers": session.answers_of(image), "size": session.images.size(image)}))


def _hello(session: Session, body: dict) -> dict:
    browser = body.get("browser")
    if browser is not None and (not isinstance(browser, str) or len(browser) > 64):
        raise LabelError("browser must be the browser's own id")
    return session.hello(_page(body), body.get("take") is True, browser, body.get("alone") is True)


def _state(session: Session, body: dict) -> dict:
    seen = body.get("seen")
    if isinstance(seen, bool) or not isinstance(seen, int):
        raise LabelError("seen must be the version of the state that the page has")
    return session.wait(_page(body), seen)


def _set_up(session: Session, body: dict) -> dict:
    session.set_up(_list(body, "classes", str, 255))
    return {}


def _more(session: Session, body: dict) -> dict:
    rounds = body.get("rounds")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= 1000:
        raise LabelError("rounds must be an integer from 1 to 1000")
    session.more_rounds(rounds)
    return {}


def _try_again(session: Session, body: dict) -> dict:
    session.try_again()
    return {}


def _export(session: Session, body: dict) -> dict:
    return session.export()


GET: dict[str, Callable[[Session, dict[str, str]], Response]] = {
    "api/overview": _overview,
    "api/window": _window,
    "api/thumbnail": _thumbnail,
    "api/view": _view,
    "api/sketch": _sketch,
    "api/answers": _answers,
    "api/recent": lambda session, query: Response(200, _json({"recent": session.recent()})),
}
POST: dict[str, Callable[[Session, dict], dict]] = {
    "api/hello": _hello,
    "api/leave": lambda session, body: session.leave(_page(body)),
    "api/state": _state,
    "api/next": lambda session, body: {"questions": session.next(_list(body, "have", str, 100))},
    "api/guesses": lambda session, body: {"guesses": session.guesses_for(_list(body, "have", str, 100))},
    "api/keep": lambda session, body: {"kept": session.keep(_list(body, "entries", dict, 500))},
    "api/changes": lambda session, body: {"changes": session.class_changes()},
    "api/classes": _set_up,
    "api/more": _more,
    "api/again": _try_again,
    "api/export": _export,
}
