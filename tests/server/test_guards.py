"""The guards in front of a small application on a real server: by httpx2, by raw sockets where that is too polite."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="needs the server: pip install 'intarsia[serve]'")

from intarsia.server.http.bodies import BodyLimits
from intarsia.server.http.guards import Guards, GuardSettings
from intarsia.server.http.origins import Origins, read_origin
from intarsia.server.http.refusals import SECURITY_HEADERS
from tests.server.loopback import Connection, serving

ORIGINS = Origins(
    "https://images.example.org/base", names=["Studio.LAN"], cors=["https://app.example.com", "http://localhost:3000/"]
)
PAGE = {"content-security-policy": "default-src 'self'"}
PREFLIGHT = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
MIB = 1 << 20


class Application:
    """Says what has reached it; ``seen`` has (method, path, body) of each request."""

    def __init__(self) -> None:
        self.seen = []

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            body += message["body"]
            more = message["more_body"]
        self.seen.append((scope["method"], scope["path"], body))

        if scope["path"] == "/fails":
            raise RuntimeError("something private")
        status = int(scope["path"].rpartition("/")[2]) if scope["path"][-3:].isdigit() else 200
        headers = [(b"content-type", b"text/plain"), (b"Content-Length", b"2")]
        if scope["path"] == "/own":
            headers += [(b"Cache-Control", b"private"), (b"Vary", b"Accept")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


class Server:
    """A running server: its application, what it counted, and a client."""

    def __init__(self, port: int, application: Application, counts: list[str], client: httpx2.Client) -> None:
        self.port, self.application, self.counts, self.client = port, application, counts, client

    def refusal(self, reply: httpx2.Response) -> tuple[str, str]:
        """Reason and message of a refused request, which has not reached the application."""
        assert self.application.seen == []
        error = reply.json()
        assert error["status"] == "error"
        assert len(self.counts) == 1
        return self.counts[0], error["message"]


@pytest.fixture(scope="module")
def running() -> Iterator[Callable[..., Server]]:
    """Starts servers, one for each settings, and keeps them for the module."""
    import contextlib

    servers = {}
    with contextlib.ExitStack() as stack:

        def start(name: str, **settings: Any) -> Server:
            if name not in servers:
                application, counts = Application(), []
                app = Guards(application, GuardSettings(**{"origins": ORIGINS, **settings}), counts.append)
                port = stack.enter_context(serving(app))
                client = stack.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False))
                servers[name] = Server(port, application, counts, client)
            server = servers[name]
            server.application.seen.clear()
            server.counts.clear()
            return server

        yield start


@pytest.fixture
def server(running: Callable[..., Server]) -> Server:
    return running("plain", headers={"/": PAGE, "/page/": PAGE, "/docs": PAGE})


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:1234", "[::1]:8765", "[::1]", "192.168.1.20:8765", "localhost", "LOCALHOST:80",
        "localhost.", "studio.lan:8765", "images.example.org", socket.gethostname(), "localhost:",
    ],
)  # fmt: skip
def test_the_servers_own_names_and_addresses_pass(server, host):
    assert server.client.get("/", headers={"host": host}).status_code == 200
    assert server.counts == []


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.evil.example", "127.1",
        "0x7f000001", "2130706433", "sub.images.example.org", "localhost:80:80", "localhost@evil.example", "local host",
        "[::1", "::1", "", "*", "images.example.org/x", "localhost, evil.example", "[127.0.0.1.]", "-",
        "localhost:99999999",
    ],
)  # fmt: skip
def test_any_other_host_is_refused_and_named(server, host):
    reply = server.client.get("/", headers={"host": host})
    assert reply.status_code == 400
    reason, message = server.refusal(reply)
    assert reason == "host"
    assert message.endswith(f"not {host!r}")


@pytest.mark.parametrize("blank", [b"\xa0", b"\x85"])
def test_a_blank_of_another_character_set_is_a_part_of_the_host(server, blank):
    with Connection(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nConnection: close\r\nHost: localhost" + blank + b"\r\n\r\n")
        assert client.rest().startswith(b"HTTP/1.1 400 ")
    assert server.counts == ["host"]


def test_a_host_is_shown_printable_and_cut(server):
    with Connection(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nConnection: close\r\nHost: \x9b31m\xe2" + b"x" * 5000 + b"\r\n\r\n")
        message = json.loads(client.rest().partition(b"\r\n\r\n")[2])["message"]
    assert message.isprintable()
    assert "\\x9b31m" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (b"", 0),
        (b"Host: localhost\r\nHost: localhost\r\n", 2),
        (b"Host: localhost\r\nhost: evil.example\r\n", 2),
        (b"Host: evil.example\r\nHOST: localhost\r\n", 2),
    ],
)
def test_no_host_and_several_are_refused(server, lines, number):
    with Connection(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
        reply = client.rest()
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert f"one Host header, not {number}".encode() in reply
    assert (server.counts, server.application.seen) == (["host"], [])


def test_an_absolute_address_in_the_request_is_no_way_around_the_host(server):
    with Connection(server.port) as client:
        client.send(b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert client.rest().startswith(b"HTTP/1.1 400 ")
    assert server.counts == ["host"]


def test_json_reaches_the_application_as_it_was_sent(server):
    body = json.dumps({"prompt": "ä" * 300_000}).encode()
    for content_type in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        server.application.seen.clear()
        reply = server.client.post("/api/x", content=body, headers={"content-type": content_type})
        assert reply.text == "ok"
        assert server.application.seen == [("POST", "/api/x", body)]
    assert server.counts == []


def test_a_chunked_body_reaches_the_application_whole(server):
    parts = [b'"', *[b"%d," % number for number in range(2000)], b'"']
    reply = server.client.post("/api/x", content=iter(parts), headers={"content-type": "application/json"})
    assert reply.text == "ok"
    assert server.application.seen == [("POST", "/api/x", b"".join(parts))]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "GET"])
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", "",
     "text/plain; application/json", "application/json-seq", "text/plain, application/json", None],
)  # fmt: skip
def test_a_body_that_a_form_can_send_is_refused(server, method, content_type):
    headers = {"content-type": content_type} if content_type is not None else {}
    reply = server.client.request(method, "/api/x", content=b"{}", headers=headers)
    assert reply.status_code == 400
    reason, message = server.refusal(reply)
    assert reason == "content_type"
    assert message.startswith("Content-Type must be application/json; it is ")


def test_two_content_types_are_refused(server):
    with Connection(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a.b\r\n".replace(b"a.b", b"localhost"))
        client.send(b"Content-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}")
        assert client.rest().startswith(b"HTTP/1.1 400 ")
    assert (server.counts, server.application.seen) == (["content_type"], [])


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "gzip, identity"])
def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(server, encoding):
    reply = server.client.post("/x", json={}, headers={"content-encoding": encoding})
    assert reply.status_code == 400
    assert server.refusal(reply) == (
        "content_type",
        f"The body must be sent without Content-Encoding; it is {encoding!r}",
    )
    assert server.client.post("/x", json={}, headers={"content-encoding": "identity"}).text == "ok"


def test_a_form_with_files_may_be_posted_to_jobs_alone(server):
    files = {"image": ("a.png", b"bytes")}
    assert server.client.post("/jobs", files=files).text == "ok"
    assert server.application.seen[0][1] == "/jobs"
    for method, path in (("POST", "/jobs/"), ("POST", "/jobs/5"), ("POST", "/api/jobs"), ("PUT", "/jobs")):
        server.application.seen.clear()
        server.counts.clear()
        reply = server.client.request(method, path, files=files)
        assert (reply.status_code, server.refusal(reply)[0]) == (400, "content_type")


def test_a_request_without_a_body_needs_no_content_type(server):
    assert server.client.post("/api/v6/images/fetch/5").text == "ok"
    assert server.client.delete("/jobs/5").text == "ok"
    assert server.counts == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://", "", "*",
                                    "https://app.example.com.evil.example", "http://app.example.com",
                                    "https://app.example.com:444", "http://images.example.org:8765"])  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_page_elsewhere_changes_nothing(server, origin, method):
    headers = {"origin": origin, "content-type": "application/json"}
    reply = server.client.request(method, "/jobs", content=b"{}", headers=headers)
    assert reply.status_code == 403
    reason, message = server.refusal(reply)
    assert reason == "origin"
    assert repr(origin) in message
    assert "access-control-allow-origin" not in reply.headers


def test_a_page_elsewhere_that_posts_no_body_changes_nothing_either(server):
    reply = server.client.post("/api/v6/images/fetch/5", headers={"origin": "https://evil.example"})
    assert (reply.status_code, server.refusal(reply)[0]) == (403, "origin")


def test_several_origins_are_refused(server):
    headers = [("origin", "https://app.example.com"), ("origin", "https://app.example.com")]
    reply = server.client.delete("/jobs/5", headers=headers)
    assert (reply.status_code, server.refusal(reply)[0]) == (403, "origin")


def test_another_server_on_the_same_host_is_a_page_elsewhere(server):
    headers = {"host": "localhost:8765", "origin": "http://localhost:8766"}
    reply = server.client.delete("/jobs/5", headers=headers)
    assert (reply.status_code, server.refusal(reply)[0]) == (403, "origin")


def test_the_servers_own_page_may_do_everything(server):
    port = server.port
    for host, origin in (
        (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"),
        (f"localhost:{port}", f"http://LOCALHOST:{port}"),
        ("studio.lan", "http://studio.lan"),
        ("studio.lan", "https://studio.lan:443"),
        ("127.0.0.1:8765", "https://images.example.org"),  # behind a proxy that calls the server otherwise
        ("[::1]:8765", "http://[::1]:8765"),
    ):
        reply = server.client.delete("/jobs/5", headers={"host": host, "origin": origin})
        assert reply.text == "ok", (host, origin)
        assert "access-control-allow-origin" not in reply.headers


def test_pages_of_configured_origins_may_call(server):
    reply = server.client.options("/jobs", headers=PREFLIGHT)
    assert reply.status_code == 204
    assert reply.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "content-type" in reply.headers["access-control-allow-headers"]
    assert server.application.seen == []

    reply = server.client.post("/jobs", json={}, headers={"origin": "http://localhost:3000"})
    assert reply.text == "ok"
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "retry-after" in reply.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in reply.headers


def test_errors_are_readable_for_configured_origins_and_every_reply_varies_by_origin(server):
    reply = server.client.post("/jobs", content=b"x", headers={"origin": "https://app.example.com"})
    assert reply.status_code == 400
    assert reply.headers["access-control-allow-origin"] == "https://app.example.com"
    assert server.client.get("/x").headers["vary"] == "Origin"
    assert server.client.get("/own").headers.get_list("vary") == ["Accept", "Origin"]


def test_a_preflight_of_any_other_origin_is_refused(server):
    reply = server.client.options("/jobs", headers={**PREFLIGHT, "origin": "https://evil.example"})
    assert (reply.status_code, server.refusal(reply)[0]) == (403, "origin")
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_without_configured_origins_nothing_speaks_of_any(running):
    server = running("no cors", origins=Origins())
    reply = server.client.get("/x", headers={"origin": "https://app.example.com"})
    assert reply.text == "ok"
    assert not [name for name in reply.headers if name.startswith("access-control") or name == "vary"]
    reply = server.client.post("/x", headers={"origin": "https://app.example.com"})
    assert (reply.status_code, server.counts) == (403, ["origin"])


def test_every_reply_has_the_security_headers(server):
    replies = [
        server.client.get("/x"),
        server.client.get("/files/404"),
        server.client.get("/x", headers={"host": "evil.example"}),
        server.client.options(
            "/x", headers={"origin": "https://app.example.com", "access-control-request-method": "GET"}
        ),
        server.client.post("/fails"),
    ]
    assert [reply.status_code for reply in replies] == [200, 404, 400, 204, 500]
    for reply in replies:
        assert {name: reply.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_paths_may_have_headers_of_their_own(server):
    policies = {
        path: server.client.get(path).headers["content-security-policy"]
        for path in ("/", "/page/a.js", "/docs", "/x", "/docsx", "/docs/x", "/page")
    }
    own, general = PAGE["content-security-policy"], SECURITY_HEADERS["content-security-policy"]
    assert policies == {
        "/": own, "/page/a.js": own, "/docs": own, "/x": general, "/docsx": general, "/docs/x": general,
        "/page": general,
    }  # fmt: skip
    reply = server.client.get("/own")
    assert reply.headers.get_list("cache-control") == ["private"]
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/files/../../etc/passwd", 400), ("/files/%2e%2e/%2e%2e/etc/passwd", 400),
        ("/files/..%2f..%2fetc%2fpasswd", 400),
        ("/files/..%5c..%5cwin.ini", 400), ("/files/a%00.png", 400), ("/files/a%0d%0aX:%20y", 400), ("/./x", 400),
        ("/files/a%1b%5b31m", 400), ("/files/%e2%80%aegnp.a", 400), ("/x?" + "y" * 3000, 414),
        ("/" + "%41" * 1000, 414),
        ("/files/a..b/...", 200), ("/files/%25%32%65", 200), ("/x?y=../..", 200),
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere_or_are_too_long_are_refused(server, path, status):
    with Connection(server.port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        reply = client.rest()
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert server.counts == ([] if status == 200 else ["path"])
    if status != 200:
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["message"].isprintable()


def test_a_body_that_says_that_it_is_too_large_is_refused_before_it_is_sent(server):
    with Connection(server.port) as client:
        client.send(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        client.send(b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n")
        reply = client.reply()
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"at most 33554432 bytes" in reply
    assert b"\r\nconnection: close\r\n" in reply
    assert (server.counts, server.application.seen) == (["body_size"], [])


def test_a_gigabyte_in_chunks_is_refused_when_the_limit_is_reached(server):
    sent = 0

    def gigabyte() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1024):
            yield b"x" * MIB
            sent += 1

    headers = {"content-type": "application/json"}
    try:
        reply = server.client.post("/jobs", content=gigabyte(), headers=headers)
    except httpx2.TransportError:  # a client that goes on sending while the server closes
        pass
    else:
        assert reply.status_code == 413
    assert 32 <= sent < 300
    assert (server.counts, server.application.seen) == (["body_size"], [])


def test_a_client_that_sends_a_little_too_much_gets_its_reply(running):
    server = running("small", body=BodyLimits(most=MIB))
    for content in (b"x" * (MIB + 1), iter([b"x" * MIB, b"x", b"y" * (MIB // 2)])):
        server.counts.clear()
        reply = server.client.post("/jobs", content=content, headers={"content-type": "application/json"})
        assert (reply.status_code, server.refusal(reply)[0]) == (413, "body_size")
    server.counts.clear()
    assert server.client.post("/x", content=b"x" * MIB, headers={"content-type": "application/json"}).text == "ok"


HEAD = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_client_that_reads_only_when_it_has_sent_everything_gets_its_reply_too(running):
    """Without the rest being read, the connection would be reset, and the reply lost."""
    server = running("small", body=BodyLimits(most=MIB))
    with Connection(server.port) as client:
        client.send(HEAD + b"Content-Length: %d\r\n\r\n" % (19 * (MIB // 10)))
        for _ in range(19):
            client.send(b"x" * (MIB // 10))
        assert client.rest().startswith(b"HTTP/1.1 413 ")


@pytest.fixture
def hasty(running: Callable[..., Server]) -> Server:
    return running("hasty", body=BodyLimits(seconds=0.6, stall_seconds=0.3))


def test_a_body_that_stops_is_refused_with_408(hasty):
    with Connection(hasty.port) as client:
        reply = client.send(HEAD + b"Content-Length: 100\r\n\r\n{").rest()
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"within 0.6 s, and without a pause of 0.3 s" in reply
    assert (hasty.counts, hasty.application.seen) == (["body_time"], [])


def test_a_body_that_trickles_is_refused_with_408(hasty):
    with Connection(hasty.port) as client:
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        client.socket.settimeout(0.05)
        reply = b""
        for _ in range(1000):  # 50 s, if every byte began the time anew
            try:
                reply = client.socket.recv(65536)
                break
            except TimeoutError:
                client.send(b"1\r\nx\r\n")
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert hasty.counts == ["body_time"]


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_request(hasty):
    with Connection(hasty.port) as client:
        client.send(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert hasty.client.get("/x").text == "ok"
    assert (hasty.counts, hasty.application.seen) == ([], [("GET", "/x", b"")])


def test_bodies_together_have_a_limit_and_give_their_memory_back(running):
    server = running("crowded", body=BodyLimits(most=MIB, together=MIB + 10))
    headers = {"content-type": "application/json"}
    arrived = threading.Event()

    with Connection(server.port) as slow:
        slow.send(HEAD + b"Content-Length: 20\r\n\r\n" + b"x" * 11)
        for _ in range(1000):
            reply = server.client.post("/x", content=b"x" * MIB, headers=headers)
            if reply.status_code == 503:  # what the slow one has sent is being held
                arrived.set()
                break
        assert arrived.is_set()
        assert (reply.headers["retry-after"], server.counts) == ("1", ["memory"])
        assert server.client.post("/x", content=b"small", headers=headers).text == "ok"
        assert slow.send(b"x" * 9).reply().endswith(b"ok")

    for _ in range(3):
        assert server.client.post("/x", content=b"x" * MIB, headers=headers).text == "ok"
    assert server.counts == ["memory"]


def test_an_error_of_the_application_is_the_documented_one_and_says_nothing_private(server, caplog):
    with caplog.at_level(logging.ERROR, "intarsia"):
        reply = server.client.post("/fails", json={})
    assert reply.status_code == 500
    assert reply.json() == {"status": "error", "message": "Internal server error"}
    assert "something private" in caplog.text


def test_documented_errors_may_have_status_200(running):
    server = running("200", errors_as_200=True)
    assert server.client.get("/api/v6/404").status_code == 200
    assert server.client.get("/jobs/404").status_code == 404
    assert server.client.get("/api/v6/201").status_code == 201
    reply = server.client.post("/api/v6/images/inpaint", content=b"a=b")
    assert (reply.status_code, reply.json()["status"]) == (200, "error")
    assert server.client.post("/jobs", content=b"a=b").status_code == 400


def test_a_connection_is_used_again_after_a_refusal_without_a_body(server):
    with Connection(server.port) as client:
        refused = client.send(b"GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n").reply()
        assert b"connection: close" not in refused.lower()
        assert client.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").reply().endswith(b"ok")


def call(app: Callable[..., Any], scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What an ASGI application sends, given what it receives."""
    sent, left = [], list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0) if left else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def test_a_websocket_is_closed_and_the_lifespan_reaches_the_application():
    reached = []

    async def application(scope: dict[str, Any], receive: object, send: object) -> None:
        reached.append(scope["type"])

    app = Guards(application, GuardSettings(), [].append)
    assert call(app, {"type": "websocket"}) == [{"type": "websocket.close", "code": 1008}]
    assert call(app, {"type": "lifespan"}) == []
    assert reached == ["lifespan"]


NAMES = st.sampled_from([b"host", b"origin", b"content-type", b"content-length", b"transfer-encoding", b"key"])


@given(
    st.sampled_from(["GET", "POST", "OPTIONS", "DELETE", "BREW"]),
    st.text().map(lambda text: "/" + text),
    st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=5),
    st.binary(max_size=100),
)
def test_any_head_and_body_is_answered_and_only_a_known_host_passes(method, path, headers, body):
    reached, counts = [], []

    async def application(scope: dict[str, Any], receive: object, send: Callable[..., Any]) -> None:
        reached.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    guards = Guards(application, GuardSettings(origins=ORIGINS), counts.append)
    sent = call(guards, scope, {"type": "http.request", "body": body, "more_body": False})

    assert sent[0]["type"] == "http.response.start"
    assert [message.get("more_body", False) for message in sent][-1] is False
    assert len(reached) + len(counts) == 1 or sent[0]["status"] == 204
    if counts:
        error = json.loads(b"".join(message["body"] for message in sent[1:]))
        assert error["status"] == "error"
        assert error["message"].isprintable()


@given(st.text())
def test_any_text_is_an_origin_or_none(text):
    origin = read_origin(text)
    assert origin is None or (origin.scheme in ("http", "https") and origin.host and origin.port >= 0)
