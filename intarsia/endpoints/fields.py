"""Tolerant field types: one value of a documented request, in any form that clients send it, as what it means.

Lenient in form: numbers and flags may be strings, lists may be comma-separated text. Strict in meaning: what
means nothing ("512.5" where an integer belongs, "nan", 3 where at most 1 is allowed) is a
:class:`RequestError` that names field, value and what is allowed. Every type also writes the JSON Schema of the
forms that it takes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Protocol

from intarsia import schedulers
from intarsia.errors import RequestError
from intarsia.numbers import NUMBER, WHOLE, is_random_seed, number, whole
from intarsia.redact import without_query
from intarsia.schedulers.dpm_steps import ALGORITHMS
from intarsia.schedulers.settings import ALGORITHM_SPELLINGS, DEFAULT_ALGORITHM, checked_algorithm

__all__ = [
    "LONGEST_NAME",
    "LONGEST_TEXT",
    "Address",
    "Algorithm",
    "Anything",
    "Choice",
    "FieldType",
    "Flag",
    "Names",
    "Number",
    "Numbers",
    "Picture",
    "Scalar",
    "Seed",
    "Solver",
    "Text",
    "Whole",
]

LONGEST_TEXT = 10_000
"""Characters of a prompt; text encoders read 77 tokens of it."""
LONGEST_NAME = 200
LONGEST_LINE = 4096

_ADDRESS = r"[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#]+\S*"
_RANDOM = ("random",)
_YES, _NO = ("yes", "true", "on", "1", "y"), ("no", "false", "off", "0", "n")

Schema = dict[str, Any]


class FieldType(Protocol):
    """A form of value. ``read`` never sees null: null is a field that is absent."""

    def read(self, name: str, value: Any) -> Any:
        """What ``value`` means; RequestError naming the field ``name`` where it means nothing."""
        ...

    def schema(self) -> Schema:
        """JSON Schema (2020-12) of every form that ``read`` takes."""
        ...


@dataclass(frozen=True)
class Whole:
    """An integer of ``low`` … ``high``, a multiple of ``multiple``: 512, "512", 512.0, "512.0"."""

    low: int
    high: int
    multiple: int = 1

    def read(self, name: str, value: Any) -> int:
        parsed = whole(value)
        if parsed is None:
            raise RequestError(name, value, f"an integer between {self.low} and {self.high}")
        if not self.low <= parsed <= self.high:
            raise RequestError(name, value, f"between {self.low} and {self.high}")
        if parsed % self.multiple:
            raise RequestError(name, value, f"divisible by {self.multiple}")
        return parsed

    def schema(self) -> Schema:
        limits: Schema = {"minimum": self.low, "maximum": self.high}
        if self.multiple > 1:
            limits["multipleOf"] = self.multiple
        return {"anyOf": [{"type": "integer", **limits}, _pattern(WHOLE)]}


@dataclass(frozen=True)
class Number:
    """A finite number of ``low`` … ``high``: 7.5, 7, "7.5", "75e-1"."""

    low: float
    high: float

    def read(self, name: str, value: Any) -> float:
        parsed, limits = number(value), f"between {self.low:g} and {self.high:g}"
        if parsed is None:
            raise RequestError(name, value, f"a finite number {limits}")
        if not self.low <= parsed <= self.high:
            raise RequestError(name, value, limits)
        return parsed

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "number", "minimum": self.low, "maximum": self.high}, _pattern(NUMBER)]}


@dataclass(frozen=True)
class Seed:
    """A seed of 0 … ``high``; -1 and "random", as other tools say it, are null: one is drawn."""

    high: int

    def read(self, name: str, value: Any) -> int | None:
        if is_random_seed(value):
            return None
        parsed = whole(value)
        if parsed is None or not 0 <= parsed <= self.high:
            raise RequestError(name, value, f"an integer between 0 and {self.high}, or -1 for a random one")
        return parsed

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "integer", "minimum": -1, "maximum": self.high},
                _pattern(f"{WHOLE}|{_any_case(_RANDOM)}"),
            ]
        }


@dataclass(frozen=True)
class Flag:
    """A boolean: true, "yes", "true", "on", "y", 1, "1" and their opposites, in any case."""

    def read(self, name: str, value: Any) -> bool:
        if isinstance(value, int | float) and value in (0, 1):  # True and False among them
            return bool(value)
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in _YES or word in _NO:
            return word in _YES
        raise RequestError(name, value, "yes or no (or true, false, 1, 0)")

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, _pattern(_any_case((*_YES, *_NO)))]}


@dataclass(frozen=True)
class Text:
    """Text of at most ``longest`` characters; an integer is the text of its digits."""

    longest: int = LONGEST_NAME

    def read(self, name: str, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and _is_short(value):
            value = str(value)
        if not isinstance(value, str):
            raise RequestError(name, value, "a string")
        if len(value) > self.longest:
            raise RequestError(name, message=f"{name} must be at most {self.longest} characters, not {len(value)}")
        if _has_half_pairs(value):
            raise RequestError(name, value, "valid Unicode")
        return value

    def schema(self) -> Schema:
        return {"type": ["string", "integer"], "maxLength": self.longest}


@dataclass(frozen=True)
class Choice:
    """One of ``options``, in any case, with blanks or dashes for underscores."""

    options: tuple[str, ...]

    def read(self, name: str, value: Any) -> str:
        wanted = re.sub(r"[\s-]+", "_", value[:LONGEST_NAME].strip().lower()) if isinstance(value, str) else ""
        if wanted not in self.options:
            raise RequestError(name, value, f"one of {', '.join(self.options)}")
        return wanted

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.options)}, _pattern(_any_case(self.options, r"[\s_-]+"))]}


@dataclass(frozen=True)
class Solver:
    """A documented scheduler or one of its short names."""

    def read(self, name: str, value: Any) -> str:
        try:
            return schedulers.resolve_documented(Text().read(name, value))
        except RequestError:
            raise RequestError(name, value, f"one of {', '.join(schedulers.NAMES)}") from None

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(schedulers.NAMES)}, {"type": "string", "maxLength": LONGEST_NAME}]}


@dataclass(frozen=True)
class Algorithm:
    """diffusers' name of a form of the DPM solvers; "" is the scheduler's own."""

    def read(self, name: str, value: Any) -> str:
        try:
            return checked_algorithm(Text().read(name, value)) or ""
        except RequestError:
            known = ", ".join(("none", *ALGORITHMS, *ALGORITHM_SPELLINGS))
            raise RequestError(name, value, f"one of {known}") from None

    def schema(self) -> Schema:
        return _pattern(_any_case((*DEFAULT_ALGORITHM, *ALGORITHMS, *ALGORITHM_SPELLINGS)))


@dataclass(frozen=True)
class Names:
    """Names of the registry: "a,b", or ["a", "b"]."""

    def read(self, name: str, value: Any) -> tuple[str, ...]:
        pieces = _pieces(value)
        if pieces is None or not all(isinstance(piece, str) and piece.strip() for piece in pieces):
            raise RequestError(name, value, "comma-separated names or a list of names")
        return tuple(Text().read(name, piece.strip()) for piece in pieces)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


@dataclass(frozen=True)
class Numbers:
    """One or more numbers of ``low`` … ``high``: 0.7, "0.7", "0.7,0.5", [0.7, "0.5"]."""

    low: float
    high: float

    def read(self, name: str, value: Any) -> tuple[float, ...]:
        pieces = _pieces(value) if isinstance(value, str | list | tuple) else [value]
        parsed = [None] if pieces is None else [number(piece) for piece in pieces]
        if not all(one is not None and self.low <= one <= self.high for one in parsed):
            allowed = f"between {self.low:g} and {self.high:g}: a number, comma-separated numbers or a list"
            raise RequestError(name, value, allowed)
        return tuple(one for one in parsed if one is not None)

    def schema(self) -> Schema:
        one = Number(self.low, self.high).schema()["anyOf"]
        several = _pattern(rf"{NUMBER}(\s*,\s*{NUMBER})*")
        return {"anyOf": [one[0], several, {"type": "array", "items": {"anyOf": one}}]}


@dataclass(frozen=True)
class Picture:
    """A picture as text: URL, data URI or base64. What is behind it is looked at later."""

    def read(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise RequestError(name, value, "a URL, a data URI or base64 text")
        return value

    def schema(self) -> Schema:
        return {"type": "string", "description": "URL, data URI or base64"}


@dataclass(frozen=True)
class Address:
    """An http or https URL."""

    def read(self, name: str, value: Any) -> str:
        if isinstance(value, str) and len(value) <= LONGEST_LINE and not _has_half_pairs(value):
            found = re.fullmatch(_ADDRESS, value.strip())
            if found:
                return found[0]
        quoted = without_query(value[:LONGEST_LINE]) if isinstance(value, str) else value
        raise RequestError(name, quoted, f"an http or https URL of at most {LONGEST_LINE} characters")

    def schema(self) -> Schema:
        return _pattern(_ADDRESS) | {"maxLength": LONGEST_LINE}


@dataclass(frozen=True)
class Scalar:
    """A string, number or boolean, kept as it is."""

    def read(self, name: str, value: Any) -> str | float | bool:
        if isinstance(value, str):
            is_fine = len(value) <= LONGEST_LINE
        elif isinstance(value, int):
            is_fine = _is_short(value)
        else:
            is_fine = isinstance(value, float) and math.isfinite(value)
        if not is_fine:
            raise RequestError(name, value, f"a number, true, false or text of at most {LONGEST_LINE} characters")
        kept: str | float | bool = value
        return kept

    def schema(self) -> Schema:
        return {"type": ["string", "number", "boolean"], "maxLength": LONGEST_LINE}


@dataclass(frozen=True)
class Anything:
    """A value that is not looked at."""

    def read(self, name: str, value: Any) -> None:
        return None

    def schema(self) -> Schema:
        return {}


def _pieces(value: Any) -> list[Any] | None:
    """The members of a list, or of comma-separated text; None for everything else."""
    if isinstance(value, list | tuple):
        return list(value)
    return value.split(",") if isinstance(value, str) and len(value) <= LONGEST_LINE else None


def _is_short(value: int) -> bool:
    return value.bit_length() <= 1024


def _has_half_pairs(text: str) -> bool:
    """JSON can bring in halves of surrogate pairs, which no encoder of text takes."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _pattern(inside: str) -> Schema:
    """Text that is ``inside``, blanks around it aside."""
    return {"type": "string", "pattern": rf"^\s*({inside})\s*$"}


def _any_case(words: tuple[str, ...], underscore: str = "_") -> str:
    """A pattern for ``words`` in any case, in the regular expressions that JSON Schema has (no flags)."""

    def pattern(letter: str) -> str:
        if letter == "_":
            return underscore
        return f"[{letter.upper()}{letter}]" if letter.isalpha() else f"[{letter}]"

    return "|".join("".join(map(pattern, word)) for word in words)
