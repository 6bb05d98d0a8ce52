"""Serves the images of finished jobs, by names that cannot be guessed."""

from __future__ import annotations

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from intarsia.server.http.requests import services_of
from intarsia.server.http.route import Route, route
from intarsia.server.store.files import is_output_name

__all__ = ["file_routes"]


def file_routes() -> list[Route]:
    """``/files/NAME``, and ``/files/temp/NAME`` for images that are kept for a day."""
    return [route(path, _file, "GET", "HEAD") for path in ("/files/{name}", "/files/temp/{name}")]


async def _file(request: Request) -> Response:
    """An image; 404 until it is written, and once it is kept no longer."""
    name = request.path_params["name"]
    if not is_output_name(name):
        raise HTTPException(404)
    data = await to_thread.run_sync(services_of(request).files.output, name)
    if data is None:
        raise HTTPException(404)
    # A name belongs to one image for good.
    headers = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(data, headers=headers, media_type="image/png")
