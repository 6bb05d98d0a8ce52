"""Text for one line of a terminal: what a terminal acts upon, or an encoder refuses, is written as an escape.

Names, prompts and messages from outside may hold anything: a sequence that renames the window, a line break that
forges a second message, a mark that turns the direction of what follows.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["printable", "printable_json"]

# C0, DEL and C1 controls; marks and overrides of direction; line and paragraph separators; halves of surrogate pairs.
_ACTS = "\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff"
_IN_TEXT = re.compile(f"[{_ACTS}]")
_IN_JSON = re.compile(f"(?!\n)[{_ACTS}]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """The text on one line: an escape sequence's first character as ``\\x1b``, a mark of direction as ``\\u202e``."""
    return text if text.isprintable() else _IN_TEXT.sub(_escape, text)


def printable_json(value: Any, indent: int | None = 2) -> str:
    """A value as JSON whose strings hold no such character as it is; read back it is the same value.

    Args:
        indent: blanks for each level; None puts everything on one line.

    Raises:
        ValueError: a number that is not finite, which JSON cannot hold.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
