"""Every error that inlay raises on purpose, in one tree.

::

    InlayError                  anything below
    ├── RequestError            a field, its value, and what is allowed
    │   └── SourceError         an image or mask that cannot be read
    ├── OutputError             a result that cannot be written
    ├── WeightsError            a model, adapter or registry entry: unknown, missing, corrupted, refused
    ├── BackendError            a backend or device: not installed, not available, failed
    │   ├── OutOfMemory         the device's memory, or this machine's, does not hold what was asked
    │   └── NotFinite           the network gave numbers that are not finite
    └── Cancelled               the caller asked for it

Each class carries the exit code that the command line ends with. Messages are one line: they name the
thing, its value and what is allowed.
"""

from __future__ import annotations

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
    "shown",
]

_SHOWN = 120


def shown(value: object) -> str:
    """``repr(value)``, cut to a length that fits one line of a terminal."""
    if isinstance(value, str | bytes) and len(value) > _SHOWN:
        value = value[:_SHOWN]  # cut before repr: a value may be megabytes of base64
    try:
        text = repr(value).replace("\n", " ")
    except (ValueError, RecursionError):  # an integer with too many digits, lists too deep
        text = f"a value too large to show ({type(value).__name__})"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


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
    """The device's memory, or this machine's, does not hold what was asked."""


class NotFinite(BackendError):
    """The network gave numbers that are not finite; there is no picture in them."""


class Cancelled(InlayError):
    """The request was cancelled before it was done; nothing was decoded or written."""

    exit_code = 130
