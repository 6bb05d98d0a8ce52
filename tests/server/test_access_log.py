"""The access log, behind everything that a server has in front of its application."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the server: pip install 'intarsia[serve]'")

from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import JSONResponse

from intarsia.server.http.access_log import AccessLog
from intarsia.server.http.authentication import Authentication, Sender
from intarsia.server.http.guards import Guards, GuardSettings
from intarsia.server.http.keys import Keys
from intarsia.server.http.keys_editing import add_key
from intarsia.server.http.limits import KeyAttempts
from intarsia.server.http.protocol import limited_protocol
from tests.server.loopback import Connection, serving

LINE = re.compile(r"method=(\S+) path=(\S+) status=(\d{3}|-) seconds=(\d+\.\d{3}) bytes=(\d+) owner=(\S+)")


class Lines(logging.Handler):
    """Messages of the access log; a test can wait for so many of them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.changed = [], threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.lines.append(record.getMessage())
            self.changed.notify_all()

    def fields(self, number: int = 1) -> list[tuple[str, str, str, int, str]]:
        """Method, path, status, bytes and owner of each line."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.lines) >= number, 30), self.lines
        matches = [LINE.fullmatch(line) for line in self.lines]
        assert all(matches), self.lines
        return [(match[1], match[2], match[3], int(match[5]), match[6]) for match in matches]


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, handler = logging.getLogger("intarsia.access"), Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def application(authentication: Authentication) -> FastAPI:
    """The size of a file that is posted as a form, or of the prompt in a JSON object; both need a key."""
    app = FastAPI()

    def sender(request: Request, body: object) -> JSONResponse | None:
        checked = authentication.check(body, request.headers, request.client.host)
        if isinstance(checked, Sender):
            request.state.owner = checked.owner
            return None
        return JSONResponse({"status": "error"}, checked.status, headers={"retry-after": str(checked.retry_after)})

    @app.post("/jobs")
    async def jobs(image: UploadFile, request: Request) -> Any:
        return sender(request, None) or len(await image.read())

    @app.post("/api/{path:path}")
    async def api(path: str, body: dict, request: Request) -> Any:
        return sender(request, body) or len(body["prompt"])

    return app


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, list[str], Clock]]:
    """Port, right key, counts, and clock of the attempts of a server with all of it."""
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    key, counts, clock = add_key(path, "ann"), [], Clock()
    door = Authentication(keys=Keys.read(path), count=counts.append, attempts=KeyAttempts(3, clock=clock))
    app = AccessLog(Guards(application(door), GuardSettings(), counts.append))
    with serving(app, http=limited_protocol(count=counts.append)) as port:
        yield port, key, counts, clock


@pytest.fixture
def served(server: tuple[int, str, list[str], Clock]) -> Iterator[tuple[httpx2.Client, int, str, list[str]]]:
    """Client, port, right key, counts; a minute after the attempts of other tests."""
    port, key, counts, clock = server
    clock.now += 60
    counts.clear()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client, port, key, counts


def test_a_request_has_one_line_with_its_owner(served, lines):
    client, _, key, _ = served
    reply = client.post("/api/v6/images/inpaint?key=hidden&x=y", json={"key": key, "prompt": "ä" * 1_000_000})
    assert reply.json() == 1_000_000
    assert lines.fields() == [("POST", "/api/v6/images/inpaint", "200", 7, "ann")]


def test_a_form_with_a_large_file_arrives(served, lines):
    client, _, key, _ = served
    reply = client.post("/jobs", files={"image": ("a.png", b"x" * 5_000_000)}, headers={"key": key})
    assert reply.json() == 5_000_000
    assert lines.fields() == [("POST", "/jobs", "200", 7, "ann")]


def test_refusals_and_wrong_keys_have_a_line_without_an_owner_and_keys_are_not_tried_forever(served, lines):
    client, _, _, counts = served
    client.post("/api/x", content=b"a=b")
    assert client.get("/nothing").status_code == 404
    guesses = [client.post("/api/x", json={"key": f"guess{number}", "prompt": ""}) for number in range(5)]
    assert [reply.status_code for reply in guesses] == [401, 401, 401, 429, 429]
    assert guesses[-1].headers["retry-after"] == "60"
    assert counts == ["content_type", "key", "key", "key", "key_attempts", "key_attempts"]

    fields = lines.fields(7)
    assert [(status, owner) for _, _, status, _, owner in fields] == [
        (status, "-") for status in ("400", "404", "401", "401", "401", "429", "429")
    ]
    assert not any("guess" in line for line in lines.lines)


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/a%0aINFO%20forged", "/a%0AINFO%20forged"),
        ("/a%0d%0a%1b[31m", "/a%0D%0A%1B%5B31m"),
        ("/a%20status=200%20owner=root", "/a%20status%3D200%20owner%3Droot"),
        ("/%e2%80%ae%c3%a4", "/%E2%80%AE%C3%A4"),
        ("/" + "y" * 1000, "/" + "y" * 196 + "..."),
        ("/x%3Fkey=abcdefghijklmnop", "/x%3F%E2%80%A6"),
    ],
)
def test_a_path_cannot_write_a_line_a_field_or_a_key(served, lines, path, logged):
    _, port, _, _ = served
    with Connection(port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()).rest()
    ((_, written, _, _, _),) = lines.fields()
    assert written == logged


def test_a_key_of_ours_in_a_path_is_not_logged(served, lines):
    client, _, key, _ = served
    client.post(f"/api/{key}/x", json={"prompt": ""})
    assert lines.fields()[0][1] == "/api/***/x"


def test_a_client_that_leaves_before_its_reply_has_a_line_too(served, lines):
    _, port, _, _ = served
    with Connection(port) as client:
        client.send(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        client.send(b"Content-Length: 5\r\n\r\n{")
    assert lines.fields() == [("POST", "/jobs", "-", 0, "-")]


def test_an_application_that_fails_has_a_line_and_its_error_goes_on(lines):
    async def fails(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("x")

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    with pytest.raises(RuntimeError):
        asyncio.run(AccessLog(fails)(scope, None, None))
    assert lines.fields() == [("GET", "/x", "-", 0, "-")]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters()), st.text(st.characters()), st.text(st.characters()))
def test_no_text_breaks_the_line(lines, method, path, owner):
    async def application(scope: dict[str, Any], receive: object, send: Callable[..., Any]) -> None:
        scope["state"]["owner"] = owner
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1234567"})

    async def send(message: object) -> None:
        pass

    lines.lines.clear()
    asyncio.run(AccessLog(application)({"type": "http", "method": f"m{method}", "path": f"/{path}"}, None, send))
    ((_, _, status, size, _),) = lines.fields()
    assert (status, size) == ("200", 7)
    assert lines.lines[0].isascii()
    assert lines.lines[0].isprintable()


# Of a header; a line break would end it.
VALUE = st.lists(st.sampled_from(sorted({*range(256)} - {10, 13})), max_size=60).map(bytes)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUE, VALUE, st.binary(max_size=200))
def test_any_bytes_in_key_headers_and_bodies_get_a_reply_and_no_owner(served, lines, key, authorization, body):
    _, port, _, _ = served
    head = b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with Connection(port) as client:
        client.send(head + b"Key: " + key + b"\r\nAuthorization: " + authorization)
        client.send(b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        status = client.rest()[9:12]
    # 422 is FastAPI's word for a body that is no JSON object.
    assert status in (b"400", b"401", b"422", b"429")
    assert not any("owner=ann" in line for line in lines.lines)
