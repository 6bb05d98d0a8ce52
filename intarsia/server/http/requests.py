"""What every route asks of its HTTP request: the server's parts, the key's owner, the addresses that replies have."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, cast

from anyio import to_thread
from fastapi import Request

from intarsia.errors import RequestError
from intarsia.server.engines.events import Subscription
from intarsia.server.http.access_log import OWNER
from intarsia.server.http.error_replies import HttpError
from intarsia.server.http.refusals import Refusal
from intarsia.server.services import Services
from intarsia.server.store.jobs import Job

__all__ = ["as_job_id", "base_url", "owner_of", "read_json", "services_of", "wait_for"]

# Seconds after which a waiting request looks into the store, whether it heard of an event or not.
_LOOK = 2.0


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
    with services.events.subscribe(job.id) as events:
        while True:
            found = await to_thread.run_sync(services.store.get, job.id)
            job = found or job
            left = deadline - time.monotonic()
            if job.is_ended or left <= 0 or services.is_closing:
                return job
            await _state_change(events, min(left, _LOOK), services)


async def _state_change(events: Subscription, seconds: float, services: Services) -> None:
    """Return at the next change of state; steps are passed over."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not services.is_closing:
        event = await events.next(min(left, 0.5))
        if event is not None and event.kind == "state":
            return


async def read_json(request: Request, *, may_be_empty: bool = False) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        RequestError: it is not JSON, or no object.
    """
    body = await request.body()
    if may_be_empty and not body.strip():
        return {}
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise RequestError("request", message="the request's body is not valid JSON") from None
    if not isinstance(payload, dict):
        raise RequestError("request", message="the request must be a JSON object")
    return payload
