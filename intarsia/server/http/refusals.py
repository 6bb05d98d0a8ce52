"""Refusals: what a request gets that does not reach the application, in the documented form of an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from intarsia.printable import printable_json

__all__ = ["SECURITY_HEADERS", "Count", "Reason", "Refusal", "error_body"]

Reason = Literal[
    "body_size",
    "body_time",
    "connections",
    "content_type",
    "head_size",
    "head_time",
    "host",
    "key",
    "key_attempts",
    "malformed",
    "memory",
    "origin",
    "path",
    "rate",
    "reply_time",
]
"""Why something was refused: one label of a counter each, so never anything from outside."""

Count = Callable[[Reason], None]
"""Is called once for each refusal, from the event loop's thread; it returns at once and raises nothing."""

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""On every reply that does not have its own: nothing in it is run, framed, guessed at, embedded or kept."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is not served.

    Attributes:
        status: of HTTP.
        reason: what it is counted under.
        message: one printable line, without a key.
        retry_after: whole seconds after which the same request may be let through; None says nothing.
    """

    status: int
    reason: Reason
    message: str
    retry_after: int | None = None

    @property
    def body(self) -> bytes:
        """The documented error object, as JSON."""
        return error_body(self.message, self.retry_after)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the reply, names in lower case."""
        headers = {"content-type": "application/json", "content-length": str(len(self.body))}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers


def error_body(message: str, retry_after: int | None = None) -> bytes:
    """The documented error object, as JSON in UTF-8."""
    fields: dict[str, Any] = {"status": "error", "message": message}
    if retry_after is not None:
        fields["retry_after"] = retry_after
    return printable_json(fields, indent=None).encode()
