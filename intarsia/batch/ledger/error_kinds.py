"""Classes of errors in results: what went wrong with a row, in a word that a program can sort by."""

from __future__ import annotations

from collections.abc import Iterator

from intarsia.errors import (
    Cancelled,
    NotFinite,
    OutOfMemory,
    OutputError,
    RequestError,
    SourceError,
    WeightsError,
)
from intarsia.printable import printable
from intarsia.redact import redacted

__all__ = ["CLASSES", "classify", "is_fatal", "sentence"]

CLASSES = ("decode", "mask", "size", "param", "memory", "nan", "safety", "io", "cancelled", "internal")
"""decode: a picture that is none. mask: empty, or of another shape. size: width or height. param: any other field,
or a row that cannot be read. memory: the device's or the machine's. nan: numbers that are not finite. safety: the
checker is missing or cannot be opened. io: a file or URL that cannot be read or written. cancelled: the run was
stopped. internal: the rest, a worker process that died among it."""

_LONGEST = 10_000
_SIZES = ("width", "height", "fit_output")
_MASKS = ("mask_image", "mask_source", "mask_padding", "mask_dilate")


def classify(error: BaseException) -> str:
    """The class of an error that ended a row."""
    if isinstance(error, SourceError):
        return "io" if _is_from_system(error) else "decode"
    if isinstance(error, RequestError):
        field = error.field
        return "size" if field in _SIZES else "mask" if field in _MASKS else "param"
    if isinstance(error, WeightsError):
        # All of the checker's begin so; other entries of the registry are parameters of the row.
        return "safety" if str(error).startswith("safety") else "param"
    kinds: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
        ((NotFinite,), "nan"),
        ((OutOfMemory, MemoryError), "memory"),
        ((Cancelled,), "cancelled"),
        ((OutputError, OSError), "io"),
    )
    return next((name for types, name in kinds if isinstance(error, types)), "internal")


def sentence(error: BaseException) -> str:
    """What an error says, on one line of bounded length. What is not ours may hold anything, or nothing at all."""
    text = printable(redacted(" ".join(str(error).split("\n")).strip())) or type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def is_fatal(error: BaseException) -> bool:
    """Whether the process cannot be trusted any more: after a CUDA error every later call fails too."""
    if any(isinstance(each, OutOfMemory) for each in _chain(error)):
        return False
    marks = ("CUDA error", "the engine stopped", "the engine is closed")
    chain = list(_chain(error))
    named = any(type(each).__name__ == "AcceleratorError" for each in chain)
    return named or any(mark in str(each) for each in chain for mark in marks)


def _is_from_system(error: SourceError) -> bool:
    """Whether the file could not be read at all: the system says so with a number, decoders have none."""
    causes = (each for each in _chain(error) if isinstance(each, OSError))
    return any(each.errno is not None for each in causes) or "Unable to fetch" in str(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__
