"""A record: what a line of results says of one row, and which values its fields take."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from intarsia.batch.ledger.json_lines import is_count, is_text_list
from intarsia.errors import shown

__all__ = ["STATUSES", "Record", "problem_of", "timestamp"]

Record = dict[str, Any]

STATUSES = ("ok", "error", "cancelled", "skipped", "retired")
"""What may have become of a row; ``docs/batch.md`` describes them."""


def timestamp() -> str:
    """A record's ``time``, for people: a clock may be set back, so nothing is decided by it."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds")


def problem_of(record: Any) -> str:
    """What keeps a value from being a record; "" for nothing. Keys of later versions may hold anything."""
    if not isinstance(record, dict):
        return f"must be an object, not {shown(record)}"
    for name in ("id", "status"):
        if name not in record:
            return f"{name} is missing"
    wrong = [name for name, value in record.items() if name in _FIELDS and not _FIELDS[name](value)]
    return f"{wrong[0]} cannot be {shown(record[wrong[0]])}" if wrong else ""


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_count_list(value: object) -> bool:
    return isinstance(value, list) and all(map(is_count, value))


def _is_flag_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, bool) for item in value)


def _are_seconds(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(item, int | float) and not isinstance(item, bool) and 0 <= item < 1e12 for item in value.values()
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_FIELDS: dict[str, Callable[[object], bool]] = {
    "id": lambda value: isinstance(value, str) and value != "",
    "status": lambda value: isinstance(value, str) and value in STATUSES,
    "nameless": lambda value: isinstance(value, bool),
    "contents": _is_text_map,
    "identities": _is_text_map,
    "bytes": _is_count_list,
    "seeds": _is_count_list,
    "nsfw": _is_flag_list,
    "timings": _are_seconds,
    **dict.fromkeys(("line", "attempts", "run", "worker"), is_count),
    **dict.fromkeys(("time", "error", "text", "model_sha256", "spec_hash"), _is_text),
    **dict.fromkeys(("outputs", "sha256", "runtime", "warnings", "degraded"), is_text_list),
}
"""What a record's fields hold."""
