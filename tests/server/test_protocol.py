"""Connections under limits, spoken to by raw sockets: what a client does before there is a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the server: pip install 'intarsia[serve]'")

from intarsia.server.http.protocol import LimitedProtocol, active, limited_protocol
from tests.server.loopback import Connection, serving

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Counts(list):
    """Reasons in the order of the refusals, which a test can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def count(self, reason: str) -> None:
        with self.changed:
            self.append(reason)
            self.changed.notify_all()

    def wait(self, *reasons: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self == list(reasons), 30), self


@pytest.fixture
def counts() -> Counts:
    return Counts()


def echo(seen: list[Any]) -> Callable[..., Any]:
    """Replies with the number of bytes in the body, and notes headers as they are at the request's end."""

    async def app(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        seen.append(dict(scope["headers"]))
        body = str(size).encode()
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    return app


ON_BOTH_LOOPS = pytest.mark.parametrize("serve", ["asyncio", "auto"], indirect=True)


@pytest.fixture
def serve(request: pytest.FixtureRequest, counts: Counts) -> Iterator[Any]:
    """Starts a server whose limits are given; its application notes headers in ``serve.seen``."""
    loop = getattr(request, "param", "auto")
    with contextlib.ExitStack() as stack:

        def start(app: Callable[..., Any] | None = None, **limits: Any) -> int:
            protocol = limited_protocol(count=counts.count, **limits)
            return stack.enter_context(serving(app or echo(start.seen), http=protocol, loop=loop))

        start.seen = []
        yield start


@pytest.fixture(scope="module")
def unlimited() -> Iterator[tuple[int, Counts]]:
    """Port and counts of a server with the limits that every server has."""
    counts = Counts()
    with serving(echo([]), http=limited_protocol(count=counts.count)) as port:
        yield port, counts


def refused(reply: bytes, status: int, part: str) -> bool:
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0].startswith(b"http/1.1 %d " % status)
    assert b"x-content-type-options: nosniff" in lines
    assert b"connection: close" in lines
    error = json.loads(body)
    assert error["status"] == "error"
    assert part in error["message"]
    return True


@ON_BOTH_LOOPS
def test_a_head_that_never_ends_is_closed_with_408(serve, counts):
    with Connection(serve(head_seconds=0.3)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        assert refused(client.rest(), 408, "within 0.3 s")
    assert counts == ["head_time"]


@ON_BOTH_LOOPS
def test_bytes_that_trickle_in_do_not_prolong_the_time(serve, counts):
    with Connection(serve(head_seconds=0.4)) as client:
        client.send(b"GET / HTTP/1.1\r\nX: ")
        client.socket.settimeout(0.02)
        reply = b""
        for _ in range(1000):  # 20 s, if every byte began the time anew
            try:
                reply = client.socket.recv(65536)
                break
            except TimeoutError:
                client.send(b"x")
    assert refused(reply, 408, "head of a request")
    assert counts == ["head_time"]


def test_a_connection_without_a_byte_is_closed_without_a_word(serve, counts):
    with Connection(serve(head_seconds=0.2)) as client:
        assert client.rest() == b""
    assert counts == []


@ON_BOTH_LOOPS
def test_the_time_counts_anew_for_the_next_request_of_a_connection(serve, counts):
    with Connection(serve(head_seconds=0.3)) as client:
        for _ in range(3):
            assert client.send(GET).reply().endswith(b"\r\n\r\n0")
        client.send(b"GET / HT")
        assert refused(client.rest(), 408, "head of a request")
    assert counts == ["head_time"]


def test_blank_lines_before_a_request_are_no_way_to_stay(serve, counts):
    with Connection(serve(head_seconds=0.3)) as client:
        client.send(GET).reply()
        client.send(b"\r\n")
        assert refused(client.rest(), 408, "head of a request")


def test_a_request_that_takes_longer_than_its_head_may_is_served(serve, counts):
    async def slow(scope: object, receive: object, send: Callable[..., Any]) -> None:
        await asyncio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with Connection(serve(slow, head_seconds=0.2)) as client:
        assert client.send(GET).reply().endswith(b"ok")
    assert counts == []


@pytest.mark.parametrize("size", [40_000, 5_000_000])
def test_a_huge_header_is_refused_before_its_end(serve, counts, size):
    port = serve()
    with Connection(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * size)
        if size < 100_000:
            client.send(b"\r\n\r\n")
        assert refused(client.rest(), 431, "at most 32768 bytes")
    assert counts == ["head_size"]


def test_a_huge_address_is_refused(serve, counts):
    with Connection(serve()) as client:
        client.send(b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n")
        assert refused(client.rest(), 431, "Address and headers")
    assert counts == ["head_size"]


def test_headers_are_counted(serve, counts):
    port = serve(max_headers=10)
    with Connection(port) as client:
        client.send(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10 + b"\r\n")
        assert client.reply().endswith(b"\r\n\r\n0")
        client.send(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 11 + b"\r\n")
        assert refused(client.rest(), 431, "at most 10 headers")
    assert counts == ["head_size"]


def test_every_request_of_a_connection_has_the_limits_anew(serve, counts):
    with Connection(serve(max_headers=10)) as client:
        for _ in range(5):
            client.send(b"GET / HTTP/1.1\r\n" + (b"A: " + b"x" * 3000 + b"\r\n") * 10 + b"\r\n")
            assert client.reply().endswith(b"\r\n\r\n0")
    assert counts == []


def test_limits_of_a_head_do_not_hold_for_the_body(serve, counts):
    with Connection(serve(max_headers=10)) as client:
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        assert client.reply().endswith(b"\r\n\r\n3000000")
        chunk = b"10000\r\n" + b"y" * 0x10000 + b"\r\n"
        client.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 20 + b"0\r\n\r\n")
        assert client.reply().endswith(b"\r\n\r\n1310720")
    assert counts == []


def test_trailers_do_not_become_headers(serve, counts):
    port = serve()
    with Connection(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        client.send(b"Host: evil\r\nKey: secret\r\n\r\n")
        assert client.reply().endswith(b"\r\n\r\n1")
    assert serve.seen == [{b"host": b"a", b"transfer-encoding": b"chunked"}]


def test_a_trailer_without_end_closes_the_connection(serve, counts):
    with Connection(serve()) as client:
        client.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nKey: ")
        client.send(b"x" * 100_000)
        assert refused(client.rest(), 431, "headers of a request must be at most")
    assert counts == ["head_size"]


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_the_documented_error(unlimited, head):
    port, counts = unlimited
    before = len(counts)
    with Connection(port) as client:
        assert refused(client.send(head).rest(), 400, "no HTTP/1.1 request")
    assert counts[before:] == ["malformed"]


UPGRADE = b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
WITH_LENGTH = b"POST / HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 40000\r\n\r\n" + b"x" * 40_000
IN_CHUNKS = (
    b"PUT /a HTTP/1.1\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nKey: trailer\r\n\r\n"
)  # fmt: skip
WITHOUT_BODY = b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n"
EMPTY = b"POST / HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 0\r\n\r\n"


@ON_BOTH_LOOPS
def test_a_client_that_offers_another_protocol_is_served_in_this_one(serve, counts):
    """As Java's client and ``curl --http2`` do with every request, and browsers where a page asks for a WebSocket."""
    requests = {WITH_LENGTH: b"40000", IN_CHUNKS: b"7", WITHOUT_BODY: b"0", EMPTY: b"0", GET: b"0"}
    with Connection(serve()) as client:
        for request in [*requests, *requests]:
            assert client.send(request).reply().endswith(b"\r\n\r\n" + requests[request])

        for byte in IN_CHUNKS:
            client.send(bytes([byte]))
        assert client.reply().endswith(b"\r\n\r\n7")

        client.send(b"".join(requests) + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        replies = client.rest().split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert [reply.rpartition(b"\r\n\r\n")[2] for reply in replies] == [*requests.values(), b"0"]
    assert len(serve.seen) == 3 * len(requests) + 2
    assert all(b"key" not in headers for headers in serve.seen)
    assert counts == []


@ON_BOTH_LOOPS
@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nnot a size\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcdef\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"Transfer-Encoding: identity\r\n\r\nab",
        UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nnot a size\r\n",
    ],
)
def test_a_body_that_is_none_gets_the_documented_error(serve, counts, rest):
    ended = threading.Event()

    async def reads(scope: object, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"dropped"})
        ended.set()

    with Connection(serve(reads)) as client:
        client.send(b"POST / HTTP/1.1\r\n" + rest)
        assert refused(client.rest(), 400, "no HTTP/1.1 request")
    assert ended.wait(30)
    assert counts == ["malformed"]


@ON_BOTH_LOOPS
def test_connections_above_the_limit_get_503_and_room_is_made_by_those_that_end(serve, counts):
    port = serve(max_connections=2)
    with Connection(port) as first, Connection(port) as second:
        assert first.send(GET).reply().endswith(b"0")
        assert second.send(GET).reply().endswith(b"0")
        for _ in range(3):
            with Connection(port) as third:
                reply = third.send(GET).rest()
            assert refused(reply, 503, "as many connections")
            assert b"\r\nretry-after: 1\r\n" in reply
        assert first.send(GET).reply().endswith(b"0")
        assert counts == ["connections"] * 3

    # Both ends have closed; the server has noticed when a new one is let in.
    for _ in range(100):
        with Connection(port) as client:
            if client.send(GET + GET).reply().startswith(b"HTTP/1.1 200"):
                return
    pytest.fail("no room was made")


@ON_BOTH_LOOPS
def test_a_client_that_reads_nothing_is_cut_off(serve, counts):
    async def endless(scope: object, receive: object, send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not counts:
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})

    with Connection(serve(endless, reply_seconds=0.3), receive_buffer=4096) as client:
        client.send(GET)
        counts.wait("reply_time")


def test_one_address_has_a_limit_of_its_own_and_leaves_room_for_others(serve, counts):
    port = serve(max_connections=4, max_of_client=2)
    with Connection(port) as first, Connection(port) as second, Connection(port) as third:
        assert refused(third.send(GET).rest(), 429, "At most 2 connections of one address")
        assert counts == ["connections"]
        with socket.create_connection(("127.0.0.1", port), 30, source_address=("127.0.0.2", 0)) as other:
            other.sendall(GET)
            assert other.recv(65536).startswith(b"HTTP/1.1 200")
        assert first.send(GET).reply().endswith(b"0")
        assert second.send(GET).reply().endswith(b"0")
        second.socket.close()
        assert first.send(GET).reply().endswith(b"0")  # by now the server has seen the end of the second one
        with Connection(port) as fourth:
            assert fourth.send(GET).reply().endswith(b"0")


def test_a_reply_that_nobody_reads_does_not_keep_a_closing_connection(serve, counts):

    async def large(scope: object, receive: object, send: Callable[..., Any]) -> None:
        body = b"x" * 20_000_000
        head = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    with Connection(serve(large, reply_seconds=0.3), receive_buffer=4096) as client:
        client.send(GET)
        counts.wait("reply_time")
        assert len(client.rest()) < 20_000_000


@ON_BOTH_LOOPS
def test_a_slow_reader_that_reads_is_served(serve, counts):
    async def large(scope: object, receive: object, send: Callable[..., Any]) -> None:
        body = b"x" * 8_000_000
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})

    with Connection(serve(large, reply_seconds=5), receive_buffer=65536) as client:
        assert len(client.send(GET).rest()) > 8_000_000
    assert counts == []


@ON_BOTH_LOOPS
def test_refusing_a_pipelined_request_does_not_forge_the_reply_to_the_one_before(serve, counts):
    async def waits(scope: object, receive: object, send: object) -> None:
        await asyncio.sleep(30)

    with Connection(serve(waits)) as client:
        client.send(GET + b"GARBAGE\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert client.rest() == b""
    assert counts == ["malformed"]


@ON_BOTH_LOOPS
@pytest.mark.parametrize("ending", [b"", b"GARBAGE\r\n\r\n"])
def test_who_leaves_after_several_requests_at_once_has_left_the_first_too(serve, counts, caplog, ending):
    began, ended = threading.Event(), threading.Event()

    async def waits(scope: object, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        began.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
        await send({"type": "http.response.body", "body": b"dropped"})
        ended.set()

    with Connection(serve(waits)) as client:
        client.send(GET + GET + ending)
        assert began.wait(30)
    assert ended.wait(30)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@ON_BOTH_LOOPS
def test_the_reply_to_a_refused_client_that_goes_on_sending_arrives(serve, counts):
    with Connection(serve()) as client:
        client.send(b"GARBAGE\r\n\r\n")
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(10):
            client.send(b"x" * 1000)
        assert refused(client.rest(), 400, "no HTTP/1.1 request")
    assert counts == ["malformed"]


@ON_BOTH_LOOPS
def test_connections_that_asked_for_nothing_lately_are_not_active(serve):
    connections: set[object] = set()

    async def count(scope: object, receive: object, send: Callable[..., Any]) -> None:
        body = f"{active(connections, 60)} {active(connections, -1)}".encode()
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    original = LimitedProtocol.connection_made

    def connection_made(self: LimitedProtocol, transport: asyncio.Transport) -> None:
        original(self, transport)
        connections.add(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LimitedProtocol, "connection_made", connection_made)
        port = serve(count)
        with Connection(port), Connection(port) as second, Connection(port) as third:
            assert second.send(GET).reply().endswith(b"\r\n\r\n1 0")
            assert third.send(GET).reply().endswith(b"\r\n\r\n2 0")
            assert third.send(GET).reply().endswith(b"\r\n\r\n2 0")
