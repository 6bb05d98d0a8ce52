"""The access log: one line for each request, in which nothing from outside can write a line or a field of its own."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from intarsia.redact import redacted
from intarsia.server.http.keys import without_generated

__all__ = ["OWNER", "AccessLog"]

log = logging.getLogger("intarsia.access")

OWNER = "owner"
"""Attribute of a request's state under which the application puts the name of its key's owner."""

_LONGEST = 200

_LINE = "method=%s path=%s status=%s seconds=%.3f bytes=%d owner=%s"


class AccessLog:
    """An ASGI application around another one, outside of the guards, so that refusals have a line too.

    A line is ``method=POST path=/jobs status=201 seconds=0.132 bytes=87 owner=ann``. The path has no query, and what
    may be a key is left out of it; it is percent-encoded, and so has neither blanks nor line breaks. A status of ``-``
    is a client that went before it had a reply, and an owner of ``-`` a request without a valid key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        state = scope.setdefault("state", {})
        began = time.perf_counter()
        status, sent = "-", 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            await send(message)
            if message["type"] == "http.response.start":
                status = str(message["status"])
            else:
                sent += len(message.get("body", b""))

        try:
            await self._app(scope, receive, counted)
        finally:
            _write(
                _field(scope["method"]),
                _field(scope["path"]),
                status,
                time.perf_counter() - began,
                sent,
                _field(state.get(OWNER) or "-"),
            )


def _write(*fields: object) -> None:
    """Log a line, without the search for the place in the program that logs it, which takes half of the time."""
    if log.isEnabledFor(logging.INFO):
        log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, _LINE, fields, None))


def _field(text: str) -> str:
    """A text from outside as one printable word of ASCII."""
    known = without_generated(redacted(text[: 4 * _LONGEST]))
    word = quote(known, safe="/*@:,~-._", errors="backslashreplace")
    return word if len(word) <= _LONGEST else f"{word[: _LONGEST - 3]}..."
