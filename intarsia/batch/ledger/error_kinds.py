"""Classes of errors in results: what went wrong with a row, in a word that a program can sort by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from intarsia.errors import (
    Cancelled,
    CheckerMissing,
    DeviceLost,
    EngineStopped,
    NotFinite,
    OutOfMemory,
    OutputError,
    RequestError,
    SourceError,
    SourceUnreadable,
    WeightsError,
)
from intarsia.printable import printable
from intarsia.redact import redacted

__all__ = ["ERROR_KINDS", "ErrorKind", "classify", "is_fatal", "sentence"]

ErrorKind = Literal["decode", "mask", "size", "param", "memory", "nan", "safety", "io", "cancelled", "internal"]
"""decode: an image that is none. mask: empty, or of another shape. size: width or height. param: any other field,
or a row that cannot be read. memory: the device's or the machine's. nan: numbers that are not finite. safety: the
checker is missing or cannot be opened. io: a file or URL that cannot be read or written. cancelled: the run was
stopped. internal: the rest, a worker process that died among it."""

ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)

_LONGEST = 10_000
_SIZES = ("width", "height", "fit_output")
_MASKS = ("mask_image", "mask_source", "mask_padding", "mask_dilate", "mask_min_area")

# From special to general: the first that an error is an instance of says its class.
_KINDS: tuple[tuple[type[BaseException], ErrorKind], ...] = (
    (SourceUnreadable, "io"),
    (SourceError, "decode"),
    (CheckerMissing, "safety"),
    (WeightsError, "param"),
    (NotFinite, "nan"),
    (OutOfMemory, "memory"),
    (MemoryError, "memory"),
    (Cancelled, "cancelled"),
    (OutputError, "io"),
    (OSError, "io"),
)


def classify(error: BaseException) -> ErrorKind:
    """The class of an error that ended a row."""
    for kind, name in _KINDS:
        if isinstance(error, kind):
            return name

    if isinstance(error, RequestError):
        return _kind_of_field(error.field)
    return "internal"


def _kind_of_field(field: str) -> ErrorKind:
    if field in _SIZES:
        return "size"
    if field in _MASKS:
        return "mask"
    return "param"


def sentence(error: BaseException) -> str:
    """What an error says, on one line of bounded length. What is not ours may hold anything, or nothing at all."""
    line = " ".join(str(error).split("\n")).strip()
    text = printable(redacted(line)) or type(error).__name__
    if len(text) <= _LONGEST:
        return text
    return text[: _LONGEST - 1] + "…"


def is_fatal(error: BaseException) -> bool:
    """Whether the process cannot be trusted any more: after a CUDA error every later call fails too."""
    chain = list(_chain(error))
    if any(isinstance(each, OutOfMemory) for each in chain):
        return False
    return any(isinstance(each, DeviceLost | EngineStopped) or _is_torch_device_error(each) for each in chain)


def _is_torch_device_error(error: BaseException) -> bool:
    """Whether torch itself reports the loss, where no backend has translated it; older ones raise RuntimeError."""
    if type(error).__name__ == "AcceleratorError":
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
