"""A stored job → the documented reply to it, and its HTTP status."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from intarsia.endpoints.answer import without_paths
from intarsia.endpoints.reading import ENDPOINTS
from intarsia.endpoints.replies import (
    Delivery,
    Outcome,
    error_reply,
    in_documented_names,
    processing_reply,
    ran_on,
    success_reply,
)
from intarsia.errors import OutputError
from intarsia.server.store.jobs import Job

if TYPE_CHECKING:
    from intarsia.server.services import Services  # which imports this module

__all__ = ["FETCH", "Reply", "failed_reply", "file_url", "reply_to", "webhook_body"]

FETCH = {
    "community": "/api/v6/images/fetch",
    "pony": "/api/v6/images/fetch",
    "realtime": "/api/v6/realtime/fetch",
    "enterprise-pony": "/api/v1/enterprise/pony/fetch",
}
"""Where each endpoint's finished replies are fetched."""

_STATUS = {"request": 400, "model": 400}


@dataclass(frozen=True)
class Reply:
    """A documented reply, and the HTTP status that goes with it."""

    body: dict[str, Any]
    status: int = 200


def reply_to(job: Job, services: Services, base_url: str) -> Reply:
    """The documented reply to a documented job, as it stands now.

    Args:
        base_url: what addresses begin with, without a slash at the end.
    """
    if job.state == "failed":
        return _with_webhook(failed_reply(job, services), job)
    if job.state == "cancelled":
        return _with_webhook(Reply(error_reply("the request was cancelled"), 400), job)
    if job.expired:
        return _with_webhook(Reply(error_reply("the images of this request are kept no longer"), 404), job)
    if job.state == "done":
        return _success(job, services, base_url)
    return Reply(_processing(job, services, base_url))


def webhook_body(job: Job, services: Services, base_url: str) -> dict[str, Any]:
    """What a webhook is called with: the reply to a job that is done, else ``status`` "failed" and why."""
    reply = reply_to(replace(job, webhook_status=""), services, base_url).body
    if reply["status"] == "success":
        return reply

    body = {"status": "failed", "id": job.id, "message": reply["message"]}
    track_id = job.delivery.get("track_id")
    return body if track_id is None else body | {"track_id": track_id}


def failed_reply(job: Job, services: Services) -> Reply:
    """The error reply to a job that failed: no path of this machine is in it."""
    sentence = without_paths(in_documented_names(job.error), services.registry)
    return Reply(error_reply(sentence), _STATUS.get(job.error_kind, 500))


def _with_webhook(reply: Reply, job: Job) -> Reply:
    """An error reply that says what became of the webhook, as those to jobs that are done do."""
    if not job.webhook_status or ENDPOINTS[job.endpoint].realtime:
        return reply
    return replace(reply, body=reply.body | {"webhook_status": job.webhook_status})


def file_url(job: Job, name: str, base_url: str) -> str:
    """Where an image is, or will be; a temporary one under a path of its own."""
    folder = "files/temp" if job.delivery.get("temp") else "files"
    return f"{base_url}/{folder}/{name}"


def _success(job: Job, services: Services, base_url: str) -> Reply:
    assert job.result is not None
    try:
        output = _output(job, services, base_url)
    except OutputError as exc:
        return Reply(error_reply(without_paths(str(exc), services.registry)), 500)

    outcome = Outcome(
        seconds=job.result["seconds"],
        meta=ran_on(job.meta, job.result),
        unsafe=any(job.result["nsfw"]),
        warnings=[without_paths(text, services.registry) for text in (*job.warnings, *job.result["warnings"])],
    )
    return Reply(success_reply(ENDPOINTS[job.endpoint], outcome, _delivery(job, output)))


def _output(job: Job, services: Services, base_url: str) -> tuple[str, ...]:
    """URLs of the images, or the images themselves as base64."""
    if not job.delivery.get("base64"):
        return tuple(file_url(job, name, base_url) for name in job.files)
    images = []
    for name in job.files:
        data = services.files.output(name)
        if data is None:
            raise OutputError("an image of this request is missing from the file store")
        images.append(base64.b64encode(data).decode("ascii"))
    return tuple(images)


def _processing(job: Job, services: Services, base_url: str) -> dict[str, Any]:
    rows = job.rows_ahead
    if rows is None:
        _, rows = services.store.lane_rows_before(job.id)
    links = tuple(file_url(job, name, base_url) for name in job.files)
    return processing_reply(
        ENDPOINTS[job.endpoint],
        _delivery(job, links),
        eta=services.dispatcher.throughput.seconds(rows + job.lane_rows),
        fetch_url=f"{base_url}{FETCH[job.endpoint]}/{job.id}",
        meta=job.meta,
        warnings=job.warnings,
    )


def _delivery(job: Job, output: tuple[str, ...]) -> Delivery:
    return Delivery(id=job.id, output=output, track_id=job.delivery.get("track_id"), webhook_status=job.webhook_status)
