"""HTTP/1.1 connections under limits: of the time and size of a request's head, of their number, and of slow readers.

All of it happens before there is a request that a guard could look at.
"""

from __future__ import annotations

import asyncio
import http
from asyncio.events import TimerHandle
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from intarsia.server.http.limits import client_network
from intarsia.server.http.refusals import SECURITY_HEADERS, Count, Refusal
from intarsia.server.http.request_parser import RequestParser

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

__all__ = ["ConnectionLimits", "LimitedProtocol", "active", "limited_protocol"]

# Bytes given to the parser at once, so that a header is refused before much more than the limit of it is kept.
_PIECE = 16 << 10

# A refused connection is read on for as long, as one closed with unread bytes is reset and its reply lost. No more of
# them than these are, beside those that are allowed.
_LINGER_SECONDS = 1.0
_LINGERING = 64


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What a connection may be.

    Attributes:
        head_seconds: in which the head of a request must be complete: from connecting, or from its first byte.
        most: connections at the same time.
        of_client: those among them of one IPv4 address, or one /64 network of IPv6.
        head_bytes, headers: size of a head, and number of its headers.
        reply_seconds: for which a client may read nothing of a reply.
        count: is called for each refusal.
    """

    head_seconds: float
    most: int
    of_client: int
    head_bytes: int
    headers: int
    reply_seconds: float
    count: Count


def limited_protocol(
    *,
    head_seconds: float = 10.0,
    max_connections: int = 512,
    max_of_client: int = 384,
    head_bytes: int = 32 << 10,
    max_headers: int = 100,
    reply_seconds: float = 60.0,
    count: Count,
) -> type[LimitedProtocol]:
    """A protocol class for ``uvicorn.Config(http=…)``; the parameters are those of :class:`ConnectionLimits`.

    One client can by default take three quarters of all connections: a reverse proxy is one client too.
    """

    class Protocol(LimitedProtocol):
        limits = ConnectionLimits(
            head_seconds=head_seconds,
            most=max_connections,
            of_client=max_of_client,
            head_bytes=head_bytes,
            headers=max_headers,
            reply_seconds=reply_seconds,
            count=count,
        )

    return Protocol


def active(connections: Iterable[object], seconds: float) -> int:
    """How many of these connections have begun a request in the last seconds; called in the event loop."""
    since = asyncio.get_running_loop().time() - seconds
    return sum(isinstance(each, LimitedProtocol) and each._asked >= since for each in connections)


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol under :class:`ConnectionLimits`; made by :func:`limited_protocol`."""

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = RequestParser(self)
        # As uvicorn has it: a connection that ends with a request may go on to send, and is answered none the less.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

        self._head_timer: TimerHandle | None = None
        self._reply_timer: TimerHandle | None = None

        # Of the head that is being read; trailers of a chunked body come when none is.
        self._in_head = False
        self._head_bytes = 0

        # Bytes that the parser has been given since it last called back: it may be keeping them.
        self._kept_bytes = 0

        self._network = ""
        self._has_begun = False
        self._asked = float("-inf")  # when its last request began, by the clock of the event loop
        self._problem: Refusal | None = None
        self._is_refused = False

        # The request that is being answered; uvicorn's `cycle` is the last one that has come.
        self._answered: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._network = client_network(self.client[0]) if self.client else ""
        if len(self.connections) > self.limits.most:
            message = "The server has as many connections as it takes; try again"
            self._refuse(Refusal(status=503, reason="connections", message=message, retry_after=1))
        elif self._of_same_client() > self.limits.of_client:
            message = f"At most {self.limits.of_client} connections of one address are taken; try again"
            self._refuse(Refusal(status=429, reason="connections", message=message, retry_after=1))
        else:
            self._start_head_timer()

    def _of_same_client(self) -> int:
        """Connections of this one's client that were not refused, this one included."""
        others = (other for other in self.connections if isinstance(other, LimitedProtocol))
        return sum(other._network == self._network and not other._is_refused for other in others)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_reply_timer()
        if self._answered is not None:
            _give_up(self._answered)
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._has_begun = True
        for start in range(0, len(data), _PIECE):
            # What comes after a refusal is read so that the reply arrives, and is nothing.
            if self._is_refused or self.transport.is_closing():
                return
            self._feed(data[start : start + _PIECE])

        # Between requests: a first byte has come, or one that no request needs, such as the rest of an unread body.
        if self._head_timer is None and not self._is_busy and not self._is_refused:
            self._start_head_timer()

    def _feed(self, piece: bytes) -> None:
        self._kept_bytes += len(piece)
        super().data_received(piece)

        # A header, or a trailer, that goes on and on: nothing is called before its end.
        if self._kept_bytes > self.limits.head_bytes + _PIECE and not self._is_refused:
            self._refuse(self._too_large)

    @property
    def _is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_in_body(self) -> bool:
        """Whether the rest of a body is to come, and nothing of a reply is on its way: to it or to one before it."""
        return self._is_busy and self.cycle.more_body and not self.cycle.response_started and not self.pipeline

    # Callbacks of the parser. What they raise makes it stop, and uvicorn call `send_400_response`.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._asked = self.loop.time()
        self._in_head = True
        self._head_bytes = self._kept_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._kept_bytes = 0
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._kept_bytes = 0
        # The headers have been looked at, and handed on, when trailers come: these must not join them.
        if not self._in_head:
            return
        self._grow(len(name) + len(value))
        if len(self.headers) >= self.limits.headers:
            message = f"A request must have at most {self.limits.headers} headers"
            self._stop(Refusal(status=431, reason="head_size", message=message))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._kept_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Closing waits for the client to have read everything, which may be never.
        if self.transport.is_closing():
            self._start_reply_timer()

    def _grow(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.head_bytes:
            self._stop(self._too_large)

    def _stop(self, refusal: Refusal) -> None:
        self._problem = refusal
        raise ValueError(refusal.message)

    @property
    def _too_large(self) -> Refusal:
        message = f"Address and headers of a request must be at most {self.limits.head_bytes} bytes"
        return Refusal(status=431, reason="head_size", message=message)

    def send_400_response(self, msg: str) -> None:
        """The reply to what the parser refuses; called by uvicorn."""
        malformed = Refusal(status=400, reason="malformed", message="This is no HTTP/1.1 request")
        self._refuse(self._problem or malformed)

    # Timers.

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        # Browsers open connections before they need them; there is nobody to answer then.
        if not self._has_begun:
            self.transport.close()
            return
        message = f"The head of a request must arrive within {self.limits.head_seconds:g} s"
        self._refuse(Refusal(status=408, reason="head_time", message=message))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_reply_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_reply_timer()

    def _start_reply_timer(self) -> None:
        if self._reply_timer is None:
            self._reply_timer = self.loop.call_later(self.limits.reply_seconds, self._reply_is_unread)

    def _stop_reply_timer(self) -> None:
        if self._reply_timer is not None:
            self._reply_timer.cancel()
            self._reply_timer = None

    def _reply_is_unread(self) -> None:
        self._reply_timer = None
        self.limits.count("reply_time")
        self.transport.abort()

    # Refusing.

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, and close the connection once the client has had the time to read the answer."""
        self._is_refused = True
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        self.limits.count(refusal.reason)

        if self._is_in_body:
            _give_up(self.cycle)
        # An answer in the middle of another one would be taken for a part of it.
        elif self._is_busy:
            self.transport.abort()
            return

        self.transport.write(_reply(refusal))
        if len(self.connections) > self.limits.most + _LINGERING or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


def _give_up(cycle: RequestResponseCycle) -> None:
    """Let the application see that nobody waits for its reply, which is dropped."""
    cycle.disconnected = True
    cycle.message_event.set()


def _reply(refusal: Refusal) -> bytes:
    phrase = http.HTTPStatus(refusal.status).phrase
    headers = {**SECURITY_HEADERS, **refusal.headers, "connection": "close"}
    lines = [f"HTTP/1.1 {refusal.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + refusal.body
