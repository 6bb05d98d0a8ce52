"""Where an image comes from: path, URL, data URI, base64, bytes, ``PIL.Image`` or numpy array.

What may be read is said by an :class:`Access`: a request that arrived over a network has
``Access(allow_paths=False)``. URLs are fetched, under their own guard, by :mod:`intarsia.images.fetch`.
"""

from __future__ import annotations

import binascii
import os
import re
import stat
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.errors import SourceError, SourceUnreadable, shown
from intarsia.images.access import Access
from intarsia.images.rgb_image import RgbImage, from_array, from_bytes, from_image
from intarsia.redact import without_query

__all__ = ["MAX_BYTES", "Source", "is_address", "open_image", "read_source"]

MAX_BYTES = 512 * 1024 * 1024
"""Largest file that is read, in bytes."""

_LONGEST_PATH = 4096
_SCHEME_AND_BLANKS = 256
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_MOST_PADDING = 2
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_BYTE_ORDER_MARK = "\ufeff"  # text that was read from a file of Windows begins with it
_BLANKS = b" \t\r\n\v\f"
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")
_FORMS = "a path, a URL, a data URI, base64, bytes, a PIL.Image or a numpy array"


@dataclass(frozen=True, eq=False)
class Source:
    """An image before decoding: what it is, what an error calls it, and the file it came from, if any."""

    content: bytes | Image.Image | NDArray[Any]
    label: str
    path: str | None = None


def open_image(field: str, value: object, access: Access = Access()) -> RgbImage:
    """Read and normalize an image given in any accepted form.

    Raises:
        SourceError: it cannot be found, read or decoded; the message names ``field`` and the reason.
        OutOfMemory: there is no memory to decode it in.
    """
    source = read_source(field, value, access)
    content = source.content
    if isinstance(content, bytes):
        return from_bytes(field, content, source.label, source.path, access.max_pixels)
    if isinstance(content, np.ndarray):
        return from_array(field, content, access.max_pixels)
    return from_image(field, content, source.label, source.path, access.max_pixels)


def read_source(field: str, value: object, access: Access = Access()) -> Source:
    """Fetch the bytes behind ``value`` without decoding them.

    Raises:
        SourceError: nothing there, not readable, not allowed here, or not a form that is known.
    """
    if isinstance(value, Image.Image):
        filename = str(getattr(value, "filename", ""))
        return Source(value, "the image", filename or None)
    if isinstance(value, np.ndarray):
        return Source(value, "the array")
    if isinstance(value, bytes | bytearray | memoryview):
        return Source(bytes(value), "the content")

    if isinstance(value, os.PathLike):
        return _read_path(field, os.fsdecode(value), access)
    if isinstance(value, str):
        # Blanks around it mean nothing, unless there is a file of that very name.
        has_blanks = value != value.strip()
        if has_blanks and _may_be_path(value, access) and _exists(value):
            return _read_path(field, value, access)
        text = value.removeprefix(_BYTE_ORDER_MARK).strip()
        return _read_text(field, text, access)
    raise SourceError(field, value, f"must be {_FORMS}, not {type(value).__name__}")


def is_address(value: object) -> bool:
    """Whether :func:`read_source` would have to fetch it: a text that begins as a URL does."""
    if not isinstance(value, str):
        return False
    start = value[:_SCHEME_AND_BLANKS].removeprefix(_BYTE_ORDER_MARK).lstrip()
    return _ADDRESS.match(start) is not None


def _may_be_path(text: str, access: Access) -> bool:
    return access.allow_paths and len(text) <= _LONGEST_PATH


def _read_text(field: str, text: str, access: Access) -> Source:
    if not text:
        raise SourceError(field, text, "is empty")
    if text[:5].lower() == "data:":
        return Source(_data_uri(field, text), "the data URI")
    if _ADDRESS.match(text):
        return _read_url(field, text, access)

    may_be_path = _may_be_path(text, access)
    if may_be_path and _exists(text):
        return _read_path(field, text, access)

    data = _decode_base64(text.encode("utf-8", "replace"))
    # Many a misspelled path is also valid base64 ("photos/cat"), so short text counts as base64 only where
    # it decodes to the beginning of an image.
    if data is not None and (not may_be_path or _is_image(data)):
        return Source(data, "the base64 text")
    if may_be_path:
        return _read_path(field, text, access)

    forms = "a path, URL, data URI or base64"
    if not access.allow_paths:
        forms = "a URL, data URI or base64 (paths are not read here)"
    quoted = without_query(text, with_path=True)  # an address without its scheme may still have a token in it
    raise SourceError(field, text, f"{shown(quoted)} is not {forms} of an image")


def _read_url(field: str, url: str, access: Access) -> Source:
    from intarsia.images.fetch import fetch  # its HTTP client is slow to import, and most requests need none

    return Source(*fetch(field, url, access))


def _data_uri(field: str, text: str) -> bytes:
    """RFC 2397, more leniently: any case, blanks anywhere, percent-escapes, base64 alphabets mixed."""
    head, comma, body = text[5:].partition(",")
    if not comma:
        raise SourceError(field, text, f"the data URI has no comma: {shown(text)}")

    data = unquote_to_bytes(body.strip())
    parameters = [part.strip().lower() for part in head.split(";")]
    if "base64" not in parameters:
        return data

    decoded = _decode_base64(data)
    if decoded is None:
        raise SourceError(field, text, f"the data URI is not valid base64: {shown(text)}")
    return decoded


def _decode_base64(text: bytes) -> bytes | None:
    """Standard or URL-safe base64, with or without padding and blanks; None where it is neither."""
    packed = text.translate(_TO_STANDARD, delete=_BLANKS)
    digits = packed.rstrip(b"=")
    if len(packed) - len(digits) > _MOST_PADDING:
        return None

    padding = b"=" * (-len(digits) % 4)
    try:
        return binascii.a2b_base64(digits + padding, strict_mode=True)
    except binascii.Error:  # another character, or a length that no number of bytes encodes to
        return None


def _is_image(data: bytes) -> bool:
    return data.startswith(_SIGNATURES) or data[4:8] == b"ftyp"


def _exists(text: str) -> bool:
    if "\0" in text:
        return False
    path = os.path.expanduser(text)
    return os.path.lexists(path)


def _read_path(field: str, path: str, access: Access) -> Source:
    if not access.allow_paths:
        raise SourceError(field, path, f"paths are not read here, only URLs, data URIs and base64: {shown(path)}")

    label = shown(path)
    try:
        name = os.path.expanduser(path)
        status = os.stat(name)
        problem = _unreadable(status)
        if not problem:
            content = _content(name, status)
            return Source(content, label, path)
    except FileNotFoundError as exc:
        raise SourceUnreadable(field, path, f"file not found: {label}") from exc
    except OSError as exc:
        raise SourceUnreadable(field, path, f"{label} cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # a NUL character
        raise SourceError(field, path, f"{label} cannot be read: {exc}") from exc
    raise SourceError(field, path, f"{label} {problem}")


def _unreadable(status: os.stat_result) -> str:
    """Why a file of this kind or size is not read; "" where it is."""
    if stat.S_ISDIR(status.st_mode):
        return "is a folder, not an image"
    if not stat.S_ISREG(status.st_mode):  # a pipe or device may never end
        return "is not a regular file"
    if status.st_size > MAX_BYTES:
        return f"has {status.st_size} bytes; at most {MAX_BYTES} are read"
    return ""


def _content(name: str, status: os.stat_result) -> bytes:
    if not status.st_size:  # empty, or one of the system's (/proc/kmsg), where a read may wait for ever
        return b""
    with open(name, "rb") as file:
        return file.read(MAX_BYTES)
