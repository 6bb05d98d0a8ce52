"""Errors as documented replies, with the HTTP status that goes with each."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from intarsia.endpoints.answer import without_paths
from intarsia.endpoints.replies import error_reply, in_documented_names
from intarsia.errors import IntarsiaError, RequestError, WeightsError, named
from intarsia.redact import without_key
from intarsia.registry.registry import Registry
from intarsia.server.admission import RETRY_AFTER, Overloaded
from intarsia.server.idempotency import KeyReused
from intarsia.server.store.store import QueueFull, StoreError

__all__ = ["HttpError", "error_response", "json_response"]

log = logging.getLogger("intarsia")

# RFC 9110, 15.5.2: what a 401 asks for. No browser opens its window of user and password for this one.
_CHALLENGE = 'Bearer realm="intarsia"'

# Those that are refused together must not come back together: each is told another time.
_SOONEST = 3


class HttpError(IntarsiaError):
    """A request that is answered with a certain HTTP status.

    Args:
        retry_after: seconds after which the client may try again, for body and header; None says nothing of it.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def error_response(error: IntarsiaError, registry: Registry, *, documented: bool = True) -> Response:
    """The documented error reply: one line, without a key and without paths of this machine.

    Args:
        documented: fields have their documented names; False leaves the library's, and names the field in ``field``.
    """
    text = error.public if isinstance(error, StoreError) else str(error)
    sentence = without_key(in_documented_names(text) if documented else text)
    if not isinstance(error, RequestError):
        sentence = without_paths(sentence, registry)

    status, retry_after = _status(error), _retry_after(error)
    if status >= 500:
        log.error("a request was answered with %d: %s", status, without_key(str(error)))
    body: dict[str, Any] = error_reply(sentence)
    headers = {"WWW-Authenticate": _CHALLENGE} if status == 401 else {}
    if isinstance(error, RequestError) and not documented:
        body["field"] = named(error.field)
    if retry_after is not None:
        body["retry_after"] = retry_after
        headers["Retry-After"] = str(retry_after)
    return json_response(body, status, headers)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A body as JSON, in ASCII."""
    content = json.dumps(body, ensure_ascii=True, allow_nan=False)
    return Response(content, status, headers, "application/json")


def _status(error: IntarsiaError) -> int:
    if isinstance(error, HttpError):
        return error.status
    if isinstance(error, KeyReused):
        return 422
    if isinstance(error, QueueFull | Overloaded):
        return 429
    return 400 if isinstance(error, RequestError | WeightsError) else 500


def _retry_after(error: IntarsiaError) -> int | None:
    if isinstance(error, HttpError):
        return error.retry_after
    return random.randint(_SOONEST, RETRY_AFTER) if isinstance(error, QueueFull | Overloaded) else None
