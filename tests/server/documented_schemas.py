"""Holds replies of the documented routes against the documents' schemas, and against our own, which are stricter."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import jsonschema

from intarsia.endpoints.reading import ENDPOINTS
from intarsia.endpoints.schemas import reply_schemas
from tests.documents import SEEDS, document

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Documented path → numbers of the documents that describe its replies, and the endpoints that may be behind it.
_ROUTES = {
    "/api/v6/images/": (("000", "003"), ("community", "pony")),
    "/api/v7/images/": (("000", "003"), ("community", "pony")),
    "/api/v1/enterprise/images/": (("000", "003"), ("community", "pony")),
    "/api/v6/realtime/": (("004",), ("realtime",)),
    "/api/v1/enterprise/realtime/": (("004",), ("realtime",)),
    "/api/v1/enterprise/pony/": (("003",), ("enterprise-pony",)),
}


class CheckedReplies:
    """An ASGI application around another one, that notes each documented reply which is not as documented."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.faults: list[str] = []
        self.checked = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        prefix = next((prefix for prefix in _ROUTES if str(scope.get("path", "")).startswith(prefix)), None)
        if scope["type"] != "http" or prefix is None:
            await self._application(scope, receive, send)
            return

        body = bytearray()
        status = 0

        async def read(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            body.extend(message.get("body", b""))
            await send(message)

        await self._application(scope, receive, read)
        if body:
            self._check(prefix, str(scope["path"]), status, bytes(body))

    def _check(self, prefix: str, path: str, status: int, body: bytes) -> None:
        self.checked += 1
        problem = fault(prefix, path, status, body)
        if problem:
            self.faults.append(f"{path}: {problem}: {body[:300]!r}")


def fault(prefix: str, path: str, status: int, body: bytes) -> str:
    """Why a reply is not as documented; empty where it is."""
    try:
        reply = json.loads(body)
    except ValueError:
        return "the reply is not JSON"
    if not isinstance(reply, dict) or reply.get("status") not in ("success", "processing", "error"):
        return "the reply has no documented status"
    if (reply["status"] == "error") != (status >= 400):
        return f"{reply['status']} with HTTP status {status}"

    documents, endpoints = _ROUTES[prefix]
    if path.removeprefix(prefix).partition("/")[0] not in ("inpaint", "fetch") or reply["status"] == "error":
        return _error_fault(reply) if reply["status"] == "error" else ""
    if not any(ours(endpoint, reply["status"]).is_valid(reply) for endpoint in endpoints):
        errors = [str(error.message) for error in ours(endpoints[0], reply["status"]).iter_errors(reply)]
        return f"against our schema: {errors}"
    if SEEDS.is_dir() and not any(theirs(number).is_valid(reply) for number in documents):
        return f"against the documents {documents}"
    return ""


def _error_fault(reply: dict[str, Any]) -> str:
    message = reply.get("message")
    if not isinstance(message, str) or not message or "\n" in message:
        return "an error's message is one line of text"
    known = {"status", "message", "retry_after", "webhook_status"}
    return "" if set(reply) <= known else "an error has status and message"


@functools.cache
def ours(endpoint: str, status: str) -> jsonschema.Draft202012Validator:
    """Our schema of an endpoint's reply."""
    return jsonschema.Draft202012Validator(reply_schemas(ENDPOINTS[endpoint])[status])


@functools.cache
def theirs(number: str) -> jsonschema.Draft202012Validator:
    """The document's own schema of its replies."""
    schema = document(number).response
    assert schema is not None
    return jsonschema.Draft202012Validator(schema)
