"""What watches the server asks for: whether it lives, whether it can serve, and its metrics."""

from __future__ import annotations

from collections.abc import Callable

from anyio import to_thread
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from intarsia.endpoints.answer import without_paths
from intarsia.errors import IntarsiaError
from intarsia.server.http.error_replies import HttpError, json_response
from intarsia.server.http.keys import candidate_key
from intarsia.server.http.requests import owner_of, services_of
from intarsia.server.http.route import Route, route
from intarsia.server.services import Services

__all__ = ["health_routes", "obstacles"]


def health_routes() -> list[Route]:
    """``/healthz`` and ``/readyz``, which are answered without a key, and ``/metrics``."""
    return [
        route("/metrics", _metrics, "GET"),
        route("/healthz", _healthz, "GET", "HEAD"),
        route("/readyz", _readyz, "GET", "HEAD"),
    ]


async def _healthz(request: Request) -> Response:
    """200 for as long as the event loop turns."""
    return json_response({"status": "ok"})


async def _readyz(request: Request) -> Response:
    """200, or 503 with the reasons; these are for whoever has a key, where the server has keys."""
    services = services_of(request)
    reasons = await to_thread.run_sync(obstacles, services)
    body = {"status": "not ready" if reasons else "ready"}
    if _may_know(request):
        return json_response({**body, "reasons": reasons}, 503 if reasons else 200)
    return json_response(body, 503 if reasons else 200)


async def _metrics(request: Request) -> Response:
    """Every metric, in Prometheus' text format; a key is needed where the server has keys."""
    owner_of(request)
    text = await to_thread.run_sync(services_of(request).metrics.text)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


def obstacles(services: Services) -> list[str]:
    """Why requests would not be served as they should be, a sentence for each; it writes to disk to find out."""
    found = [
        *_failing("the database cannot be used", services.store.check),
        *_failing("the data folder cannot be used", services.files.check),
        *_engine(services),
    ]
    if services.is_closing:
        found.append("the server is about to end")
    return [without_paths(sentence, services.registry) for sentence in found]


def _engine(services: Services) -> list[str]:
    if services.host is None:
        return ["the engine is being opened"]
    if services.host.problem:
        return [services.host.problem]
    if not services.dispatcher.is_running:
        return ["jobs are not given to the engine: its thread has ended, and the log says why"]
    if not services.is_ready:
        return ["the models named at the start are being opened"]
    if services.host.capacity < 1:
        return ["no engine takes jobs: its process has ended, and is started again"]
    return [f"the model {model} cannot be opened: {problem}" for model, problem in services.problems.items()]


def _failing(what: str, check: Callable[[], None]) -> list[str]:
    try:
        check()
    except IntarsiaError as exc:
        return [f"{what}: {exc}"]
    return []


def _may_know(request: Request) -> bool:
    """Whether the request has a key that is known, or none is needed.

    A probe without a key is no request that was refused.
    """
    keys = services_of(request).authentication.keys
    if keys is None:
        return True
    if candidate_key(None, dict(request.headers)) is None:
        return False
    try:
        owner_of(request)
    except HttpError:
        return False
    return True
