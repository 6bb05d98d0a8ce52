"""What every route asks of its HTTP request: the server's parts, the key's owner, the addresses that replies have."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, cast

from anyio import to_thread
from starlette.requests import Request

from intarsia.errors import RequestError
from intarsia.server.http.access_log import OWNER
from intarsia.server.http.error_replies import HttpError
from intarsia.server.http.misplaced_keys import refuse_misplaced_keys
from intarsia.server.http.refusals import Refusal
from intarsia.server.services import Services
from intarsia.server.store.jobs import Job

__all__ = [
    "as_job_id",
    "base_url",
    "check_room",
    "owner_of",
    "parse_object",
    "read_json",
    "refuse_keys_in",
    "services_of",
    "wait_for",
]

# Seconds between looks into a store that other processes change, whether an event was heard or not.
_LOOK = 2.0

# Bytes of JSON that are parsed without a look at how many values they have, and values of larger ones.
_LARGE = 1 << 16
_MOST_SEPARATORS = 20_000


def services_of(request: Request) -> Services:
    """The parts of the server that got the request."""
    return cast(Services, request.app.state.services)


def owner_of(request: Request, body: Mapping[str, Any] | None = None) -> str:
    """The name of the key that a request came with; empty where the server has no keys.

    Raises:
        HttpError: it has none, or none that is known (401), or comes too often (429).
    """
    sender = services_of(request).authentication.check(
        body, dict(request.headers), request.client.host if request.client else ""
    )
    if isinstance(sender, Refusal):
        raise HttpError(sender.status, sender.message, retry_after=sender.retry_after)
    setattr(request.state, OWNER, sender.owner)
    return sender.owner


def check_room(request: Request, owner: str | None = None) -> None:
    """Refuse a request that would not be accepted at this moment, before anything is done for it.

    One with an idempotency key may be answered with an earlier job, and so is looked at in any case.

    Args:
        owner: None where the request's key has not been looked at yet.

    Raises:
        QueueFull, Overloaded: as of :meth:`intarsia.server.intake.Intake.check`.
    """
    if "Idempotency-Key" not in request.headers:
        services_of(request).intake.check(owner)


def refuse_keys_in(request: Request, fields: Mapping[str, Any], *, key_in_body: bool) -> None:
    """Refuse fields that have the request's own key in them, as they would be kept.

    Raises:
        RequestError: names the first of them (400).
    """
    checked = services_of(request).authentication.keys is not None
    refuse_misplaced_keys(fields, dict(request.headers), in_body=key_in_body, checked=checked)


def base_url(request: Request) -> str:
    """What addresses in a reply begin with: the public URL, or the host that was asked."""
    settings = services_of(request).settings
    if settings.public_url:
        return settings.public_url.rstrip("/")
    return f"{request.url.scheme}://{request.url.netloc}"


def as_job_id(text: str) -> int | None:
    """The id that a text is; None where it cannot be one."""
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        return None
    return int(text)


async def wait_for(job: Job, services: Services, seconds: float) -> Job:
    """The job once it has ended, or as it is after so many seconds, or when the server is about to end."""
    deadline = time.monotonic() + seconds
    longest = _LOOK if services.settings.database else seconds
    with services.events.subscribe(job.id, ["stopped"]) as events:
        while True:
            found = await to_thread.run_sync(services.store.get, job.id)
            job = found or job
            left = deadline - time.monotonic()
            if job.is_ended or left <= 0 or services.is_closing:
                return job
            await events.next(min(left, longest))


async def read_json(request: Request, *, may_be_empty: bool = False) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        RequestError: it is not JSON, or no object.
    """
    body = await request.body()
    if may_be_empty and not body.strip():
        return {}
    return parse_object(body, "request", "the request's body")


def parse_object(content: str | bytes, field: str, what: str) -> dict[str, Any]:
    """A JSON object.

    Parsing holds up everything else in this process, for a second where 30 MB are full of small values. So a large
    text is looked at first, at the speed of memory: requests have few values, of which images are long.

    Args:
        field, what: names of it, for the error and in its sentence.

    Raises:
        RequestError: it is not JSON, no object, or has far more values than a request.
    """
    if len(content) > _LARGE and _separators(content) > _MOST_SEPARATORS:
        raise RequestError(field, message=f"{what} has more than {_MOST_SEPARATORS:,} values")
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise RequestError(field, message=f"{what} is not valid JSON") from None
    if not isinstance(payload, dict):
        raise RequestError(field, message=f"{what} must be a JSON object")
    return payload


def _separators(content: str | bytes) -> int:
    """How many characters begin or part values of JSON; those in texts are counted too. Stops once there are enough."""
    text = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    found = 0
    for start in range(0, len(text), _LARGE):
        found += sum(text.count(mark, start, start + _LARGE) for mark in (b",", b"{", b"["))
        if found > _MOST_SEPARATORS:
            break
    return found
