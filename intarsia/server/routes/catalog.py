"""What the server has: models and schedulers, for our own API and in the small routes of the hosted service."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from intarsia import __version__
from intarsia.errors import IntarsiaError
from intarsia.redact import hiding
from intarsia.registry.listing import entry_row
from intarsia.registry.registry import Registry
from intarsia.schedulers import catalogue
from intarsia.server.http.error_replies import error_response, json_response
from intarsia.server.http.requests import base_url, owner_of, read_json, services_of
from intarsia.server.http.route import Handler, Route, route
from intarsia.server.routes.job_replies import file_url
from intarsia.server.routes.uploads import Uploads

__all__ = ["catalog_routes"]

_PONY = "/api/v1/enterprise/pony"

Payload = dict[str, Any]


def catalog_routes() -> list[Route]:
    """``/models``, ``/schedulers``, and the hosted service's lists and its ``base64_to_url``."""
    return [
        route("/models", _models, "GET"),
        route("/schedulers", _schedulers, "GET"),
        route(f"{_PONY}/schedulers_list", _documented(_schedulers_list), "POST"),
        route(f"{_PONY}/get_all_models", _documented(_all_models), "POST"),
        route(f"{_PONY}/system_details", _documented(_system_details), "POST"),
        route("/api/v6/base64_to_url", _documented(_base64_to_url), "POST"),
        route("/api/v6/image_editing/base64_to_url", _documented(_base64_to_url), "POST"),
    ]


async def _models(request: Request) -> Response:
    owner_of(request)
    return json_response(await to_thread.run_sync(_entries, services_of(request).registry))


def _entries(registry: Registry) -> dict[str, Any]:
    """Every section of the registry, and its entries as rows."""
    sections = {
        kind: [entry_row(registry, entry) for entry in parts.values()] for kind, parts in registry.parts.items()
    }
    return {"models": [entry_row(registry, entry) for entry in registry], **sections}


async def _schedulers(request: Request) -> Response:
    owner_of(request)
    rows = await to_thread.run_sync(catalogue)
    return json_response({"schedulers": [dataclasses.asdict(row) for row in rows]})


def _documented(answer: Callable[[Request, Payload, str], dict[str, Any]]) -> Handler:
    """A route of the hosted service: its body has the key, its reply a status."""

    async def handler(request: Request) -> Response:
        payload = await read_json(request, may_be_empty=True)
        with hiding(payload.get("key")):
            services = services_of(request)
            try:
                owner = owner_of(request, payload)
                reply = await services.intake.run(partial(answer, request, payload, owner))
            except IntarsiaError as exc:
                return error_response(exc, services.registry)
        return json_response({"status": "success", **reply})

    return handler


def _schedulers_list(request: Request, payload: Payload, owner: str) -> dict[str, Any]:
    return {"schedulers": [row.name for row in catalogue()]}


def _all_models(request: Request, payload: Payload, owner: str) -> dict[str, Any]:
    rows = _entries(services_of(request).registry)["models"]
    return {"models": [{"model_id": row["id"], **row} for row in rows]}


def _system_details(request: Request, payload: Payload, owner: str) -> dict[str, Any]:
    """What runs here, and how much; nothing about the machine that a stranger could use."""
    services = services_of(request)
    return {
        "version": f"intarsia {__version__}",
        "python": platform.python_version(),
        "backend": services.settings.engine.backend,
        "devices": list(services.settings.engine.devices),
        "jobs": services.store.counts(),
        "engine": dict(services.host.statistics) if services.host is not None else {},
    }


def _base64_to_url(request: Request, payload: Payload, owner: str) -> dict[str, Any]:
    services = services_of(request)
    uploads = Uploads(
        store=services.store,
        files=services.files,
        access=services.acceptance.access,
        most_images=services.settings.uploads,
        most_bytes=services.settings.upload_bytes,
        keep=services.settings.keep,
    )
    job = uploads.accept(payload, owner)
    url = file_url(job, job.files[0], base_url(request))
    return {"id": job.id, "request_id": job.id, "output": [url], "link": url, "tip": "; ".join(job.warnings)}
