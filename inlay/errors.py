"""Every error that inlay raises on purpose, in one tree.

::

    InlayError                  anything below
    ├── RequestError            a field, its value, and what is allowed
    │   └── SourceError         an image or mask that cannot be read
    ├── OutputError             a result that cannot be written
    ├── WeightsError            a model, adapter or registry entry: unknown, missing, corrupted, refused
    ├── BackendError            a backend or device: not installed, not available, failed
    │   ├── OutOfMemory         the device's memory does not hold what was asked
    │   └── NotFinite           the network gave numbers that are not finite
    └── Cancelled               the caller asked for it

Each class carries the exit code that the command line ends with. Messages are one line: they name the
thing, its value and what is allowed.
"""

from __future__ import annotations

import re
from types import UnionType

__all__ = [
    "BackendError",
    "Cancelled",
    "InlayError",
    "NotFinite",
    "OutOfMemory",
    "OutputError",
    "RequestError",
    "SourceError",
    "WeightsError",
    "expect",
    "redacted",
    "shown",
]

_SHOWN = 120
_READ = 4096  # characters of a value that are looked at: it may be megabytes of base64

# A text that is an address as a whole ("https:/" too: what is misspelt is quoted most often), or holds one.
_WHOLE_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_ADDRESS_QUERY = re.compile(r"(://[^\s?#'\"]*)[?#][^\s'\"]+")
_AUTHORITY = re.compile(r"//[^\s'\"]+")
# The same without a scheme: "example.org/a.png?key=…", "user:password@example.org/a.png". "what?.png" is a name.
_QUERY = re.compile(r"\?(?!…)(?:[^\s?='\"]*=|[\w%.~+/-]{16,})[^\s'\"]*")
_LOGIN = re.compile(r"[^\s/@:'\"]+:[^\s/@'\"]+@(?=[\w.-]+[/:])")


def redacted(text: str, mark: str = "…") -> str:
    """``text`` without what may be a key in an address: user and password, query and fragment.

    Every message, file and stream shows addresses in this form. What only looks like an address, as one that is
    misspelt does, is treated as one.

    Args:
        mark: put in the place of what was left out; "" leaves no trace of it.
    """
    if not any(sign in text for sign in "?#@:"):
        return text
    query = f"?{mark}" if mark else ""
    if _WHOLE_ADDRESS.match(text):
        end = min((place for place in map(text.find, "?#") if place >= 0), default=len(text))
        scheme, slashes, place = text[:end].partition("//")
        text = scheme + slashes + _without_login(place, mark) + (query if end < len(text) else "")
    else:
        text = _ADDRESS_QUERY.sub(lambda found: found[1] + query, text)
    text = _AUTHORITY.sub(lambda found: "//" + _without_login(found[0][2:], mark), text)
    text = _LOGIN.sub(f"{mark}@" if mark else "", text)
    return _QUERY.sub(query, text)


def _without_login(place: str, mark: str) -> str:
    """Host, port and path of an address without user and password, also where these have a slash in them."""
    authority, slash, path = place.partition("/")
    login = f"{mark}@" if mark else ""
    if "@" in authority:
        return login + authority.rpartition("@")[2] + slash + path
    host, colon, port = authority.rpartition(":")
    if not colon or not port or port.isdigit() or "]" in port:
        return place
    return login + path.rpartition("@")[2] if "@" in path else host + slash + path


def shown(value: object) -> str:
    """``repr(value)`` without the keys of addresses, cut to a length that fits one line of a terminal."""
    try:
        value = _without_keys(value)
        if isinstance(value, str | bytes) and len(value) > _SHOWN:
            value = value[:_SHOWN]  # cut before repr
        text = repr(value).replace("\n", " ")
    except (ValueError, RecursionError):  # an integer with too many digits, lists too deep
        text = f"a value too large to show ({type(value).__name__})"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _without_keys(value: object) -> object:
    """The value with every text in it redacted."""
    if isinstance(value, str):
        return redacted(value[:_READ])
    if isinstance(value, dict):
        return {_without_keys(key): _without_keys(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_keys, value)) if type(value) in (list, tuple) else value
    return value


class InlayError(Exception):
    """Root of the tree; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class RequestError(InlayError):
    """A request that cannot be carried out as written.

    Args:
        field: name of the offending field, as the caller wrote it.
        value: what was given.
        allowed: completes "<field> must be …", for example ``"between 1 and 4"``.
        message: replaces the composed sentence where "must be" does not fit.
    """

    exit_code = 2

    def __init__(self, field: str, value: object = None, allowed: str = "", *, message: str = "") -> None:
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(message or f"{field} must be {allowed}, not {shown(value)}")


def expect(field: str, value: object, kind: type | UnionType, allowed: str) -> None:
    """Raise :class:`RequestError` unless ``value`` is of that kind; True and False are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and not _takes_bools(kind)):
        raise RequestError(field, value, allowed)


def _takes_bools(kind: type | UnionType) -> bool:
    return bool in (kind.__args__ if isinstance(kind, UnionType) else (kind,))


class SourceError(RequestError):
    """An image or mask that cannot be found, fetched or decoded. ``message`` says which and why."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(field, value, message=f"{field}: {problem}")


class OutputError(InlayError):
    """A result that cannot be written where it was asked for."""

    exit_code = 2


class WeightsError(InlayError):
    """A registry entry or a weight file that is unknown, missing, corrupted or refused."""

    exit_code = 3


class BackendError(InlayError):
    """A backend, device or package that is not there, or that failed."""

    exit_code = 4


class OutOfMemory(BackendError):
    """The device's memory does not hold what was asked; the message says what would fit."""


class NotFinite(BackendError):
    """The network gave numbers that are not finite; there is no picture in them."""


class Cancelled(InlayError):
    """The request was cancelled before it was done; nothing was decoded or written."""

    exit_code = 130
