"""Standard output and error that take every character, and what commands write to them.

A character that a stream's encoding does not have is written as JSON writes it, ``\\u0444``: in JSON it is read back as
the same value, in text it can still be read, and nothing fails because of a name.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

import typer

from intarsia.errors import RequestError
from intarsia.printable import printable

__all__ = [
    "JSON_SCHEMA",
    "complain",
    "has_printed_json",
    "is_quiet",
    "note",
    "prepare",
    "print_error",
    "print_json",
    "print_report",
    "remark",
    "say_more_or_less",
    "start",
]

JSON_SCHEMA = 2
"""Version of what ``--json`` prints, errors too (docs/json.md); it grows when a key changes its meaning or goes."""

_ERRORS = "intarsia-escapes"


def prepare() -> None:
    """Set up this process's standard streams; once, before anything is written or opened."""
    codecs.register_error(_ERRORS, _escapes)
    _occupy()
    sys.stdout, sys.stderr = _escaping(sys.stdout, 1), _escaping(sys.stderr, 2)


@dataclass
class _Talk:
    """How much is said, and whether standard output has its JSON."""

    quiet: bool = False
    verbose: bool = False
    has_json: bool = False


_talk = _Talk()


def start(*, quiet: bool, verbose: bool) -> None:
    """A command begins: nothing is printed yet."""
    _talk.quiet, _talk.verbose, _talk.has_json = quiet, verbose, False
    if verbose:
        _show_log()


def say_more_or_less(*, quiet: bool, verbose: bool) -> None:
    """Say less or more from now on, beside what :func:`start` has set.

    Raises:
        RequestError: both are asked for.
    """
    start(quiet=quiet or _talk.quiet, verbose=verbose or _talk.verbose)
    if _talk.quiet and _talk.verbose:
        raise RequestError("--quiet", message="--quiet and --verbose contradict each other: give one")


def is_quiet() -> bool:
    """Whether warnings and progress are left out."""
    return _talk.quiet


def has_printed_json() -> bool:
    """Whether standard output has its JSON: a second value behind it would make it unreadable."""
    return _talk.has_json


def print_json(value: Any) -> None:
    """A value as indented JSON on standard output, in ASCII: valid in whatever encoding it is read."""
    _talk.has_json = True
    typer.echo(json.dumps(value, indent=2))


def print_report(values: Mapping[str, Any]) -> None:
    """What a command has to say under ``--json``: an object with the version of its shape."""
    print_json({"schema": JSON_SCHEMA, **values})


def print_error(kind: str, sentence: str, code: int, field: str | None = None) -> None:
    """An error as JSON on standard output, where that has no JSON yet."""
    error: dict[str, Any] = {"kind": kind, "message": printable(sentence), "exit_code": code}
    if field is not None:
        error["field"] = printable(field)
    with suppress(OSError, ValueError):
        print_report({"error": error})


def complain(sentence: str) -> None:
    """An error, as one line on standard error."""
    with suppress(OSError, ValueError):
        typer.echo(f"intarsia: {printable(sentence)}", err=True)


def note(sentence: str) -> None:
    """A warning, as one line on standard error. Where that cannot be written, what was done is no less done."""
    if not _talk.quiet:
        complain(sentence)


def remark(sentence: str) -> None:
    """What only ``--verbose`` asks for, as one line on standard error."""
    if _talk.verbose:
        complain(sentence)


def _show_log() -> None:
    """This package's log on standard error, from its details on."""
    log = logging.getLogger("intarsia")
    log.setLevel(logging.DEBUG)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("intarsia: %(levelname)s: %(message)s"))
        log.addHandler(handler)


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
