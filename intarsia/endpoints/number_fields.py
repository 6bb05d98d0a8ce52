"""Numbers, seeds and flags of documented requests: 512, "512", 7.5, "75e-1", "yes"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from intarsia.endpoints.field_type import Schema, any_case, pattern, split_list
from intarsia.errors import RequestError
from intarsia.numbers import NUMBER, WHOLE, is_random_seed, number, whole

__all__ = ["Flag", "Number", "Numbers", "Seed", "Whole"]

_RANDOM = ("random",)
_YES, _NO = ("yes", "true", "on", "1", "y"), ("no", "false", "off", "0", "n")


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
        return {"anyOf": [{"type": "integer", **limits}, pattern(WHOLE)]}


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
        return {"anyOf": [{"type": "number", "minimum": self.low, "maximum": self.high}, pattern(NUMBER)]}


@dataclass(frozen=True)
class Numbers:
    """One or more numbers of ``low`` … ``high``: 0.7, "0.7", "0.7,0.5", [0.7, "0.5"]."""

    low: float
    high: float

    def read(self, name: str, value: Any) -> tuple[float, ...]:
        pieces = split_list(value) if isinstance(value, str | list | tuple) else [value]
        numbers = [None] if pieces is None else [number(piece) for piece in pieces]

        valid = tuple(one for one in numbers if one is not None and self.low <= one <= self.high)
        if len(valid) < len(numbers):
            allowed = f"between {self.low:g} and {self.high:g}: a number, comma-separated numbers or a list"
            raise RequestError(name, value, allowed)
        return valid

    def schema(self) -> Schema:
        one = Number(self.low, self.high).schema()["anyOf"]
        several = pattern(rf"{NUMBER}(\s*,\s*{NUMBER})*")
        return {"anyOf": [one[0], several, {"type": "array", "items": {"anyOf": one}}]}


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
                pattern(f"{WHOLE}|{any_case(_RANDOM)}"),
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
        return {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, pattern(any_case((*_YES, *_NO)))]}
