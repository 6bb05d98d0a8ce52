"""The ASGI application: routes, the errors of all of them as documented replies, and what starts and ends with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp

from intarsia import __version__
from intarsia.errors import IntarsiaError, named
from intarsia.server.http.access_log import AccessLog
from intarsia.server.http.error_replies import HttpError, error_response
from intarsia.server.http.guards import Guards, GuardSettings
from intarsia.server.http.origins import Origins
from intarsia.server.http.requests import services_of
from intarsia.server.metrics import METHODS, RequestCounter
from intarsia.server.routes.catalog import catalog_routes
from intarsia.server.routes.docs_page import docs_routes
from intarsia.server.routes.documented import documented_routes
from intarsia.server.routes.health import health_routes
from intarsia.server.routes.jobs_api import job_routes
from intarsia.server.routes.page_files import page_routes
from intarsia.server.routes.served_files import file_routes
from intarsia.server.services import Services

__all__ = ["create_app", "guarded"]

log = logging.getLogger("intarsia")


def create_app(services: Services) -> FastAPI:
    """The application over started services; they are closed by whoever opened them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services.events.open()
        services.open_models()  # beside which nothing more is to be done before the server listens
        yield
        services.stop_waiting()

    # Its own documentation loads scripts from other hosts; ours is in docs_page. Its redirects to addresses without a
    # slash at the end are no documented replies, and lead to http where a proxy in front serves https.
    app = FastAPI(
        title="intarsia",
        version=__version__,
        routes=_routes(),
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    app.add_middleware(RequestCounter, metrics=services.metrics)
    app.add_exception_handler(IntarsiaError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    return app


def _routes() -> list[BaseRoute]:
    return [
        *documented_routes(),
        *file_routes(),
        *job_routes(),
        *health_routes(),
        *catalog_routes(),
        *docs_routes(),
        *page_routes(),
    ]


def guarded(application: ASGIApp, services: Services) -> ASGIApp:
    """The application behind its guards and its access log, as it is served."""
    settings = services.settings
    guards = GuardSettings(
        origins=Origins(settings.public_url, settings.allowed_hosts, settings.cors),
        errors_as_200=settings.errors_as_200,
        # Images are shown by pages elsewhere, as those of the hosted service are.
        headers={"/files/": {"cross-origin-resource-policy": "cross-origin"}},
    )
    return AccessLog(Guards(application, guards, services.metrics.refused))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, IntarsiaError)
    documented = request.url.path.startswith("/api/")
    return error_response(error, services_of(request).registry, documented=documented)


async def _no_route(request: Request, error: Exception) -> Response:
    """An address that is not served, or not with that method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = "there is nothing at this address"
    elif error.status_code == 405:
        return _wrong_method(request)
    else:
        message = str(error.detail)
    return error_response(HttpError(error.status_code, message), services_of(request).registry)


def _wrong_method(request: Request) -> Response:
    """RFC 9110, 15.5.6: the reply names the methods of the address, which several routes may have between them."""
    allowed = ", ".join(method for method in METHODS if _is_served(request, method))
    message = f"this address takes {allowed}, not {named(request.method)}"
    response = error_response(HttpError(405, message), services_of(request).registry)
    response.headers["Allow"] = allowed
    return response


def _is_served(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] == Match.FULL for route in request.app.routes)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has it in full, the reply only says so."""
    log.error("a request failed unexpectedly", exc_info=error)
    sentence = "the request failed inside intarsia; its log has the details"
    return error_response(HttpError(500, sentence), services_of(request).registry)
