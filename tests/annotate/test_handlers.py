"""Requests without a browser: what each gets, and who is kept out."""

import http.client
import io
import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from annotate.sessions import answer, quiet_session, sent
from difal.annotate import session as session_module
from difal.annotate.handlers import LARGEST_BODY, PAGE_FILES, Gate, Request, handle
from difal.annotate.images import OVERVIEW_SIDE, THUMBNAIL_SIDE, Images, window_at
from difal.annotate.journal import read_journal
from difal.annotate.questions import Question
from difal.annotate.server import HOST, Server, token_of, usual_port
from difal.data.base import FunctionSplit
from difal.run.labels import Label

TOKEN = "t" * 43
GATE = Gate(TOKEN)
GOOD = {"host": "127.0.0.1:8000", "x-difal-token": TOKEN, "content-type": "application/json"}


@pytest.fixture
def session(tmp_path):
    made = quiet_session(tmp_path / "run")
    yield made
    made.close()


def post(session, path, body, headers=GOOD, gate=GATE):
    response = handle(Request("POST", f"/api/{path}", dict(headers), json.dumps(body).encode()), session, gate)
    return response.status, json.loads(response.body)


def get(session, target, headers=GOOD, gate=GATE):
    return handle(Request("GET", target, dict(headers)), session, gate)


def test_the_page_needs_no_token_and_asks_nobody_else(session):
    for name in PAGE_FILES:
        response = get(session, f"/{name}", {"host": "localhost"})
        assert response.status == 200, name
        assert response.body
        assert b"http://" not in response.body
        assert b"https://" not in response.body


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:8000"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "localhost@evil.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"host": ""}, 421),
        ({"host": None}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"x-difal-token": None}, 401),
        ({"x-difal-token": ""}, 401),
        ({"x-difal-token": TOKEN[:-1]}, 401),
        ({"x-difal-token": TOKEN + "t"}, 401),
        ({"x-difal-token": "é"}, 401),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": None}, 415),
    ],
)
def test_attacks_are_turned_away(session, change, status):
    headers = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    entries = {"entries": [sent(0, 1, 1, 0)]}
    assert post(session, "keep", entries, headers)[0] == status
    assert session.journal.entries == []


def test_friends_come_in(session):
    for headers in (
        {**GOOD, "host": "localhost:8888", "origin": "http://localhost:8888"},
        {**GOOD, "host": "[::1]:8000", "origin": "http://[::1]:8000", "sec-fetch-site": "same-origin"},
        {**GOOD, "content-type": "application/json; charset=utf-8"},
    ):
        assert post(session, "hello", {"page": "p"}, headers)[0] == 200
    hub = {**GOOD, "host": "hub.example", "origin": "https://hub.example"}
    assert post(session, "hello", {"page": "p"}, hub)[0] == 421
    assert post(session, "hello", {"page": "p"}, hub, Gate(TOKEN, ("hub.example",)))[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/../../etc/passwd", "/%2e%2e/server.py", "/static/../handlers.py", "/main.js/../../server.py", "/page/main.js",
        "/api/../token", "/session.json", "//etc/passwd", "/api/overview/0",
    ],
)  # fmt: skip
def test_nothing_of_a_request_is_a_path(session, target):
    assert get(session, target).status == 404


def test_wrong_methods(session):
    assert get(session, "/api/keep").status == 405
    assert handle(Request("POST", "/", GOOD, b"{}"), session, GATE).status == 405
    assert handle(Request("DELETE", "/api/keep", GOOD), session, GATE).status == 405


@pytest.mark.parametrize(
    "query", ["", "image=-1", "image=5", "image=a", "image=1e0", "image=../0", "image=99999999999"]
)
def test_images_go_by_number(session, query):
    for picture in ("overview", "thumbnail", "sketch"):
        response = get(session, f"/api/{picture}?{query}")
        assert response.status == 400
        assert "image must be a number from 0 to 4" in json.loads(response.body)["error"]


def test_there_is_no_sketch_without_a_head(session):
    assert get(session, "/api/sketch?image=1").status == 404
    assert get(session, "/api/view?image=1&part=classes").status == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"3", b"[" * 100_000, b"\xff"])
def test_bodies_that_are_no_objects(session, body):
    assert handle(Request("POST", "/api/keep", GOOD, body), session, GATE).status == 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id must be text"),
        ({"id": "x" * 65}, "id must be text"),
        ({"id": "a\nb"}, "id must be text"),
        ({"id": 3}, "id must be text"),
        ({"type": "delete"}, "type must be answer"),
        ({"kind": "other"}, "kind must be one of"),
        ({"image": 5}, "image must be an integer from 0 to 4"),
        ({"image": "0"}, "image must be an integer"),
        ({"image": True}, "image must be an integer"),
        ({"x": 32}, "x must be an integer from 0 to 31"),
        ({"y": -1}, "y must be an integer from 0 to 31"),
        ({"class_id": 8}, "class_id must be an integer from 0 to 7"),
        ({"class_id": 1.0}, "class_id must be an integer"),
        ({"class_id": None, "reason": "because"}, "reason must be one of none, unsure"),
        ({"seconds": -1}, "seconds must be a number"),
        ({"seconds": "1"}, "seconds must be a number"),
        ({"guess": 99}, "guess must be an integer"),
        ({"round": -1}, "round must be an integer"),
    ],
)
def test_answers_that_cannot_be_used(session, change, message):
    good = sent(0, 1, 1, 0)
    status, told = post(session, "keep", {"entries": [good, {**sent(0, 1, 1, 0), **change}]})
    assert status == 400
    assert message in told["error"]
    assert session.journal.entries == []  # none of them is kept


def test_answers_are_on_the_disk_and_count_once(session):
    entries = [sent(0, 1, 2, 3), sent(1, 5, 6, None, reason="unsure")]
    for _ in range(2):
        assert post(session, "keep", {"entries": entries}) == (200, {"kept": [one["id"] for one in entries]})
    lines = read_journal(session.journal.path)
    assert [(one["image"], one["y"], one["x"], one["class_id"]) for one in lines] == [
        (session.data.train.ids[0], 2, 1, 3),
        (session.data.train.ids[1], 6, 5, None),
    ]
    assert all(one["annotator"] == "ann" for one in lines)
    answers = json.loads(get(session, "/api/answers?image=0").body)["answers"]
    assert [(one["x"], one["y"], one["class_id"]) for one in answers] == [(1, 2, 3)]


def test_class_changes_through_the_page(session):
    added = {"id": "a", "type": "class", "op": "add", "name": "moon"}
    entries = [added, sent(0, 1, 1, 8), {"id": "m", "type": "class", "op": "merge", "class_id": 1, "into": 0}]
    assert post(session, "keep", {"entries": entries})[0] == 200
    classes = session.state("p")["classes"]
    assert (classes[8]["name"], classes[1]["merged"]) == ("moon", 0)
    assert [one["id"] for one in post(session, "changes", {})[1]["changes"]] == ["a", "m"]
    assert post(session, "keep", {"entries": [{"id": "u", "type": "retract", "of": "m"}]})[0] == 200
    assert session.state("p")["classes"][1]["merged"] is None
    assert post(session, "keep", {"entries": [{**added, "id": "b"}]})[0] == 400


def test_a_full_disk_acknowledges_nothing(session, monkeypatch):
    def full(entries):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.journal, "append", full)
    status, told = post(session, "keep", {"entries": [sent(0, 1, 1, 0)]})
    assert (status, told) == (507, {"error": "No space left on device"})
    assert session.answers.count() == 0


def test_the_second_page_is_told(session, monkeypatch):
    assert post(session, "hello", {"page": "one"})[1]["mine"]
    assert not post(session, "hello", {"page": "two"})[1]["mine"]
    assert post(session, "hello", {"page": "two", "take": True})[1]["mine"]
    assert not session.state("one")["mine"]
    post(session, "leave", {"page": "two"})
    assert post(session, "hello", {"page": "one"})[1]["mine"]
    first = {"browser": "b", "alone": True}
    assert not post(session, "hello", {"page": "two", **first})[1]["mine"]
    assert post(session, "hello", {"page": "two", "take": True, **first})[1]["mine"]
    assert not post(session, "hello", {"page": "three", "browser": "b"})[1]["mine"]  # "two" is alive beside it
    assert not post(session, "hello", {"page": "three", "browser": "c", "alone": True})[1]["mine"]
    assert post(session, "hello", {"page": "three", **first})[1]["mine"]  # "two" has crashed
    assert post(session, "hello", {"page": "four", "browser": 4})[0] == 400
    monkeypatch.setattr(session_module, "PAGE_GONE_AFTER", -1.0)  # as if it had been long silent
    assert post(session, "hello", {"page": "five"})[1]["mine"]


def test_questions_come_once(session):
    name = session.data.train.ids[2]
    session.background.spare = [Question("spare", (name, row, 3), 32, 32) for row in range(10)]
    first = post(session, "next", {"have": []})[1]["questions"]
    assert [one["id"] for one in first] == [f"spare.2.{row}.3" for row in range(session_module.AHEAD)]
    assert (first[0]["x"], first[0]["y"], first[0]["image"]) == (3, 0, 2)
    have = [one["id"] for one in first[1:]]
    post(session, "keep", {"entries": [sent(2, 3, 0, 1, kind="spare")]})
    assert [one["id"] for one in post(session, "next", {"have": have})[1]["questions"]] == ["spare.2.6.3"]


def test_a_spare_pixel_that_became_a_pick_is_asked_once(session):
    name = session.data.train.ids[2]
    session.background.spare = [Question("spare", (name, row, 3), 32, 32) for row in range(3)]
    session.background.rounds = [[Label(f"000-{row}", name, 3, row, 32, 32, 0, row) for row in (1, 2, 8)]]
    asked = [one["id"] for one in session.next([])]
    assert asked == ["round.2.1.3", "round.2.2.3", "round.2.8.3", "spare.2.0.3"]


def test_another_annotator_is_asked_the_same_and_settles(tmp_path):
    first = quiet_session(tmp_path / "run")
    post(first, "keep", {"entries": [sent(0, x, 0, x % 2) for x in range(4)]})
    first.close()
    second = quiet_session(tmp_path / "run", annotator="bob")
    asked = second.next([])
    assert [(one["kind"], one["x"]) for one in asked] == [("second", x) for x in range(4)]
    second.keep([sent(0, x, 0, 0, kind="second") for x in range(4)])
    assert second.state("p")["agreement"]["kappa"] == pytest.approx(0)
    assert [(one["kind"], one["x"]) for one in second.next([])] == [("settle", 1), ("settle", 3)]
    second.keep([sent(0, 1, 0, 0, kind="settle"), sent(0, 3, 0, 1, kind="settle")])
    assert second.next([]) == []
    assert [label.class_id for label in second.answers.labels()] == [0, 0, 0, 1]
    second.close()


def test_repeats_come_unannounced_and_change_nothing(tmp_path):
    session = quiet_session(tmp_path / "run", repeats=0.1)
    session.background.spare = [Question("spare", (session.data.train.ids[0], row, 3), 32, 32) for row in range(31)]
    asked = []
    while found := session.next([]):
        one = found[0]
        asked.append(one["kind"])
        session.keep([{**sent(0, one["x"], one["y"], 2 if one["kind"] == "repeat" else 1), "kind": one["kind"]}])
    assert asked.count("repeat") == 3
    assert "repeat" not in asked[:10]
    assert {label.class_id for label in session.answers.labels()} == {1}
    assert session.state("p")["agreement"]["repeats_agreed"] == 0
    session.close()


def test_classes_given_in_the_page(tmp_path):
    saved = []

    def save(names):
        saved.append(names)
        return session.config

    session = quiet_session(tmp_path / "run", start=None, save_classes=save)
    session.background.child.restart = lambda settings: saved.append(settings["classes"])
    assert session.state("p")["phase"] == "setup"
    assert session.next([]) == []
    assert post(session, "classes", {"classes": ["sky", "sky"]})[0] == 400
    assert post(session, "classes", {"classes": []})[0] == 400
    status, reply = post(session, "classes", {"classes": ["sky"]})
    assert (status, reply["error"]) == (400, "name at least two classes: a model tells them apart")
    assert post(session, "classes", {"classes": ["sky", "sea"]})[0] == 200
    assert saved == [["sky", "sea"], ["sky", "sea"]]
    assert [one["name"] for one in session.state("p")["classes"]] == ["sky", "sea"]
    assert post(session, "classes", {"classes": ["x"]})[0] == 400
    session.close()


def test_pictures_are_exact_or_reduced():
    rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 256, (*shape, 3), np.uint8) for name, shape in
              {"small": (30, 40), "large": (1500, 2600)}.items()}  # fmt: skip
    images = Images(FunctionSplit(list(pixels), lambda i: (list(pixels.values())[i], None)))
    small = np.array(Image.open(io.BytesIO(images.overview(0))))
    assert (small == pixels["small"]).all()
    assert Image.open(io.BytesIO(images.overview(1))).size == (OVERVIEW_SIDE, round(1500 * OVERVIEW_SIDE / 2600))
    assert (np.array(Image.open(io.BytesIO(images.thumbnail(0)))) == pixels["small"]).all()
    assert Image.open(io.BytesIO(images.thumbnail(1))).size == (THUMBNAIL_SIDE, round(1500 * THUMBNAIL_SIDE / 2600))
    for x, y in ((0, 0), (2599, 1499), (1300, 700)):
        left, top, width, height = window_at(x, y, 2600, 1500)
        found = np.array(Image.open(io.BytesIO(images.window(1, x, y))))
        assert (found == pixels["large"][top : top + height, left : left + width]).all()
        assert left <= x < left + width
        assert top <= y < top + height
    assert (np.array(Image.open(io.BytesIO(images.window(0, 3, 3)))) == pixels["small"]).all()


@contextmanager
def served(session, gate=GATE):
    server = Server(session, gate, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_server_listens_to_the_loopback_alone(session):
    with served(session) as server:
        assert server.server_address[0] == HOST == "127.0.0.1"
        assert server.url.endswith(f"/#{TOKEN}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": str(LARGEST_BODY + 1)}, 413),
        ({"Content-Length": "9" * 40}, 413),
        ({"Content-Length": "-1"}, 411),
        ({"Content-Length": "ten"}, 411),
        ({"Content-Length": "5", "Transfer-Encoding": "chunked"}, 411),
        ({}, 411),
    ],
)
def test_bodies_of_no_known_or_of_too_great_a_length(session, headers, status):
    with served(session) as server:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
        connection.putrequest("POST", "/api/keep")
        for name, value in {**headers, "X-Difal-Token": TOKEN, "Content-Type": "application/json"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == status
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        response.read()
        connection.close()


def test_a_whole_conversation_over_a_socket(session):
    with served(session, Gate(TOKEN, framed=True)) as server:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert (response.status, b"<!doctype html>" in response.read()) == (200, True)
        assert "frame-ancestors http://localhost:*" in response.headers["Content-Security-Policy"]
        body = json.dumps({"entries": [sent(0, 1, 1, 0)]})
        headers = {"X-Difal-Token": TOKEN, "Content-Type": "application/json"}
        connection.request("POST", "/api/keep", body, headers)  # on the same connection
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        connection.close()
    assert len(read_journal(session.journal.path)) == 1


def test_the_token_is_long_secret_and_kept(tmp_path):
    token = token_of(tmp_path)
    assert len(token) >= 43  # 256 bits
    assert token_of(tmp_path) == token
    assert token_of(tmp_path / "other") != token
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0
    assert usual_port(tmp_path) == usual_port(tmp_path / "sub/..")


def test_another_line_of_the_journal_is_seen_after_a_restart(tmp_path):
    session = quiet_session(tmp_path / "run")
    session.journal.append([answer(session.data.train.ids[0], 4, 4, 1)])
    session.close()
    again = quiet_session(tmp_path / "run")
    assert again.answers.count() == 1
    assert [one["question"]["x"] for one in again.recent()] == [4]
    again.close()
