"""Text of documented requests: prompts, names, choices, schedulers, addresses, images as text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from intarsia import schedulers
from intarsia.endpoints.field_type import LONGEST_LINE, Schema, any_case, pattern, split_list
from intarsia.errors import RequestError
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
    "ImageText",
    "Names",
    "Scalar",
    "Solver",
    "Text",
]

LONGEST_TEXT = 10_000
"""Characters of a prompt; text encoders read 77 tokens of it."""

LONGEST_NAME = 200
"""Characters of a registry id or another name."""

_ADDRESS = r"[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#]+\S*"


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
        option = ""
        if isinstance(value, str):
            option = re.sub(r"[\s-]+", "_", value[:LONGEST_NAME].strip().lower())
        if option not in self.options:
            raise RequestError(name, value, f"one of {', '.join(self.options)}")
        return option

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.options)}, pattern(any_case(self.options, r"[\s_-]+"))]}


@dataclass(frozen=True)
class Names:
    """Names of the registry: "a,b", or ["a", "b"]."""

    def read(self, name: str, value: Any) -> tuple[str, ...]:
        pieces = split_list(value)
        if pieces is None or not all(isinstance(piece, str) and piece.strip() for piece in pieces):
            raise RequestError(name, value, "comma-separated names or a list of names")
        return tuple(Text().read(name, piece.strip()) for piece in pieces)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


@dataclass(frozen=True)
class Solver:
    """A documented scheduler, by any usual name; settings may be part of it (``DPM++ 2M SDE Karras``)."""

    def read(self, name: str, value: Any) -> schedulers.Sampler:
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
        return pattern(any_case((*DEFAULT_ALGORITHM, *ALGORITHMS, *ALGORITHM_SPELLINGS)))


@dataclass(frozen=True)
class ImageText:
    """An image as text: URL, data URI or base64. What is behind it is looked at later."""

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
            address = re.fullmatch(_ADDRESS, value.strip())
            if address:
                return address[0]

        quoted = without_query(value[:LONGEST_LINE]) if isinstance(value, str) else value
        raise RequestError(name, quoted, f"an http or https URL of at most {LONGEST_LINE} characters")

    def schema(self) -> Schema:
        return pattern(_ADDRESS) | {"maxLength": LONGEST_LINE}


@dataclass(frozen=True)
class Scalar:
    """A string, number or boolean, kept as it is."""

    def read(self, name: str, value: Any) -> str | float | bool:
        if isinstance(value, str):
            is_valid = len(value) <= LONGEST_LINE
        elif isinstance(value, int):
            is_valid = _is_short(value)
        else:
            is_valid = isinstance(value, float) and math.isfinite(value)
        if not is_valid:
            raise RequestError(name, value, f"a number, true, false or text of at most {LONGEST_LINE} characters")
        scalar: str | float | bool = value
        return scalar

    def schema(self) -> Schema:
        return {"type": ["string", "number", "boolean"], "maxLength": LONGEST_LINE}


@dataclass(frozen=True)
class Anything:
    """A value that is not looked at."""

    def read(self, name: str, value: Any) -> None:
        return None

    def schema(self) -> Schema:
        return {}


def _is_short(value: int) -> bool:
    return value.bit_length() <= 1024


def _has_half_pairs(text: str) -> bool:
    """JSON can bring in halves of surrogate pairs, which no encoder of text takes."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)
