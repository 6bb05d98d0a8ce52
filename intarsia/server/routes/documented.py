"""The documented routes: inpaint and fetch of each endpoint, under every prefix that clients use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from intarsia.endpoints.reading import ENDPOINTS
from intarsia.errors import IntarsiaError, RequestError
from intarsia.redact import hiding
from intarsia.server.http.error_replies import HttpError, error_response, json_response
from intarsia.server.http.requests import (
    as_job_id,
    base_url,
    check_room,
    owner_of,
    read_json,
    refuse_keys_in,
    services_of,
    wait_for,
)
from intarsia.server.http.route import Handler, Route, route
from intarsia.server.routes.job_replies import Reply, reply_to
from intarsia.server.store.jobs import Job

__all__ = ["documented_routes"]

# Prefix → the endpoint behind its inpaint; None lets the model decide.
_PREFIXES: Mapping[str, str | None] = {
    "/api/v6/images": None,
    "/api/v7/images": None,
    "/api/v1/enterprise/images": None,
    "/api/v6/realtime": "realtime",
    "/api/v1/enterprise/realtime": "realtime",
    "/api/v1/enterprise/pony": "enterprise-pony",
}


_IMAGES = ("init_image", "mask_image", "ip_adapter_image")


def documented_routes() -> list[Route]:
    """Every documented route and its aliases."""
    routes = []
    for prefix, endpoint in _PREFIXES.items():
        routes.append(route(f"{prefix}/inpaint", _inpaint(endpoint), "POST"))
        routes.append(route(f"{prefix}/fetch", _fetch_by_body, "POST"))
        routes.append(route(f"{prefix}/fetch/{{job_id}}", _fetch, "POST"))
    return routes


def _inpaint(endpoint: str | None) -> Handler:
    async def inpaint(request: Request) -> Response:
        check_room(request)
        payload = await read_json(request)
        with hiding(payload.get("key")):
            try:
                return await _run(request, payload, endpoint)
            except IntarsiaError as exc:
                return error_response(exc, services_of(request).registry)

    return inpaint


async def _run(request: Request, payload: dict[str, Any], endpoint: str | None) -> Response:
    services = services_of(request)
    owner = owner_of(request, payload)
    check_room(request, owner)
    refuse_keys_in(request, payload, key_in_body=True)
    base = base_url(request)

    read = partial(
        services.acceptance.documented,
        payload,
        endpoint,
        owner=owner,
        idempotency_key=request.headers.get("Idempotency-Key"),
        base_url=base,
    )

    def finish(job: Job) -> Job | Reply:
        services.dispatcher.wake()
        return reply_to(job, services, base) if job.delivery.get("instant_response") else job

    images = [payload.get(name) for name in _IMAGES]
    accepted = await services.intake.accept(read, images, owner, finish)
    if isinstance(accepted, Job):
        job = await wait_for(accepted, services, services.settings.wait)
        accepted = await to_thread.run_sync(reply_to, job, services, base)
    return json_response(accepted.body, accepted.status)


async def _fetch_by_body(request: Request) -> Response:
    payload = await read_json(request)
    with hiding(payload.get("key")):
        try:
            return await _found(request, payload, payload.get("request_id", payload.get("id")))
        except IntarsiaError as exc:
            return error_response(exc, services_of(request).registry)


async def _fetch(request: Request) -> Response:
    payload = await read_json(request, may_be_empty=True)
    with hiding(payload.get("key")):
        try:
            return await _found(request, payload, request.path_params["job_id"])
        except IntarsiaError as exc:
            return error_response(exc, services_of(request).registry)


async def _found(request: Request, payload: dict[str, Any], job_id: object) -> Response:
    services = services_of(request)
    owner = owner_of(request, payload)
    number = _job_id(job_id)
    base = base_url(request)

    def reply() -> Reply:
        job = services.store.get(number) if number is not None else None
        if job is None or job.endpoint not in ENDPOINTS or job.owner != owner:
            raise HttpError(404, "there is no request of that id")
        return reply_to(job, services, base)

    found = await to_thread.run_sync(reply)
    return json_response(found.body, found.status)


def _job_id(value: object) -> int | None:
    """An id as an integer or its text; None where it cannot be one.

    Raises:
        RequestError: there is none.
    """
    if value is None or value == "":
        raise RequestError("request_id", message="request_id is required")
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return as_job_id(value.strip() if isinstance(value, str) else f"{value:d}")
