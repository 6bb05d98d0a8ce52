"""httptools' parser of requests, which goes on in HTTP/1.1 where a client offers another protocol.

A server may ignore the header ``Upgrade`` (RFC 9110, 7.8), as a request with it is complete without: Java's client
offers HTTP/2 with each of its requests, and so does ``curl --http2``. httptools takes whatever follows such a head for
the other protocol, the request's body included.
"""

from __future__ import annotations

from array import array
from typing import Any

import httptools

__all__ = ["RequestParser"]

# Headers that say how long a body is.
_FRAMING = (b"content-length", b"transfer-encoding")


class RequestParser(httptools.HttpRequestParser):
    """The parser of a connection.

    Args:
        protocol: has the callbacks; each is called once for a request, as without an ``Upgrade``.
    """

    def __init__(self, protocol: Any) -> None:
        self._callbacks = _Callbacks(self, protocol)
        super().__init__(self._callbacks)

    def feed_data(self, data: bytes | bytearray | memoryview[int] | array[int]) -> None:
        """Parse the next bytes of the connection.

        Raises:
            httptools.HttpParserError: they are no HTTP/1.1 request, or a callback has failed.
        """
        while True:
            try:
                super().feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            # The parser expects the head of another request by now: it is given that of the body.
            head = self._callbacks.head_of_body()
            if head:
                super().feed_data(head)


class _Callbacks:
    """A protocol's callbacks, without those for a head that was made for a body."""

    def __init__(self, parser: RequestParser, protocol: Any) -> None:
        self._parser, self._protocol = parser, protocol
        self._framing: list[bytes] = []
        self._in_made_head = False
        self.on_body = protocol.on_body

    def head_of_body(self) -> bytes:
        """A head, for the body of the request that was read last; empty where it has none."""
        self._in_made_head = bool(self._framing)
        return b"".join([b"POST / HTTP/1.1\r\n", *self._framing, b"\r\n"]) if self._framing else b""

    def on_message_begin(self) -> None:
        self._framing = []
        if not self._in_made_head:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._in_made_head:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_made_head:
            return
        if name.lower() in _FRAMING:
            self._framing.append(b"%b: %b\r\n" % (name, value))
        self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._in_made_head:
            self._in_made_head = False
        else:
            self._protocol.on_headers_complete()

    def on_message_complete(self) -> None:
        # With an upgrade the parser ends the message after its head; its body is still to come.
        if not (self._framing and self._parser.should_upgrade()):
            self._protocol.on_message_complete()
