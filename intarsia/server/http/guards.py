"""Guards: what a request must be before the application sees it, and what every reply carries. Pure ASGI.

They stand outside of the application: also its own replies to errors pass through them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from intarsia.errors import shown
from intarsia.server.http.bodies import Body, BodyLimits, Memory, drain, read_body
from intarsia.server.http.origins import Origins, read_host
from intarsia.server.http.refusals import SECURITY_HEADERS, Count, Refusal, error_body
from intarsia.server.http.request_head import RequestHead

__all__ = ["GuardSettings", "Guards"]

log = logging.getLogger("intarsia")

# Under which errors may have status 200, for clients that look at the field `status` alone.
_DOCUMENTED = "/api/"

_PREFLIGHT = {
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": "authorization, content-type, idempotency-key, key, last-event-id",
    "access-control-max-age": "600",
}
_EXPOSED = "content-disposition, location, retry-after"


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """What the guards let through.

    Attributes:
        origins: names of this server, and pages that may call it.
        body: limits of a request's body.
        errors_as_200: replies under ``/api/`` have status 200 also where they are errors.
        multipart: paths to which ``multipart/form-data`` may be posted.
        headers: by path, headers that go before :data:`SECURITY_HEADERS` there; a path that ends in a slash holds for
            all that begins with it, but ``/`` for itself alone.
        longest_path: bytes of path and query together.
    """

    origins: Origins = field(default_factory=Origins)
    body: BodyLimits = field(default_factory=BodyLimits)
    errors_as_200: bool = False
    multipart: frozenset[str] = frozenset({"/jobs"})
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    longest_path: int = 2048


class Guards:
    """An ASGI application around another one.

    Args:
        count: is called for each refusal.
    """

    def __init__(self, app: ASGIApp, settings: GuardSettings, count: Count) -> None:
        self._app, self._settings, self._count = app, settings, count
        self._memory = Memory(settings.body.together)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        head = RequestHead.of(scope)
        reply = _Reply(send, self._headers(head), self._settings.errors_as_200 and head.path.startswith(_DOCUMENTED))
        refusal = self._refusal(head)
        if refusal is not None:
            await self._refuse(refusal, head, receive, reply)
        elif head.is_preflight:
            await reply.empty(204, _PREFLIGHT)
        elif head.has_body:
            await self._with_body(scope, receive, reply, head)
        else:
            await self._run(scope, receive, reply)

    async def _with_body(self, scope: Scope, receive: Receive, reply: _Reply, head: RequestHead) -> None:
        body = await read_body(receive, self._settings.body, self._memory)
        if isinstance(body, Refusal):
            await self._refuse(body, head, receive, reply)
        elif isinstance(body, Body):
            try:
                await self._run(scope, body.receive, reply)
            finally:
                body.release()

    async def _run(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        try:
            await self._app(scope, receive, reply.send)
        except Exception as exc:
            # What has begun cannot be replaced: the server closes the connection, and logs the error itself.
            if reply.is_started:
                raise
            log.error("a request failed unexpectedly", exc_info=exc)
            await reply.error(500, error_body("Internal server error"))

    async def _refuse(self, refusal: Refusal, head: RequestHead, receive: Receive, reply: _Reply) -> None:
        self._count(refusal.reason)
        if not head.has_body:
            await reply.error(refusal.status, refusal.body, refusal.headers)
            return

        # Nobody will read the rest of the body, so nothing can follow it.
        await reply.error(refusal.status, refusal.body, {**refusal.headers, "connection": "close"}, more=True)
        # As much again as is allowed: a client that sends a little too much gets its reply, one that sends a gigabyte
        # is cut off.
        await drain(receive, 2 * self._settings.body.most)
        await reply.send({"type": "http.response.body", "body": b""})

    def _refusal(self, head: RequestHead) -> Refusal | None:
        """Why a request is refused by its head; None where it may pass."""
        return (
            self._path_refusal(head)
            or self._host_refusal(head)
            or self._origin_refusal(head)
            or self._content_refusal(head)
        )

    def _path_refusal(self, head: RequestHead) -> Refusal | None:
        longest = self._settings.longest_path
        if head.path_length > longest:
            message = f"Path and query must be at most {longest} bytes, not {head.path_length}"
            return Refusal(status=414, reason="path", message=message)

        steps = head.path.split("/")
        if not head.path.isprintable() or "\\" in head.path or "." in steps or ".." in steps:
            message = f"The path must be without steps, backslashes and control characters, not {shown(head.path)}"
            return Refusal(status=400, reason="path", message=message)
        return None

    def _host_refusal(self, head: RequestHead) -> Refusal | None:
        hosts = head.values("host")
        if len(hosts) != 1:
            message = f"A request must have one Host header, not {len(hosts)}"
            return Refusal(status=400, reason="host", message=message)

        host = read_host(hosts[0])
        if host is not None and self._settings.origins.is_own_host(host[0]):
            return None
        message = (
            f"Host must be an IP address, localhost, or a name that this server was started with "
            f"(--allow-host, --public-url), not {shown(hosts[0])}"
        )
        return Refusal(status=400, reason="host", message=message)

    def _origin_refusal(self, head: RequestHead) -> Refusal | None:
        origins = head.values("origin")
        if not origins or not (head.changes_state or head.is_preflight):
            return None

        known = self._settings.origins
        if len(origins) == 1 and (known.is_own(origins[0], head.values("host")[0]) or known.is_in_cors(origins[0])):
            return None
        message = f"Pages of {shown(', '.join(origins))} may not call this server (see --cors)"
        return Refusal(status=403, reason="origin", message=message)

    def _content_refusal(self, head: RequestHead) -> Refusal | None:
        """A page elsewhere can post forms and plain text without asking; JSON needs the leave that CORS gives."""
        if not head.has_body:
            return None
        size = head.content_length
        if size is not None and size > self._settings.body.most:
            return self._settings.body.too_large

        allowed = ["application/json"]
        if head.method == "POST" and head.path in self._settings.multipart:
            allowed.append("multipart/form-data")
        types = [value.partition(";")[0].strip().lower() for value in head.values("content-type")]
        if len(types) == 1 and types[0] in allowed:
            return self._encoding_refusal(head)

        given = shown(", ".join(types)) if types else "missing"
        message = f"Content-Type must be {' or '.join(allowed)}; it is {given}"
        return Refusal(status=400, reason="content_type", message=message)

    def _encoding_refusal(self, head: RequestHead) -> Refusal | None:
        """A body that is compressed would be called no JSON, and could be as large as it likes once it is unpacked."""
        encodings = [value for value in head.values("content-encoding") if value.lower() not in ("", "identity")]
        if not encodings:
            return None
        message = f"The body must be sent without Content-Encoding; it is {shown(', '.join(encodings))}"
        return Refusal(status=400, reason="content_type", message=message)

    def _headers(self, head: RequestHead) -> dict[str, str]:
        """Headers of the reply to a request, without those that it has itself."""
        places = self._settings.headers
        matching = [place for place in places if head.path == place or _holds(place, head.path)]
        headers = dict(SECURITY_HEADERS)
        if matching:
            headers.update(places[max(matching, key=len)])

        known, origins = self._settings.origins, head.values("origin")
        if known.has_cors:
            headers["vary"] = "Origin"
        if len(origins) == 1 and known.is_in_cors(origins[0]):
            headers["access-control-allow-origin"] = origins[0]
            headers["access-control-expose-headers"] = _EXPOSED
        return headers


class _Reply:
    """A reply on its way out, which gets the headers that it lacks."""

    def __init__(self, send: Send, headers: Mapping[str, str], always_200: bool) -> None:
        self._send, self._headers, self._always_200 = send, headers, always_200
        self.is_started = False

    async def send(self, message: Message) -> None:
        """As ASGI's ``send``."""
        if message["type"] == "http.response.start":
            self.is_started = True
            message = {**message, "headers": self._completed(list(message.get("headers", ())))}
            if self._always_200 and message["status"] >= 400:
                message["status"] = 200
        await self._send(message)

    async def empty(self, status: int, headers: Mapping[str, str]) -> None:
        """A reply without a body."""
        await self.send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
        await self.send({"type": "http.response.body", "body": b""})

    async def error(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, more: bool = False
    ) -> None:
        """A reply with a JSON body; ``more`` leaves it open."""
        if headers is None:
            headers = {"content-type": "application/json", "content-length": str(len(body))}
        await self.send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    def _completed(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        # Vary is a list: another line of it adds to what the application says.
        present = {bytes(name).lower() for name, _ in headers} - {b"vary"}
        return headers + [(name, value) for name, value in _encoded(self._headers) if name not in present]


def _holds(place: str, path: str) -> bool:
    return place.endswith("/") and place != "/" and path.startswith(place)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
