"""An image from a URL, under guard: which host is asked, for how long, and for how much.

A URL may come from a stranger, so it must not reach what only this machine can reach. The host's name is
resolved once, every address is checked, and the connection goes to a checked address itself: a name that
resolves to something else a moment later changes nothing. Redirects are followed by hand and pass the same
checks. Proxies, cookies and credentials of the environment are not used.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

import httpcore2
import httpx2
from PIL import Image

from intarsia.errors import SourceUnreadable, one_line
from intarsia.images import addresses
from intarsia.images.access import Access
from intarsia.images.rgb_image import FORMATS
from intarsia.redact import redacted
from intarsia.threads import start_thread

__all__ = ["fetch"]

_SENTENCE = "Unable to fetch image from provided URL"
_PORTS = {"http": 80, "https": 443}
_HEADERS = ((b"User-Agent", b"intarsia"), (b"Accept", b"image/*"), (b"Accept-Encoding", b"identity"))
_SHOWN = 160
_HEAD = 16  # bytes that Pillow's formats are recognized by
_FRAMING = 1024 * 1024  # allowance for headers and the sizes of chunks, bytes


class _Failed(Exception):
    """Why there is no image, in words that end one line."""


def fetch(field: str, url: str, access: Access) -> tuple[bytes, str]:
    """The bytes of the image at ``url``, and what an error calls them.

    Args:
        field: the request's field, for errors.
        url: http or https, without user name and password.

    Raises:
        SourceUnreadable: not allowed, not there, too slow, too large, or not an image. The message shows scheme,
            host and path; never the query, which may hold a key, nor an address that a name resolved to.
    """
    scheme, _, _ = url[:_SHOWN].partition("://")
    first = current = f"{scheme}://…"
    budget = _Budget(access)
    try:
        target = _parsed(url)
        first = current = _shown(target)
        for _ in range(access.max_redirects + 1):
            response = _get(target, access, budget)
            if isinstance(response, bytes):
                return response, first
            target, current = response, _shown(response)
        raise _Failed(f"more than {access.max_redirects} redirects")
    except _Failed as exc:
        reason, cause = str(exc), exc.__cause__
    except httpcore2.TimeoutException as exc:
        limits = f"{access.connect_seconds:g} s to connect, {access.seconds:g} s in all"
        reason, cause = f"it takes too long (allowed: {limits})", exc
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpx2.DecodingError) as exc:
        reason, cause = one_line(exc), exc

    address = first if current == first else f"{current}, redirected from {first}"
    raise SourceUnreadable(field, first, f"{_SENTENCE}: {reason} ({address})") from cause


def _parsed(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    try:
        return base.join(text) if base else httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        # Its own sentence quotes a part of the URL, which may be a part of a password.
        raise _Failed("redirected to an invalid URL" if base else "the URL is not valid") from None


def _shown(url: httpx2.URL) -> str:
    """Scheme, host and path, cut to a sensible length."""
    if not url.netloc:
        return f"{url.scheme}:…"  # what follows may be the data itself

    host = url.netloc.decode()
    path, _, _ = url.raw_path.partition(b"?")
    text = redacted(f"{url.scheme}://{host}{path.decode()}")
    if len(text) <= _SHOWN:
        return text
    return text[: _SHOWN - 1] + "…"


def _get(url: httpx2.URL, access: Access, budget: _Budget) -> bytes | httpx2.URL:
    """One HTTP exchange: the image, or the URL that it redirects to."""
    checked = _checked_addresses(url, access, budget)
    network = _Pinned(checked, access, budget)
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    headers = [(b"Host", url.netloc), *_HEADERS]

    # A certificate is for the name without the root's dot.
    host = url.raw_host.decode()
    extensions = {"sni_hostname": host.removesuffix(".")}

    with (
        httpcore2.ConnectionPool(network_backend=network) as pool,
        pool.stream("GET", target, headers=headers, extensions=extensions) as raw,
    ):
        response = httpx2.Response(raw.status, headers=raw.headers, content=raw.iter_stream())
        if response.has_redirect_location:
            return _parsed(response.headers["Location"], url)
        if response.status_code != 200:
            raise _Failed(f"status {response.status_code}")
        return _body(response, access, budget)


def _checked_addresses(url: httpx2.URL, access: Access, budget: _Budget) -> list[str]:
    """The addresses that may be connected to, once the URL's form and every one of them has passed."""
    if url.scheme not in _PORTS:
        raise _Failed(f"{url.scheme} addresses are not read, only http and https")
    if url.userinfo:
        raise _Failed("user name and password in a URL are not sent; leave them out")

    host = url.raw_host.decode()
    port = _PORTS[url.scheme] if url.port is None else url.port
    if not host.strip(".") or not 0 < port < 65536:
        raise _Failed("the URL is not valid")

    resolved = _resolve(host, port, budget)
    if not access.allow_private_urls and not all(map(addresses.is_public, resolved)):
        raise _Failed("its host is not public (private, local or reserved address); allow it with allow_private_urls")
    return resolved


def _resolve(host: str, port: int, budget: _Budget) -> list[str]:
    """``look_up`` within the time that is left: the system's resolver has no limit that could be set."""
    resolved: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            resolved.set_result(addresses.look_up(host, port))
        except BaseException as exc:  # noqa: BLE001 - handed over to the thread that waits
            resolved.set_exception(exc)

    try:
        start_thread(look_up, "intarsia-resolver")
        return resolved.result(budget.seconds_left())
    except TimeoutError as exc:
        raise _Failed("its host name is not resolved in time") from exc
    except (OSError, UnicodeError) as exc:
        raise _Failed("its host is not found") from exc


def _body(response: httpx2.Response, access: Access, budget: _Budget) -> bytes:
    """The decoded content, if it is small enough and begins like an image, whatever it is declared as."""
    too_large = f"it has more than {access.max_bytes} bytes"
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > access.max_bytes:
        raise _Failed(too_large)
    if len(response.headers.get_list("Content-Encoding", split_commas=True)) > 1:
        raise _Failed("its content is encoded more than once")  # each layer multiplies what a byte becomes

    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > access.max_bytes:
            raise _Failed(too_large)
        budget.seconds_left()

    if not body:
        raise _Failed("the answer is empty")
    if not _is_image(bytes(body[:_HEAD])):
        raise _Failed(f"not an image; {', '.join(FORMATS)} are read")
    return bytes(body)


def _is_image(head: bytes) -> bool:
    """Whether one of the decoders that are used recognizes the first bytes."""
    Image.init()
    for name in FORMATS:
        _, recognizes = Image.OPEN.get(name, (None, None))
        if recognizes is not None and recognizes(head):
            return True
    return False


class _Budget:
    """The time and the bytes that are left for one image."""

    def __init__(self, access: Access) -> None:
        self._deadline = time.monotonic() + access.seconds
        self._all_bytes = access.max_bytes + _FRAMING
        self._bytes = self._all_bytes

    def seconds_left(self, at_most: float | None = None) -> float:
        """Seconds until the deadline; httpcore2.ReadTimeout where none are left."""
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise httpcore2.ReadTimeout
        return seconds if at_most is None else min(seconds, at_most)

    def spend(self, count: int) -> None:
        """Bytes off the wire: what never becomes content is limited here too."""
        self._bytes -= count
        if self._bytes < 0:
            raise _Failed(f"it sends more than {self._all_bytes} bytes")


class _Pinned(httpcore2.NetworkBackend):
    """Connects to addresses that were checked, whatever the URL's host is called."""

    def __init__(self, checked: list[str], access: Access, budget: _Budget) -> None:
        self._checked = checked
        self._connect_seconds = access.connect_seconds
        self._budget = budget
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """The first address that answers; ``host`` is not looked at, ``timeout`` is the budget's."""
        failure: Exception = httpcore2.ConnectError("its host has no address")
        for address in self._checked:
            seconds = self._budget.seconds_left(self._connect_seconds)
            try:
                stream = self._sockets.connect_tcp(address, port, seconds, local_address, socket_options)
                return _Limited(stream, self._connect_seconds, self._budget)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure


class _Limited(httpcore2.NetworkStream):
    """A stream on which every wait ends at the budget's deadline, however the bytes trickle."""

    def __init__(self, stream: httpcore2.NetworkStream, connect_seconds: float, budget: _Budget) -> None:
        self._stream = stream
        self._connect_seconds = connect_seconds
        self._budget = budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        seconds = self._budget.seconds_left(timeout)
        data = self._stream.read(max_bytes, seconds)
        self._budget.spend(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        seconds = self._budget.seconds_left(timeout)
        self._stream.write(buffer, seconds)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        seconds = self._budget.seconds_left(self._connect_seconds)
        secured = self._stream.start_tls(ssl_context, server_hostname, seconds)
        return _Limited(secured, self._connect_seconds, self._budget)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
