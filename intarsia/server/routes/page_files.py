"""``/`` and ``/page/``: the page for people, as the files of the folder ``page`` beside this package.

It needs no key, as it says nothing about this server; the API that it calls does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from intarsia.server.http.route import Route, route

__all__ = ["CONTENT_SECURITY_POLICY", "PAGE_FOLDER", "page_routes"]

PAGE_FOLDER = Path(__file__).resolve().parents[1] / "page"

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        # blob: opened files and masks; data: previews of the events
        "img-src 'self' blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
"""What the page may load: its own files, and nothing of any other host."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page; its tag (RFC 9110, 8.8.3) is a hash of its content."""

    content: bytes
    media_type: str
    tag: str


def page_routes() -> list[Route]:
    """``/``, ``/page/NAME`` and ``/page/examples/NAME``."""
    return [route("/", _index, "GET", "HEAD"), route("/page/{name:path}", _file, "GET", "HEAD")]


async def _index(request: Request) -> Response:
    return _response(request, page_files()["index.html"])


async def _file(request: Request) -> Response:
    file = page_files().get(request.path_params["name"])
    if file is None:
        raise HTTPException(404)
    return _response(request, file)


@cache
def page_files() -> dict[str, PageFile]:
    """All files of the page by their paths in the folder, read once: no request's path is ever one of this machine."""
    files = {}
    for path in sorted(PAGE_FOLDER.rglob("*")):
        if path.suffix not in _TYPES:
            continue
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        files[path.relative_to(PAGE_FOLDER).as_posix()] = PageFile(content, _TYPES[path.suffix], tag)
    return files


def _response(request: Request, file: PageFile) -> Response:
    """The file; 304 where the client has it already."""
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        # Asked for again each time, so that a new version is never mixed with an old one.
        "Cache-Control": "no-cache",
        "ETag": file.tag,
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    if file.tag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
