"""The ASGI application: routes, the errors of all of them as documented replies, and what starts and ends with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from intarsia import __version__
from intarsia.errors import IntarsiaError
from intarsia.server.documented import documented_routes
from intarsia.server.error_replies import HttpError, error_response
from intarsia.server.requests import services_of
from intarsia.server.served_files import file_routes
from intarsia.server.services import Services

__all__ = ["create_app"]

log = logging.getLogger("intarsia")


def create_app(services: Services) -> FastAPI:
    """The application over started services; they are closed by whoever opened them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services.events.open()
        yield
        services.is_closing = True

    app = FastAPI(title="intarsia", version=__version__, lifespan=lifespan)
    app.state.services = services
    app.include_router(documented_routes())
    app.include_router(file_routes())
    app.add_exception_handler(IntarsiaError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, IntarsiaError)
    return error_response(error, services_of(request).registry)


async def _no_route(request: Request, error: Exception) -> Response:
    """An address that is not served, or not with that method."""
    assert isinstance(error, HTTPException)
    message = "there is nothing at this address" if error.status_code == 404 else str(error.detail)
    return error_response(HttpError(error.status_code, message), services_of(request).registry)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has it in full, the reply only says so."""
    log.error("a request failed unexpectedly", exc_info=error)
    sentence = "the request failed inside intarsia; its log has the details"
    return error_response(HttpError(500, sentence), services_of(request).registry)
