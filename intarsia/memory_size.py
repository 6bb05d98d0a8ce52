"""Amounts of memory as they are written: ``8GiB``, ``6 GB``, or bytes."""

from __future__ import annotations

import re

from intarsia.errors import BackendError

__all__ = ["gib", "read_memory"]

_ALLOWED = "a number of bytes of 1 or more, or a text such as '8GiB', '6.5GB' or '900MiB'"
_TEXT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?(?:(K|M|G|T)(i?)B|B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def read_memory(value: int | str | None) -> int | None:
    """Bytes; None stays None.

    Raises:
        BackendError: anything else.
    """
    if value is None:
        return None
    if isinstance(value, str):
        count = _bytes(value.strip())
    elif isinstance(value, int) and not isinstance(value, bool):
        count = value
    else:
        count = 0
    if count < 1:
        raise BackendError(f"memory must be {_ALLOWED}, not {value!r}")
    return count


def _bytes(text: str) -> int:
    """0 for a text that is no amount."""
    match = _TEXT.fullmatch(text)
    if match is None:
        return 0
    amount, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(amount) * base ** _POWERS[(unit or "").upper()])


def gib(count: int) -> str:
    """For sentences."""
    return f"{count / 2**30:.1f} GiB"
