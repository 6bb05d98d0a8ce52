"""The body of ``POST /jobs``: the library's request as JSON, or a form that brings the images as files."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from intarsia.errors import RequestError, named
from intarsia.server.http.requests import parse_object, read_json

__all__ = ["IMAGE_PARTS", "REQUEST_PART", "read_job_request"]

REQUEST_PART = "request"
IMAGE_PARTS = ("init_image", "mask_image", "ip_adapter_image")

_PARTS = (REQUEST_PART, *IMAGE_PARTS)

# Bytes of a part that is no file. How much a body may have as a whole is limited before it is read.
_LONGEST_TEXT = 64 * 1024 * 1024


async def read_job_request(request: Request) -> dict[str, Any]:
    """The fields of an ``InpaintRequest``; images as text, or as the bytes of their files.

    Raises:
        RequestError: a body that is neither JSON nor such a form; the message names the part.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        return await read_json(request)
    form = await _form(request)
    try:
        _check_names(form)
        return await _fields(form)
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Starlette's parser of a form, which notes whether the form has an end."""

    # Files stay in memory, where the whole body is, instead of in a folder for temporary files: that may be full.
    spool_max_size = _LONGEST_TEXT

    has_end = False

    def on_end(self) -> None:
        self.has_end = True


async def _form(request: Request) -> FormData:
    count = len(_PARTS)
    parser = _FormParser(
        request.headers, request.stream(), max_files=count, max_fields=count, max_part_size=_LONGEST_TEXT
    )
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        raise RequestError(REQUEST_PART, message=f"the form cannot be read: {exc.message}") from exc
    except UnicodeError as exc:  # some of Python's codecs raise no UnicodeDecodeError, for which there is Latin-1
        raise RequestError(REQUEST_PART, message="the form cannot be read: its charset is not that of text") from exc
    if parser.has_end:
        return form

    # Starlette leaves out the part that is not closed.
    await form.close()
    raise RequestError(REQUEST_PART, message="the form cannot be read: it has no end, so that its last part is cut off")


def _check_names(form: FormData) -> None:
    """Each known part at most once."""
    seen = set()
    for name, _ in form.multi_items():
        if name not in _PARTS:
            known = ", ".join(_PARTS)
            raise RequestError(name, message=f"{named(name)} is not a part of this form; its parts: {known}")
        if name in seen:
            raise RequestError(name, message=f"{name} is in the form twice")
        seen.add(name)


async def _fields(form: FormData) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if REQUEST_PART in form:
        fields = parse_object(await _content(form[REQUEST_PART]), REQUEST_PART, f"the part {REQUEST_PART}")
    for name in ("init_image", "mask_image"):
        if name in form:
            _set_image(fields, name, name, await _content(form[name]))

    if "ip_adapter_image" in form:
        adapter = fields.get("ip_adapter")
        if not isinstance(adapter, dict):
            raise RequestError("ip_adapter", message="ip_adapter_image needs an ip_adapter with its id in the request")
        _set_image(adapter, "image", "ip_adapter_image", await _content(form["ip_adapter_image"]))
    return fields


def _set_image(fields: dict[str, Any], name: str, part: str, content: str | bytes) -> None:
    if fields.get(name) is not None:
        raise RequestError(part, message=f"{part} is both in the request and a part of the form")
    fields[name] = content


async def _content(part: UploadFile | str) -> str | bytes:
    return part if isinstance(part, str) else await part.read()
