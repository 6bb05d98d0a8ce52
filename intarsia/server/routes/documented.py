"""The documented routes: inpaint and fetch of each endpoint, under every prefix that clients use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from intarsia.endpoints.reading import ENDPOINTS
from intarsia.errors import IntarsiaError, RequestError
from intarsia.redact import hiding
from intarsia.server.http.error_replies import HttpError, error_response, json_response
from intarsia.server.http.requests import as_job_id, base_url, owner_of, read_json, services_of, wait_for
from intarsia.server.routes.job_replies import reply_to
from intarsia.server.services import Services
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


def documented_routes() -> APIRouter:
    """Every documented route and its aliases."""
    router = APIRouter()
    for prefix, endpoint in _PREFIXES.items():
        router.add_api_route(f"{prefix}/inpaint", _inpaint(endpoint), methods=["POST"], include_in_schema=False)
        router.add_api_route(f"{prefix}/fetch", _fetch_by_body, methods=["POST"], include_in_schema=False)
        router.add_api_route(f"{prefix}/fetch/{{job_id}}", _fetch, methods=["POST"], include_in_schema=False)
    return router


def _inpaint(endpoint: str | None) -> Any:
    async def inpaint(request: Request) -> Response:
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

    def accept() -> Job:
        key = request.headers.get("Idempotency-Key")
        return services.acceptance.documented(
            payload, endpoint, owner=owner, idempotency_key=key, base_url=base_url(request)
        )

    job = await to_thread.run_sync(accept, limiter=services.threads)
    services.dispatcher.wake()
    if not job.delivery.get("instant_response"):
        job = await wait_for(job, services, services.settings.wait)
    return await _reply(job, services, base_url(request))


async def _fetch_by_body(request: Request) -> Response:
    payload = await read_json(request)
    with hiding(payload.get("key")):
        try:
            return await _found(request, payload, payload.get("request_id", payload.get("id")))
        except IntarsiaError as exc:
            return error_response(exc, services_of(request).registry)


async def _fetch(request: Request, job_id: str) -> Response:
    payload = await read_json(request, may_be_empty=True)
    with hiding(payload.get("key")):
        try:
            return await _found(request, payload, job_id)
        except IntarsiaError as exc:
            return error_response(exc, services_of(request).registry)


async def _found(request: Request, payload: dict[str, Any], job_id: object) -> Response:
    services = services_of(request)
    owner = owner_of(request, payload)
    number = _job_id(job_id)
    job = await to_thread.run_sync(services.store.get, number) if number is not None else None
    if job is None or job.endpoint not in ENDPOINTS or job.owner != owner:
        raise HttpError(404, "there is no request of that id")
    return await _reply(job, services, base_url(request))


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


async def _reply(job: Job, services: Services, base: str) -> Response:
    reply = await to_thread.run_sync(reply_to, job, services, base)
    return json_response(reply.body, reply.status)
