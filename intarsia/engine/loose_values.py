"""Values of JSON, tables and command lines, where a number may be text and true is "yes", as a request has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intarsia.engine.field_limits import kinds_of
from intarsia.numbers import number, whole

__all__ = ["NO", "YES", "as_flag", "loosened"]

YES, NO = ("yes", "true", "on", "1", "y"), ("no", "false", "off", "0", "n")


def loosened(model: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` of a pydantic model with ``"20"`` and ``20.0`` as 20, ``"yes"`` and 1 as true, where it has such.

    What cannot be read stays as it is, for the model to refuse in its own words.
    """
    values = {str(name): _loose(value, kinds_of(model, str(name))) for name, value in fields.items()}
    if isinstance(values.get("loras"), list | tuple):
        values["loras"] = [_with_number(lora, "strength") for lora in values["loras"]]
    if "ip_adapter" in values:
        values["ip_adapter"] = _with_number(values["ip_adapter"], "scale")
    return values


def as_flag(value: object) -> bool | None:
    """A boolean in any form, None for everything else: true, "yes", "on", 1, "1" and their opposites."""
    if isinstance(value, int | float) and value in (0, 1):  # True and False among them
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in YES or word in NO:
        return word in YES
    return None


def _loose(value: Any, kinds: frozenset[str]) -> Any:
    """A value of a field that takes these kinds; text is left alone where the field takes text."""
    if "string" in kinds or isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    parsed: int | float | bool | None = None
    if "integer" in kinds:
        parsed = whole(value)
    elif "number" in kinds:
        parsed = number(value)
    if parsed is None and "boolean" in kinds:
        parsed = as_flag(value)
    return value if parsed is None else parsed


def _with_number(value: Any, name: str) -> Any:
    """An object in which a number may be text."""
    if not isinstance(value, Mapping) or not isinstance(value.get(name), str):
        return value
    parsed = number(value[name])
    return value if parsed is None else {**value, name: parsed}
