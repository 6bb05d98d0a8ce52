"""Serves the images of finished jobs, by names that cannot be guessed."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from intarsia.server.http.requests import services_of
from intarsia.server.store.files import is_output_name

__all__ = ["file_routes"]


def file_routes() -> APIRouter:
    """``/files/NAME``, and ``/files/temp/NAME`` for images that are kept for a day."""
    router = APIRouter()
    router.add_api_route("/files/{name}", _file, methods=["GET", "HEAD"], include_in_schema=False)
    router.add_api_route("/files/temp/{name}", _file, methods=["GET", "HEAD"], include_in_schema=False)
    return router


async def _file(request: Request, name: str) -> Response:
    """An image; 404 until it is written, and once it is kept no longer."""
    if not is_output_name(name):
        raise HTTPException(404)
    data = await to_thread.run_sync(services_of(request).files.output, name)
    if data is None:
        raise HTTPException(404)
    # A name belongs to one image for good.
    headers = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(data, headers=headers, media_type="image/png")
