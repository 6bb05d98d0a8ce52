"""Our own API of jobs: accept, show, list, cancel, and follow them as they run."""

from __future__ import annotations

from functools import partial
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from intarsia.errors import RequestError
from intarsia.server.engines.previews import PREVIEW_EVERY
from intarsia.server.http.error_replies import HttpError, json_response
from intarsia.server.http.requests import as_job_id, base_url, check_room, owner_of, refuse_keys_in, services_of
from intarsia.server.http.route import Route, route
from intarsia.server.routes.job_events import stream
from intarsia.server.routes.job_requests import read_job_request
from intarsia.server.routes.job_view import job_view
from intarsia.server.store.jobs import UPLOAD, Job

__all__ = ["MOST_JOBS", "job_routes"]

MOST_JOBS = 200
"""Jobs in one reply of ``GET /jobs``."""

_JOBS = 50


def job_routes() -> list[Route]:
    """``/jobs``, ``/jobs/{id}`` and ``/jobs/{id}/events``."""
    return [
        route("/jobs", _accept, "POST"),
        route("/jobs", _page, "GET"),
        route("/jobs/{job_id}", _show, "GET"),
        route("/jobs/{job_id}", _cancel, "DELETE"),
        route("/jobs/{job_id}/events", _events, "GET"),
    ]


async def _accept(request: Request) -> Response:
    """Take a request in; the job is durable before the reply."""
    services = services_of(request)
    owner = owner_of(request)
    check_room(request, owner)
    every = _number(request, "preview_every", 0, 150, "a whole number between 0 and 150")
    fields = await read_job_request(request)
    refuse_keys_in(request, fields, key_in_body=False)

    read = partial(
        services.acceptance.library,
        fields,
        owner=owner,
        idempotency_key=request.headers.get("Idempotency-Key"),
        preview_every=PREVIEW_EVERY if every is None else every,
    )
    base = base_url(request)

    def finish(job: Job) -> dict[str, Any]:
        services.dispatcher.wake()
        return job_view(job, services, base)

    view = await services.intake.accept(read, _images(fields), owner, finish)
    return json_response(view, 201, {"Location": view["url"]})


def _images(fields: dict[str, Any]) -> list[object]:
    """The images that a request names."""
    adapter = fields.get("ip_adapter")
    shown = adapter.get("image") if isinstance(adapter, dict) else None
    return [fields.get("init_image"), fields.get("mask_image"), shown]


async def _page(request: Request) -> Response:
    """Jobs of the owner, the newest first; ``cursor`` is the ``next`` of the page before."""
    services = services_of(request)
    owner = owner_of(request)
    before = _number(request, "cursor", 1, 2**53, "the cursor of an earlier reply")
    limit = _number(request, "limit", 1, MOST_JOBS, f"a whole number between 1 and {MOST_JOBS}") or _JOBS

    def page() -> dict[str, Any]:
        jobs = services.store.page(owner, before=before, most=limit + 1)
        shown = jobs[:limit]
        following = str(shown[-1].id) if len(jobs) > limit else None
        return {"jobs": [job_view(job, services, base_url(request)) for job in shown], "next": following}

    return json_response(await to_thread.run_sync(page))


async def _show(request: Request) -> Response:
    job = await _found(request)
    return json_response(await _view(request, job))


async def _cancel(request: Request) -> Response:
    """Stop a job: at once where it is queued, at its next evaluation where it runs. An ended one stays as it is."""
    job = await _found(request)
    if not job.is_ended:
        cancelled = await to_thread.run_sync(services_of(request).dispatcher.cancel, job.id)
        job = cancelled or job
    return json_response(await _view(request, job))


async def _events(request: Request) -> Response:
    """The job as it runs, as server-sent events."""
    return stream(request, await _found(request))


async def _found(request: Request) -> Job:
    """The job of the address; one of another owner is as unknown as one that never was."""
    owner = owner_of(request)
    number = as_job_id(request.path_params["job_id"])
    job = await to_thread.run_sync(services_of(request).store.get, number) if number is not None else None
    if job is None or job.endpoint == UPLOAD or job.owner != owner:
        raise HttpError(404, "there is no job of that id")
    return job


async def _view(request: Request, job: Job) -> dict[str, Any]:
    return await to_thread.run_sync(job_view, job, services_of(request), base_url(request))


def _number(request: Request, name: str, low: int, high: int, allowed: str) -> int | None:
    """A whole number of the query; None where it is not there."""
    text = request.query_params.get(name)
    if text is None:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= 16
    if not is_number or not low <= int(text) <= high:
        raise RequestError(name, text, allowed)
    return int(text)
