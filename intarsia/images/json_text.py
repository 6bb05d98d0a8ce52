"""Text and JSON as files hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["as_text", "json_in", "to_json"]


def as_text(text: str) -> str:
    """``text`` with halves of surrogate pairs replaced: JSON can bring them in and no file can hold them."""
    units = text.encode("utf-16", "surrogatepass")
    return units.decode("utf-16", "replace")


def to_json(metadata: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """``metadata`` as one line of JSON, keys sorted.

    Raises:
        ValueError: a number that JSON does not have (NaN, infinity).
        TypeError: a value that is not plain data.
    """
    return json.dumps(metadata, sort_keys=True, ensure_ascii=ascii_only, allow_nan=False)


def json_in(text: str | None) -> dict[str, Any] | None:
    """The JSON object that a text is; None for every other text."""
    try:
        value = json.loads(text or "null")
    except (TypeError, ValueError, RecursionError):  # another program's description
        return None
    return value if isinstance(value, dict) else None
