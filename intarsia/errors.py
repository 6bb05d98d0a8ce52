"""Every error that intarsia raises on purpose, in one tree.

::

    IntarsiaError                  anything below
    ├── RequestError            a field, its value, and what is allowed
    │   └── SourceError         an image or mask that cannot be read
    │       └── SourceUnreadable    its file or URL gives no bytes at all
    ├── OutputError             a result that cannot be written
    ├── WeightsError            a model, adapter or registry entry: unknown, missing, corrupted, refused
    │   └── CheckerMissing      the safety checker that a request asks for is none of the model's
    ├── BackendError            a backend or device: not installed, not available, failed
    │   ├── OutOfMemory         the device's memory, or this machine's, does not hold what was asked
    │   ├── NotFinite           the network gave numbers that are not finite
    │   ├── EngineStopped       the engine is closed, or its thread has ended
    │   └── DeviceLost          the device fails every later call of this process too
    └── Cancelled               the caller asked for it

Each class carries the exit code that the command line ends with. Messages are one line: they name the
thing, its value and what is allowed. Whatever is quoted in them, they are printable, short, and without the key of
the request.

SourceUnreadable, CheckerMissing, EngineStopped and DeviceLost are not public names of the package: a single request
is handled by the class above them, and only batch, which goes on with other requests, tells them apart.
"""

from __future__ import annotations

from types import UnionType

from intarsia.printable import printable
from intarsia.redact import MASK, is_key, redacted, without_key

__all__ = [
    "BackendError",
    "Cancelled",
    "CheckerMissing",
    "DeviceLost",
    "EngineStopped",
    "IntarsiaError",
    "NotFinite",
    "OutOfMemory",
    "OutputError",
    "RequestError",
    "SourceError",
    "SourceUnreadable",
    "WeightsError",
    "expect",
    "named",
    "one_line",
    "shown",
]

_SHOWN = 120
_READ = 4096  # characters of a value that are looked at: it may be megabytes of base64
_LONGEST = 2000  # of a message; what is allowed may be a list of many names


def shown(value: object) -> str:
    """``repr(value)`` without keys, cut to fit one line of a terminal; stars for the request's own key."""
    if is_key(value):
        return MASK
    try:
        value = _without_keys(value)
        if isinstance(value, str | bytes) and len(value) > _SHOWN:
            value = value[:_SHOWN]  # cut before repr: a value may be megabytes of base64
        text = without_key(repr(value).replace("\n", " "))
    except (ValueError, RecursionError):  # an integer with too many digits, lists too deep
        text = f"a value too large to show ({type(value).__name__})"
    return _cut(text, _SHOWN)


def named(name: str) -> str:
    """A name from a request for the middle of a sentence: as it is, but printable, cut, and never the key."""
    return MASK if is_key(name) else _line(redacted(name), _SHOWN)


def one_line(error: BaseException) -> str:
    """The first line of a foreign exception's message, blanks collapsed; its type's name where it says nothing."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__


def _line(text: str, longest: int) -> str:
    # Cut first, as escapes only make it longer and it may be megabytes.
    return _cut(printable(_cut(text, longest)), longest)


def _without_middle(text: str) -> str:
    """A message of bounded length: its beginning says what it is about, its end what is wrong."""
    if len(text) <= _LONGEST:
        return text
    end = _LONGEST // 4
    return f"{text[: _LONGEST - end - 1]}…{text[-end:]}"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _without_keys(value: object) -> object:
    """The value with every text in it redacted."""
    if isinstance(value, str):
        return redacted(value[:_READ])
    if isinstance(value, dict):
        return {_without_keys(key): _without_keys(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_keys, value)) if type(value) in (list, tuple) else value
    return value


class IntarsiaError(Exception):
    """Root of the tree; ``exit_code`` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_line(_without_middle(without_key(message)), _LONGEST))


class RequestError(IntarsiaError):
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
    kinds = kind.__args__ if isinstance(kind, UnionType) else (kind,)
    return bool in kinds


class SourceError(RequestError):
    """An image or mask that cannot be found, fetched or decoded. ``message`` says which and why."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(field, value, message=f"{field}: {problem}")


class SourceUnreadable(SourceError):
    """A file that the system cannot read, or a URL that cannot be fetched; nothing has been decoded."""


class OutputError(IntarsiaError):
    """A result that cannot be written where it was asked for."""

    exit_code = 2


class WeightsError(IntarsiaError):
    """A registry entry or a weight file that is unknown, missing, corrupted or refused."""

    exit_code = 3


class CheckerMissing(WeightsError):
    """The safety checker that a request asks for: not installed, unknown, or for other families."""


class BackendError(IntarsiaError):
    """A backend, device or package that is not there, or that failed."""

    exit_code = 4


class OutOfMemory(BackendError):
    """The device's memory, or this machine's, does not hold what was asked."""


class NotFinite(BackendError):
    """The network gave numbers that are not finite; there is no image in them."""


class EngineStopped(BackendError):
    """The engine is closed, or its thread has ended; it takes no more requests."""


class DeviceLost(BackendError):
    """The device failed in a way after which every later call of this process fails too, as after a CUDA error."""


class Cancelled(IntarsiaError):
    """The request was cancelled before it was done; nothing was decoded or written."""

    exit_code = 130
