"""``--set NAME=VALUE``: any field of a request by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from intarsia.errors import RequestError

__all__ = ["Settings", "with_settings"]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A field by its name, as JSON or text; may be repeated."),
]


def with_settings(fields: Mapping[str, Any], pairs: list[str] | None) -> dict[str, Any]:
    """The fields, and those of ``--set``.

    Raises:
        RequestError: a pair is none, or its field is given by an option of its own too.
    """
    together = dict(fields)
    for name, value in _read(pairs or []).items():
        if name in together:
            raise RequestError("--set", message=f"--set {name} is given by an option of its own too")
        together[name] = value
    return together


def _read(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE``, the value as JSON where it is JSON, else as text."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise RequestError("--set", pair, "NAME=VALUE")
        try:
            fields[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):  # no JSON, or a number with too many digits, or lists too deep
            fields[name.strip()] = value
    return fields
