"""Axes of a comparison as text: ``steps=10,20,30``.

Commas separate values, except in fields whose values hold commas themselves (prompts, images): there each text is one
value, and ``--axis`` is repeated. A JSON list says its values itself, for names with commas and lists within lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from intarsia.comparing.axes import Axis
from intarsia.engine.field_limits import kinds_of
from intarsia.engine.field_names import hint_for
from intarsia.engine.loose_values import loosened
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError, named
from intarsia.schedulers.table_json import read_table

__all__ = ["axes_of", "settings_of", "values_of"]

_WHOLE = ("prompt", "negative_prompt", "init_image", "mask_image", "extend")
"""Fields whose values hold commas: free text, URLs and data URIs, and sides of an image."""

_LISTS = ("loras", "embeddings")


def settings_of(settings: Iterable[str]) -> dict[str, list[Any]]:
    """The values that ``--axis`` gives to fields; several of one name are one axis.

    Raises:
        RequestError: no NAME=VALUE, a name that is no field, or an empty value.
    """
    found: dict[str, list[Any]] = {}
    for setting in settings:
        written, equals, text = setting.partition("=")
        name = written.strip().replace("-", "_")
        if not equals:
            raise RequestError("--axis", setting, "NAME=VALUE,VALUE")
        known = sorted(InpaintRequest.model_fields)
        if name not in known:
            hint = hint_for(name, known) or f"known fields: {', '.join(known)}"
            raise RequestError("--axis", message=f"--axis {named(name)} is not a field of a request: {hint}")
        found.setdefault(name, []).extend(values_of(name, text))
    return found


def axes_of(
    compared: Mapping[str, list[Any]], options: Mapping[str, Any], order: Sequence[str]
) -> tuple[dict[str, Any], list[Axis]]:
    """The fields that all cells have, and the axes in the order of the command line.

    Args:
        compared: values by ``--axis``, of :func:`settings_of`.
        options: fields by options of their own; one whose text has several values is an axis too.
        order: names of options as they were given, ``axis`` among them.

    Raises:
        RequestError: a field that is given in both ways, or an empty value.
    """
    for name in compared:
        if name in options:
            raise RequestError("--axis", message=f"--axis {name} is given by an option of its own too")

    fields = dict(options)
    several: dict[str, list[Any]] = {}
    for name, value in options.items():
        values = values_of(name, value) if isinstance(value, str) else [value]
        if len(values) > 1:
            several[name] = values
            del fields[name]
        elif isinstance(value, str):
            fields[name] = values[0]

    names: list[str] = []
    for option in order:
        names += compared if option == "axis" else [option]
    names += several  # whose options have other names than the field
    found = {**several, **compared}
    axes = [Axis(name, tuple(found[name])) for name in dict.fromkeys(names) if name in found]
    return loosened(InpaintRequest, fields), axes


def values_of(name: str, text: str) -> list[Any]:
    """The values of a field that a text lists, as a request has them.

    Raises:
        RequestError: nothing between two commas, or a list in JSON without a value.
    """
    if name in _WHOLE:
        return [text]
    values = _json_list(text)
    if values is None:
        values = [part.strip() for part in text.split(",")]
    if not values or (len(values) > 1 and "" in values):
        raise RequestError(name, text, "values with commas between them, none of them empty")
    return [_value(name, value) for value in values]


def _json_list(text: str) -> list[Any] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, list) else None


def _value(name: str, value: Any) -> Any:
    """One value: ``none`` is null or no list at all, a LoRA's name a list of one, and a table's file the table."""
    is_none = isinstance(value, str) and value.lower() == "none"
    if name in _LISTS:
        if is_none or value is None:
            return []
        return value if isinstance(value, list) else [value]
    if name == "table" and isinstance(value, str) and not is_none:
        return read_table(value)
    if is_none and "null" in kinds_of(InpaintRequest, name):
        return None
    return loosened(InpaintRequest, {name: value})[name]
