"""Tolerant field types: one value of a documented request, in any form that clients send it, as what it means.

Lenient in form: numbers and flags may be strings, lists may be comma-separated text. Strict in meaning: what
means nothing ("512.5" where an integer belongs, "nan", 3 where at most 1 is allowed) is a
:class:`RequestError` that names field, value and what is allowed. Every type also writes the JSON Schema of the
forms that it takes. The types are in :mod:`intarsia.endpoints.number_fields` and
:mod:`intarsia.endpoints.text_fields`; what they share is here.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["LONGEST_LINE", "FieldType", "Schema", "any_case", "pattern", "split_list"]

LONGEST_LINE = 4096
"""Characters of a value that is one line of text."""

Schema = dict[str, Any]
"""A JSON Schema (2020-12), as plain values."""


class FieldType(Protocol):
    """A form of value. ``read`` never sees null: null is a field that is absent."""

    def read(self, name: str, value: Any) -> Any:
        """What ``value`` means; RequestError naming the field ``name`` where it means nothing."""
        ...

    def schema(self) -> Schema:
        """JSON Schema (2020-12) of every form that ``read`` takes."""
        ...


def split_list(value: Any) -> list[Any] | None:
    """The members of a list, or of comma-separated text; None for everything else."""
    if isinstance(value, list | tuple):
        return list(value)
    return value.split(",") if isinstance(value, str) and len(value) <= LONGEST_LINE else None


def pattern(inside: str) -> Schema:
    """Text that is ``inside``, blanks around it aside."""
    return {"type": "string", "pattern": rf"^\s*({inside})\s*$"}


def any_case(words: tuple[str, ...], underscore: str = "_") -> str:
    """A pattern for ``words`` in any case, in the regular expressions that JSON Schema has (no flags)."""
    return "|".join("".join(_either_case(letter, underscore) for letter in word) for word in words)


def _either_case(letter: str, underscore: str) -> str:
    if letter == "_":
        return underscore
    return f"[{letter.upper()}{letter}]" if letter.isalpha() else f"[{letter}]"
