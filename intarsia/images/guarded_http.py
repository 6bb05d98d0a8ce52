"""HTTP requests to addresses that a stranger may have given, under guard: which host is asked, for how long.

Such an address must not reach what only this machine can reach. The host's name is resolved once, every address is
checked, and the connection goes to a checked address itself: a name that resolves to something else a moment later
changes nothing. Redirects are not followed here. Proxies, cookies and credentials of the environment are not used.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2

from intarsia.errors import one_line
from intarsia.images import addresses
from intarsia.images.access import Access
from intarsia.threads import start_thread

__all__ = ["Budget", "NoExchange", "exchange"]

_PORTS = {"http": 80, "https": 443}
_FRAMING = 1024 * 1024  # allowance for headers and the sizes of chunks, bytes
_PIECE = 16 * 1024  # bytes that are sent at once


class NoExchange(Exception):
    """Why an address is not asked, or what is wrong with its answer, in words that end one line."""


@contextmanager
def exchange(
    method: str,
    url: httpx2.URL,
    access: Access,
    budget: Budget,
    *,
    headers: Sequence[tuple[bytes, bytes]],
    content: bytes | None = None,
) -> Iterator[httpx2.Response]:
    """One HTTP exchange; the response's content is read from the connection, which is open within the ``with``.

    Args:
        access: whether private addresses may be asked, and the time to connect.
        budget: the time and bytes that are left.
        headers: beside ``Host`` and ``Content-Length``.

    Raises:
        NoExchange: the URL is not one that may be asked, its host is not found or not public, or the exchange failed;
            also while the content is read.
    """
    lines = [(b"Host", url.netloc), *headers]
    if content is not None:
        lines.append((b"Content-Length", str(len(content)).encode()))
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    # A certificate is for the name without the root's dot.
    extensions = {"sni_hostname": url.raw_host.decode().removesuffix(".")}

    try:
        network = _Pinned(_checked_addresses(url, access, budget), access, budget)
        with (
            httpcore2.ConnectionPool(network_backend=network) as pool,
            pool.stream(method, target, headers=lines, content=content, extensions=extensions) as raw,
        ):
            yield httpx2.Response(raw.status, headers=raw.headers, content=raw.iter_stream())
    except httpcore2.TimeoutException as exc:
        limits = f"{access.connect_seconds:g} s to connect, {access.seconds:g} s in all"
        raise NoExchange(f"it takes too long (allowed: {limits})") from exc
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpx2.DecodingError) as exc:
        raise NoExchange(one_line(exc)) from exc


def _checked_addresses(url: httpx2.URL, access: Access, budget: Budget) -> list[str]:
    """The addresses that may be connected to, once the URL's form and every one of them has passed."""
    if url.scheme not in _PORTS:
        raise NoExchange(f"{url.scheme} addresses are not read, only http and https")
    if url.userinfo:
        raise NoExchange("user name and password in a URL are not sent; leave them out")

    host = url.raw_host.decode()
    port = _PORTS[url.scheme] if url.port is None else url.port
    if not host.strip(".") or not 0 < port < 65536:
        raise NoExchange("the URL is not valid")

    resolved = _resolve(host, port, budget)
    if not access.allow_private_urls and not all(map(addresses.is_public, resolved)):
        not_public = "its host is not public (private, local or reserved address)"
        raise NoExchange(f"{not_public}; allow it with allow_private_urls")
    return resolved


def _resolve(host: str, port: int, budget: Budget) -> list[str]:
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
        raise NoExchange("its host name is not resolved in time") from exc
    except (OSError, UnicodeError) as exc:
        raise NoExchange("its host is not found") from exc


class Budget:
    """The time and the bytes that are left of what an :class:`Access` allows for one image or call."""

    def __init__(self, access: Access) -> None:
        self._deadline = time.monotonic() + access.seconds
        self._bytes = self._all_bytes = access.max_bytes + _FRAMING

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
            raise NoExchange(f"it sends more than {self._all_bytes} bytes")


class _Pinned(httpcore2.NetworkBackend):
    """Connects to addresses that were checked, whatever the URL's host is called."""

    def __init__(self, checked: list[str], access: Access, budget: Budget) -> None:
        self._checked, self._connect_seconds, self._budget = checked, access.connect_seconds, budget
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

    def __init__(self, stream: httpcore2.NetworkStream, connect_seconds: float, budget: Budget) -> None:
        self._stream, self._connect_seconds, self._budget = stream, connect_seconds, budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._budget.seconds_left(timeout))
        self._budget.spend(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces: one call would begin a new wait for each part that a slow receiver takes.
        for start in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[start : start + _PIECE], self._budget.seconds_left(timeout))

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
