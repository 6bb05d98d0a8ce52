"""The argument FILE of the subcommands that read JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from inlay.errors import RequestError

__all__ = ["read_json"]


def read_json(file: Path) -> Any:
    """The JSON value in ``file``, or on standard input where ``file`` is ``-``; else :class:`RequestError`."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise RequestError("FILE", message=f"{file} cannot be read: {exc}") from exc
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:  # ValueError: no JSON, or a number with too many digits
        raise RequestError("FILE", message=f"{file} is not JSON: {exc}") from exc
