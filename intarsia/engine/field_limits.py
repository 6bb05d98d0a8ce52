"""Sentences about fields, read off their JSON schema: "an integer between 1 and 4"."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel

__all__ = ["describe", "kinds_of"]

_KINDS = {
    "integer": "an integer",
    "number": "a finite number",
    "string": "a string",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
}


@cache
def describe(model: type[BaseModel], field: str) -> str:
    """What ``field`` of ``model`` allows, as the end of a sentence "<field> must be …"; "" if unknown."""
    declared = _schema(model)["properties"].get(field)
    return _sentence(declared) if declared else ""


@cache
def kinds_of(model: type[BaseModel], field: str) -> frozenset[str]:
    """JSON's names of the kinds that a field takes, ``integer`` or ``boolean``; none of one that may be anything.

    Text counts where it may be any: one of a few words, or of a form of its own, is none that is meant by "20".
    """
    declared = _schema(model)["properties"].get(field, {})
    alternatives = declared.get("anyOf", [declared])
    return frozenset(each["type"] for each in alternatives if "type" in each and not each.keys() & {"enum", "pattern"})


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _sentence(schema: dict[str, Any]) -> str:
    if "description" in schema and schema.keys() & {"anyOf", "pattern"}:
        return str(schema["description"])
    if "anyOf" in schema:
        return ", or ".join(text for text in map(_sentence, schema["anyOf"]) if text)
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = _KINDS.get(schema.get("type", ""), "")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None or high is None:
        return kind
    return f"{kind} between {_number(low)} and {_number(high)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
