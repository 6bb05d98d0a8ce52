"""The argument FILE of the subcommands that read JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from intarsia.errors import RequestError

__all__ = ["read_json"]


def read_json(file: Path) -> Any:
    """The JSON value in ``file``, or on standard input where ``file`` is ``-``; else :class:`RequestError`."""
    try:
        # Bytes, as JSON's encoding is its own and not the terminal's: UTF-8, or UTF-16 as PowerShell writes it.
        data = _standard_input() if str(file) == "-" else file.read_bytes()
    except OSError as exc:
        raise RequestError("FILE", message=f"{file} cannot be read: {exc.strerror or exc}") from exc
    try:
        return json.loads(data)
    except UnicodeDecodeError as exc:
        message = f"{file} is not JSON but no text at all: an image is given by a request, or to intarsia inpaint"
        raise RequestError("FILE", message=message) from exc
    except (ValueError, RecursionError) as exc:  # ValueError: no JSON, or a number with too many digits
        raise RequestError("FILE", message=f"{file} is not JSON: {exc}") from exc


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise RequestError("FILE", message="- cannot be read: standard input is closed")
    return sys.stdin.buffer.read()
