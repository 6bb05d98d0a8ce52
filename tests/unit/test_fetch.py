"""Images from URLs: a real server on this machine behind names and addresses that the test makes up.

``internet`` resolves names from a table and leads connections to "public" addresses to local servers, so the
guard itself is the real one; with ``LOCAL`` nothing is made up at all.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import intarsia
from intarsia.cli import app
from intarsia.errors import SourceError
from intarsia.images import addresses
from intarsia.images.access import Access
from intarsia.images.addresses import is_public
from intarsia.images.fetch import fetch
from intarsia.images.sources import open_image

SENTENCE = "init_image: Unable to fetch image from provided URL: "
LOCAL = Access(allow_private_urls=True, seconds=5)
PUBLIC = Access(seconds=5)
PIXELS = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(kind: str, pixels: np.ndarray = PIXELS) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


PNG = encoded("PNG")


class Handler(BaseHTTPRequestHandler):
    """Answers what ``server.pages`` has for the path: ``(status, headers, body)``, or a function of the handler."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        page = self.server.pages.get(self.path.partition("?")[0], (404, {}, b"nothing here"))
        try:
            if callable(page):
                page(self)
            else:
                self.answer(*page)
        except OSError:
            pass  # the client has left, as it should
        self.close_connection = True

    def answer(self, status: int, headers: dict[str, str | None], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Starts servers; each has ``pages``, ``seen``, ``port`` and ``base``."""
    servers = []

    def start(pages: dict[str, Any] | None = None, tls: ssl.SSLContext | None = None) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_args: None
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.pages, server.seen, server.port = pages or {}, [], server.server_address[1]
        server.base = f"http://127.0.0.1:{server.port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(serve: Callable[..., Any]) -> Any:
    return serve({"/x.png": (200, {"Content-Type": "image/png"}, PNG)})


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``names``: host → its addresses, one list for each look-up; ``hosts``: address → local server."""
    real = httpcore2.SyncBackend.connect_tcp

    class Internet:
        def __init__(self) -> None:
            self.names, self.hosts, self.looked_up, self.connected = {}, {}, [], []

        def look_up(self, host: str, port: int) -> list[str]:
            self.looked_up.append(host)
            if host[0].isdigit() or ":" in host:
                return [host]
            if host not in self.names:
                raise socket.gaierror(-2, "Name or service not known")
            answers = self.names[host]
            return answers.pop(0) if len(answers) > 1 else answers[0]

        def add(self, host: str, address: str, server: Any) -> None:
            self.names[host], self.hosts[address] = [[address]], server

    made = Internet()

    def connect(backend: Any, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        made.connected.append((host, port))
        if host not in made.hosts:
            raise httpcore2.ConnectError("[Errno 111] Connection refused")
        return real(backend, "127.0.0.1", made.hosts[host].port, *args, **kwargs)

    monkeypatch.setattr(addresses, "look_up", made.look_up)
    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    return made


def refusal(url: str, access: Access = LOCAL) -> str:
    """The reason and the place of an error that must be one line and begin with the documented sentence."""
    with pytest.raises(SourceError) as caught:
        open_image("init_image", url, access)
    message = str(caught.value)
    assert message.startswith(SENTENCE)
    assert "\n" not in message
    assert len(message) < 600
    return message.removeprefix(SENTENCE)


# What is fetched


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "ICO", "JPEG", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("declared", ["text/html", None])
def test_the_content_decides_what_it_is(serve, kind, declared):
    if kind == "AVIF" and not Image.registered_extensions().get(".avif"):
        pytest.skip("this build of Pillow has no AVIF")
    data = encoded(kind)
    server = serve({"/picture": (200, {"Content-Type": declared}, data)})
    expected = open_image("init_image", data)
    found = open_image("init_image", f" {server.base}/picture\n", LOCAL)
    np.testing.assert_array_equal(found.rgb, expected.rgb)
    if kind in ("PNG", "WEBP", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(found.rgb, PIXELS)


def test_request_line_and_headers(server):
    assert fetch("init_image", f"{server.base}/x.png?size=4&key=s%20t#part", LOCAL) == (PNG, f"{server.base}/x.png")
    path, headers = server.seen[0]
    assert path == "/x.png?size=4&key=s%20t"
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    assert not {"Cookie", "Authorization"} & set(headers)


def test_gzip_is_undone(serve):
    server = serve({"/x": (200, {"Content-Encoding": "gzip"}, gzip.compress(PNG))})
    assert fetch("init_image", f"{server.base}/x", LOCAL)[0] == PNG


def test_chunks_are_joined(serve):
    def chunked(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(PNG), 999):
            piece = PNG[start : start + 999]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    assert fetch("init_image", f"{serve({'/x': chunked}).base}/x", LOCAL)[0] == PNG


def test_the_environments_proxies_and_passwords_are_not_used(server, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetch("init_image", f"{server.base}/x.png", LOCAL)[0] == PNG
    assert "Authorization" not in server.seen[0][1]


# What is refused


def raw(*pieces: bytes) -> Callable[[Any], None]:
    def write(handler: Any) -> None:
        for piece in pieces:
            handler.wfile.write(piece)

    return write


def slowly(head: bytes, piece: bytes, turns: int = 400) -> Callable[[Any], None]:
    """``head`` at once, then a piece every 20 ms: for eight seconds, if nobody stops it."""

    def drip(handler: Any) -> None:
        handler.wfile.write(head)
        for _ in range(turns):
            handler.wfile.write(piece)
            time.sleep(0.02)

    return drip


def endless(head: bytes, piece: bytes) -> Callable[[Any], None]:
    def pour(handler: Any) -> None:
        handler.wfile.write(head)
        for _ in range(4000):
            handler.wfile.write(piece)

    return pour


OK = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(PNG + bytes(20_000_000))
REFUSED = {
    "missing": ((404, {}, PNG), "status 404"),
    "failing": ((500, {}, PNG), "status 500"),
    "partial": ((206, {}, PNG), "status 206"),
    "nothing new": (raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "status 304"),
    "redirect without target": ((302, {}, b""), "status 302"),
    "empty": ((200, {}, b""), "the answer is empty"),
    "HTML": ((200, {"Content-Type": "image/png"}, b"<!DOCTYPE html><html></html>"), "not an image"),
    "short text": ((200, {"Content-Type": "image/png"}, b"no"), "not an image"),
    "announced too large": ((200, {"Content-Length": str(10**12)}, PNG), "more than 1000000 bytes"),
    "endless": (endless(OK + b"\r\n", bytes(65536)), "more than 1000000 bytes"),
    "endless chunks": (
        endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(65536) + b"\r\n"),
        "more than 1000000 bytes",
    ),
    "bomb": ((200, {"Content-Encoding": "gzip"}, BOMB), "more than 1000000 bytes"),
    "bomb in a bomb": ((200, {"Content-Encoding": "gzip, gzip"}, gzip.compress(BOMB)), "encoded more than once"),
    "no end after the end": (
        endless(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(PNG), bytes(65536)),
        "it sends more than",
    ),
    "damaged gzip": ((200, {"Content-Encoding": "gzip"}, b"not gzip at all"), "decompress"),
    "cut by the length": (raw(OK + b"Content-Length: 99999\r\n\r\n", PNG[:500]), "without sending complete"),
    "cut in a chunk": (raw(OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n", PNG[:500]), "without sending complete"),
    "length of nonsense": (raw(OK + b"Content-Length: many\r\n\r\n", PNG), "Content-Length"),
    "two lengths": (raw(OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", PNG), "Content-Length"),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), "illegal status line"),
    "hung up": (raw(), "disconnected"),
    "endless headers": (endless(OK, b"X: " + b"y" * 60000 + b"\r\n"), "Receive buffer"),
    "endless interim answers": (
        endless(b"", b"HTTP/1.1 103 Hints\r\nX: " + b"y" * 60000 + b"\r\n\r\n"),
        "it sends more than",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_that_is_no_image_is_refused_with_its_reason(serve, name):
    page, reason = REFUSED[name]
    server = serve({"/x.png": page})
    access = Access(allow_private_urls=True, seconds=5, max_bytes=1_000_000)
    message = refusal(f"{server.base}/x.png?key=secret", access)
    assert reason in message
    assert message.endswith(f"({server.base}/x.png)")
    assert "takes too long" not in message


DRIPS = {
    "body": slowly(OK + b"Content-Length: 9999\r\n\r\n", b"x"),
    "chunk sizes": slowly(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "headers": slowly(OK, b"x"),
    "status": slowly(b"", b"H"),
    "silence": slowly(b"", b""),
    "gzip": slowly(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], b"\0\0\0\xff\xff"),
}


@pytest.mark.parametrize("name", DRIPS)
def test_a_slow_drip_ends_at_the_limit(serve, name):
    server = serve({"/x.png": DRIPS[name]})
    message = refusal(f"{server.base}/x.png", Access(allow_private_urls=True, seconds=0.2))
    # After its eight seconds the server hangs up, which would be another sentence.
    assert message.startswith("it takes too long (allowed: 10 s to connect, 0.2 s in all)")


def test_a_cut_image_without_a_length_is_found_when_decoding(serve):
    server = serve({"/x.png": raw(OK + b"\r\n", PNG[:-40])})
    with pytest.raises(SourceError, match=rf"^init_image: {server.base}/x.png is truncated"):
        open_image("init_image", f"{server.base}/x.png", LOCAL)


def test_connection_refused_and_unknown_host(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "refused" in refusal(f"http://127.0.0.1:{port}/x.png")

    def nowhere(*_args: object, **_more: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    assert refusal("http://nowhere.invalid/x.png") == "its host is not found (http://nowhere.invalid/x.png)"


def test_a_resolver_that_never_answers(monkeypatch):
    monkeypatch.setattr(addresses, "look_up", lambda *_: threading.Event().wait(8) and [])
    assert "not resolved in time" in refusal("http://slow.example/x.png", Access(seconds=0.1))


@pytest.mark.parametrize(
    "url",
    [
        "http://", "http:///x.png", "http://./x.png", "http://:80/x.png", "http://h:0/x.png", "http://h:65536/x.png",
        "http://h:-1/x.png", "http://h:port/x.png", "http://[::1/x.png", "http://[nonsense]/x.png",
        "http://256.1.1.1/x.png", "http://１２７.０.０.１/x.png", "http://a.example\n/x.png",
        "http://h/" + "x" * 70000,
    ],
)  # fmt: skip
def test_malformed_urls_are_refused_before_any_look_up(internet, url):
    assert refusal(url, PUBLIC).startswith("the URL is not valid")
    assert not internet.looked_up


@pytest.mark.parametrize("url", ["http://a..b/x.png", "http://" + "a" * 70 + ".example/x.png"])
def test_names_that_no_resolver_takes(url):
    assert refusal(url, PUBLIC).startswith("its host is not found")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["http://", "https://", "HTTP://[", "http://@", "ftp://", "http://h:"]))
def test_any_text_is_refused_in_one_line(text, scheme):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(addresses, "look_up", lambda *_: ["127.0.0.1"])
        with pytest.raises(SourceError, match=SENTENCE) as caught:
            fetch("init_image", scheme + text, PUBLIC)
    assert len(str(caught.value).splitlines()) == 1


# Which hosts are asked


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.1", "017700000001", "localhost", "LOCALHOST",
        "0.0.0.0", "0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "[::1]", "[::]", "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a00:1]", "[64:ff9b:1::1]",
        "[2002:7f00:1::]", "[2002:a00:1::1]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff0e::1]",
        "[2001:db8::1]", "[3fff::1]", "[2001:0:1::1]", "[100::1]", "[5f00::1]", "192.0.0.192", "192.88.99.1",
        "168.63.129.16",
    ],
)  # fmt: skip
def test_numbers_that_are_not_public_are_refused_unasked(host, monkeypatch):
    def connect(*_args: object, **_more: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    message = refusal(f"http://{host}:8080/x.png?key=secret", PUBLIC)
    assert message.startswith("its host is not public")
    assert "allow_private_urls" in message
    assert "secret" not in message


PUBLIC_ADDRESSES = [
    "1.1.1.1", "93.184.216.34", "172.32.0.1", "223.255.255.254", "2606:4700::1111", "2a00:1450::1",
    "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_public_addresses_are_public(address):
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_in_an_address_is_judged_by_the_inner_one(inner):
    """RFC 4291 section 2.5.5.2 (mapped), RFC 6052 (NAT64), RFC 3056 (6to4)."""
    high, low = divmod(int(inner), 65536)
    for form in (f"::ffff:{inner}", f"64:ff9b::{inner}", f"2002:{high:x}:{low:x}::1"):
        assert is_public(form) == is_public(str(inner))


def test_trailing_dots_ports_and_letters_lead_to_the_same_host(internet, server):
    internet.add("pictures.example", "93.184.216.34", server)
    internet.add("pictures.example.", "93.184.216.34", server)
    internet.add("xn--mnchen-3ya.example", "93.184.216.34", server)
    for url in (
        "http://pictures.example/x.png", "HTTP://Pictures.EXAMPLE/x.png", "http://pictures.example./x.png",
        "http://pictures.example:080/x.png", "http://pictures.example:8080/x.png", "http://münchen.example/x.png",
    ):  # fmt: skip
        assert fetch("init_image", url, PUBLIC)[0] == PNG
    assert [port for _, port in internet.connected] == [80, 80, 80, 80, 8080, 80]
    hosts = [headers["Host"] for _, headers in server.seen]
    name = "pictures.example"
    assert hosts == [name, name, f"{name}.", name, f"{name}:8080", "xn--mnchen-3ya.example"]


def test_the_connection_goes_to_the_address_that_was_checked(internet, serve, server):
    """A name that is public when it is checked and private a moment later."""
    inside = serve({"/x.png": (200, {}, encoded("PNG", PIXELS[::-1]))})
    internet.names["rebinding.example"] = [["93.184.216.34"], ["127.0.0.1"]]
    internet.hosts = {"93.184.216.34": server, "127.0.0.1": inside}
    found = open_image("init_image", "http://rebinding.example/x.png", PUBLIC)
    np.testing.assert_array_equal(found.rgb, PIXELS)
    assert internet.looked_up == ["rebinding.example"]
    assert internet.connected == [("93.184.216.34", 80)]
    assert not inside.seen
    message = refusal("http://rebinding.example/x.png", PUBLIC)  # the second answer
    assert message.startswith("its host is not public")
    assert "127.0.0.1" not in message


def test_one_private_address_among_public_ones_is_enough(internet, server):
    internet.names["mixed.example"] = [["93.184.216.34", "10.0.0.7"]]
    internet.hosts = {"93.184.216.34": server}
    message = refusal("http://mixed.example/x.png", PUBLIC)
    assert message.startswith("its host is not public")
    assert "10.0.0.7" not in message
    assert not internet.connected


def test_the_next_address_is_tried(internet, server):
    internet.names["two.example"] = [["2606:4700::1111", "93.184.216.34"]]
    internet.hosts = {"93.184.216.34": server}
    assert fetch("init_image", "http://two.example/x.png", PUBLIC)[0] == PNG
    assert internet.connected == [("2606:4700::1111", 80), ("93.184.216.34", 80)]


# Redirects


def moved(target: str, status: int = 302) -> tuple[int, dict[str, Any], bytes]:
    return (status, {"Location": target}, b"over there")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_of_every_kind(serve, status):
    pages = {f"/{i}": moved(f"{i + 1}?n={i}", status) for i in range(4)}
    server = serve({**pages, "/4": moved("/x.png"), "/x.png": (200, {}, PNG)})
    assert fetch("init_image", f"{server.base}/0", LOCAL) == (PNG, f"{server.base}/0")
    assert [path for path, _ in server.seen] == ["/0", "/1?n=0", "/2?n=1", "/3?n=2", "/4?n=3", "/x.png"]


def test_too_many_redirects(serve):
    server = serve({f"/{i}": moved(f"/{i + 1}") for i in range(9)} | {"/loop": moved("/loop")})
    assert refusal(f"{server.base}/loop") == f"more than 5 redirects ({server.base}/loop)"
    assert len(server.seen) == 6
    message = refusal(f"{server.base}/0")
    assert message == f"more than 5 redirects ({server.base}/6, redirected from {server.base}/0)"
    none = Access(allow_private_urls=True, max_redirects=0)
    assert refusal(f"{server.base}/0", none).startswith("more than 0 redirects")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://inside.example/x.png", "its host is not public"),
        ("//inside.example/x.png", "its host is not public"),
        ("http://127.0.0.1/x.png", "its host is not public"),
        ("http://[::1]/x.png", "its host is not public"),
        ("http://me:secret@pictures.example/x.png", "user name and password"),
        ("file:///etc/passwd", "file addresses are not read"),
        ("ftp://pictures.example/x.png", "ftp addresses are not read"),
        ("data:image/png;base64,secret", "data addresses are not read"),
        ("http://[::1/x.png", "redirected to an invalid URL"),
        ("http://pictures.example:secret/", "redirected to an invalid URL"),
    ],
)
def test_redirects_pass_the_same_checks(internet, serve, target, reason):
    server, inside = serve({"/go": moved(target)}), serve({"/x.png": (200, {}, PNG)})
    internet.add("pictures.example", "93.184.216.34", server)
    internet.add("inside.example", "10.0.0.7", inside)
    message = refusal("http://pictures.example/go", PUBLIC)
    assert message.startswith(reason)
    assert "http://pictures.example/go" in message
    assert "secret" not in message
    assert "10.0.0.7" not in message
    assert internet.connected == [("93.184.216.34", 80)]
    assert not inside.seen


def test_the_time_limit_is_for_all_redirects_together(serve):
    def late(handler: Any) -> None:
        time.sleep(0.15)
        handler.answer(*moved("/late"))

    server = serve({"/late": late})
    access = Access(allow_private_urls=True, seconds=0.4, max_redirects=40)
    assert refusal(f"{server.base}/late", access).startswith("it takes too long")


# What an error shows


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@pictures.example/x.png",
        "http://secret@pictures.example/x.png",
        "http://me:secret/x@pictures.example/x.png",
        "http://pictures.example/x.png?token=secret",
        "http://pictures.example/x.png#secret",
        "http://pictures.example:secret/x.png",
        "ftp://me:secret@pictures.example/x.png",
    ],
)
def test_secrets_are_in_no_part_of_an_error(internet, url):
    with pytest.raises(SourceError) as caught:
        open_image("init_image", url, PUBLIC)
    error: BaseException | None = caught.value
    assert "secret" not in repr(caught.value.value)
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert not internet.connected


def test_long_urls_are_cut_in_errors(internet):
    message = refusal("http://pictures.example/" + "long/" * 500, PUBLIC)
    assert message.startswith("its host is not found (http://pictures.example/long/")
    assert message.endswith("…)")
    assert len(message) < 250


# TLS


def test_the_server_gets_the_name_not_the_address(internet):
    """The first record of a TLS connection carries the name in clear text (RFC 6066, section 3)."""
    hello = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            connection, _ = listener.accept()
            with connection:
                hello.append(connection.recv(4096))

        thread = threading.Thread(target=listen)
        thread.start()
        here = type("Here", (), {"port": listener.getsockname()[1]})
        internet.add("pictures.example.", "93.184.216.34", here)
        refusal("https://pictures.example./x.png", PUBLIC)
        thread.join()
    assert internet.connected == [("93.184.216.34", 443)]
    assert b"\x00\x10pictures.example\x00" in hello[0], "the name, without its last dot"
    assert b"93.184.216.34" not in hello[0]


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A self-signed certificate for images.example that the environment trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not there to make a certificate")
    files = {"cert": tmp_path / "cert.pem", "key": tmp_path / "key.pem"}
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=test", "-addext", "subjectAltName=DNS:pictures.example", "-days", "2"]
    command += ["-keyout", str(files["key"]), "-out", str(files["cert"])]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(files["cert"]))
    return files


def test_certificates_are_checked_against_the_name(certificate, internet, serve, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate["cert"], certificate["key"])
    server = serve({"/x.png": (200, {}, PNG)}, context)
    for name in ("pictures.example", "pictures.example.", "other.example"):
        internet.add(name, "93.184.216.34", server)
    assert fetch("init_image", "https://pictures.example/x.png", PUBLIC)[0] == PNG
    assert fetch("init_image", "https://pictures.example./x.png", PUBLIC)[0] == PNG
    assert "certificate" in refusal("https://other.example/x.png", PUBLIC)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate" in refusal("https://pictures.example/x.png", PUBLIC)
    assert len(server.seen) == 2


# From end to end


@pytest.fixture
def scene(serve: Callable[..., Any]) -> Any:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:50] = 255
    return serve({"/x.png": (200, {}, PNG), "/mask.png": (200, {}, encoded("PNG", mask))})


def test_the_engine_reads_urls_and_paths_only_where_they_are_allowed(scene, empty_registry):
    request = intarsia.InpaintRequest(
        init_image=f"{scene.base}/x.png", mask_image=f"{scene.base}/mask.png", seed=1, steps=2, mask_blur=0
    )
    with intarsia.Engine("null", weights=empty_registry, allow_private_urls=True) as engine:
        out = np.asarray(engine.run(request).images[0])
        *_, last = engine.stream(request)
        np.testing.assert_array_equal(last.images[0], out)
        assert engine.submit(request, allow_paths=False).result().seeds == (1,)
    np.testing.assert_array_equal(out[:10], PIXELS[:10])
    assert (out[10:30, 20:50] != PIXELS[10:30, 20:50]).any()
    scene.seen.clear()
    with (
        intarsia.Engine("null", weights=empty_registry) as engine,
        pytest.raises(SourceError, match="allow_private_urls"),
    ):
        engine.run(request)
    assert not scene.seen


def test_engine_reads_no_paths_where_it_must_not(empty_registry, tmp_path):
    (tmp_path / "x.png").write_bytes(PNG)
    request = intarsia.InpaintRequest(init_image=tmp_path / "x.png", mask_image=PIXELS[:, :, 0], steps=2)
    with intarsia.Engine("null", weights=empty_registry) as engine:
        with pytest.raises(SourceError, match="paths are not read here"):
            engine.submit(request, allow_paths=False)
        with pytest.raises(SourceError, match="paths are not read here"):
            list(engine.stream(request, allow_paths=False))
        assert engine.submit(request).result().images[0].size == (64, 48)


def test_plan_names_the_field_and_says_how_to_allow_it(scene, empty_registry):
    urls = {"init_image": f"{scene.base}/x.png", "mask_image": f"{scene.base}/gone.png"}
    with pytest.raises(SourceError, match=r"^init_image: .*allow_private_urls"):
        intarsia.plan(intarsia.InpaintRequest(**urls), empty_registry)
    with pytest.raises(SourceError, match=r"^mask_image: Unable to fetch image from provided URL: status 404"):
        intarsia.plan(intarsia.InpaintRequest(**urls), empty_registry, allow_private_urls=True)


def test_commands_fetch_from_private_hosts_only_with_their_flag(scene, empty_registry, tmp_path):
    image, mask, out = f"{scene.base}/x.png", f"{scene.base}/mask.png", str(tmp_path / "out.png")
    (tmp_path / "request.json").write_text(json.dumps({"init_image": image, "mask_image": mask, "seed": 1}))
    plan = ["plan", str(tmp_path / "request.json"), "--weights", str(empty_registry)]
    inpaint = ["inpaint", image, mask, "-o", out, "--backend", "null", "--weights", str(empty_registry)]
    for command in (plan, inpaint):
        refused = CliRunner().invoke(app, command)
        assert isinstance(refused.exception, SourceError)
        assert str(refused.exception).startswith(f"{SENTENCE}its host is not public")
    assert not scene.seen
    planned = CliRunner().invoke(app, [*plan, "--allow-private-urls"])
    assert json.loads(planned.stdout)["canvas"]["image_sha256"] == open_image("init_image", PNG).sha256
    done = CliRunner().invoke(app, [*inpaint, "--allow-private-urls"])
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")


def test_the_http_client_is_imported_when_a_url_is_fetched_and_not_before():
    code = (
        "import sys, intarsia\nintarsia.Engine; intarsia.InpaintRequest; intarsia.plan\n"
        "from intarsia.images.sources import open_image\n"
        "print('httpx2' in sys.modules)\n"
        "try:\n    open_image('init_image', 'http://127.0.0.1/x.png')\nexcept intarsia.SourceError:\n"
        "    print('httpx2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
