"""Standard output and error that take every character, and what commands write to them.

A character that a stream's encoding does not have is written as JSON writes it, ``\\u0444``: in JSON it is read back as
the same value, in text it can still be read, and nothing fails because of a name.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import typer

from intarsia.printable import printable

__all__ = ["note", "prepare", "print_json"]

_ERRORS = "intarsia-escapes"


def prepare() -> None:
    """Set up this process's standard streams; once, before anything is written or opened."""
    codecs.register_error(_ERRORS, _escapes)
    _occupy()
    sys.stdout, sys.stderr = _escaping(sys.stdout, 1), _escaping(sys.stderr, 2)


def print_json(value: Any) -> None:
    """A value as indented JSON on standard output, in ASCII: valid in whatever encoding it is read."""
    typer.echo(json.dumps(value, indent=2))


def note(sentence: str) -> None:
    """One line on standard error. Where that cannot be written, what was done is no less done."""
    with suppress(OSError, ValueError):
        typer.echo(f"intarsia: {printable(sentence)}", err=True)


class _Ascii(io.TextIOWrapper):
    """An ASCII stream under another name: Typer takes ASCII for a mistake and writes UTF-8 instead."""

    encoding = "ascii-escapes"


def _escaping(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # closed by the parent process
        return open(descriptor, "w", encoding="utf-8", errors=_ERRORS, closefd=False)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with suppress(LookupError):
        if codecs.lookup(stream.encoding).name == "ascii":
            return _Ascii(stream.buffer, "ascii", _ERRORS, line_buffering=stream.line_buffering)
    stream.reconfigure(errors=_ERRORS)
    return stream


def _occupy() -> None:
    """Put the null device in the place of a standard stream that is closed, or the next file would be opened there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _escapes(error: UnicodeError) -> tuple[str, int]:
    """An error handler of encoders: UTF-16 units as JSON's escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[start : start + 2].hex() for start in range(0, len(units), 2))
    return "".join(f"\\u{unit}" for unit in pairs), error.end
