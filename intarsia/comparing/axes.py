"""Axes of a comparison: fields with several values each, and the requests of all their combinations, as plain data."""

from __future__ import annotations

import itertools
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from intarsia.engine.field_names import hint_for
from intarsia.engine.representations import brief
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError, named
from intarsia.numbers import is_random_seed

__all__ = ["MAX_CELLS", "Axis", "combined", "label_of", "plain", "split", "with_seeds"]

MAX_CELLS = 200
"""Most requests of one comparison."""

# A value of these fields is a list itself, so that only a list of lists is an axis.
_LISTS = ("loras", "embeddings")


@dataclass(frozen=True)
class Axis:
    """A field of a request and the values that it takes, one after the other."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands at each value: all different, as values of equal labels are numbered."""
        labels = tuple(label_of(value) for value in self.values)
        if len(set(labels)) == len(labels):
            return labels
        return tuple(f"{number}: {label}" for number, label in enumerate(labels, 1))


def split(fields: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Axis, ...]]:
    """Fields with one value, and the axes: fields whose value is a list, a tuple or a range, in their order."""
    axes = [Axis(name, tuple(value)) for name, value in fields.items() if _is_axis(name, value)]
    names = {axis.name for axis in axes}
    return {name: value for name, value in fields.items() if name not in names}, tuple(axes)


def with_seeds(fields: Mapping[str, Any], axes: Sequence[Axis]) -> tuple[dict[str, Any], tuple[Axis, ...]]:
    """The same with every seed that is to be drawn drawn: one for all cells, so that they differ by the axes alone."""
    settled = tuple(Axis(axis.name, tuple(map(_seed, axis.values))) if axis.name == "seed" else axis for axis in axes)
    if any(axis.name == "seed" for axis in axes):
        return dict(fields), settled
    return {**fields, "seed": _seed(fields.get("seed"))}, settled


def combined(fields: Mapping[str, Any], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """The fields of each cell's request: every combination of the axes' values, the last axis changing first.

    Raises:
        RequestError: no axis, one that is no field of a request or has no value, or too many cells.
    """
    _check(axes)
    names = [axis.name for axis in axes]
    products = itertools.product(*(axis.values for axis in axes))
    return [{**fields, **dict(zip(names, values, strict=True))} for values in products]


def label_of(value: Any) -> str:
    """A value as a person reads it: ``none``, ``yes``, ``7.5``, ``ink:0.5 + wash:1``, a table's name."""
    name = None if isinstance(value, os.PathLike) else getattr(value, "name", None)
    value = name if isinstance(name, str) else plain(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str):
        return value or "(empty)"
    if isinstance(value, list):
        return " + ".join(map(label_of, value)) or "none"
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return str(value["name"])
    if isinstance(value, dict) and "id" in value:
        strength = value.get("strength", value.get("scale"))
        return str(value["id"]) if strength is None else f"{value['id']}:{strength:.12g}"
    return str(value)


def plain(value: Any) -> Any:
    """A value as JSON has it; images and other objects by their type and size, in short."""
    if isinstance(value, BaseModel):
        return plain({name: getattr(value, name) for name in type(value).model_fields})
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return brief(value)


def _is_axis(name: str, value: Any) -> bool:
    if not isinstance(value, list | tuple | range):
        return False
    return name not in _LISTS or (bool(value) and all(isinstance(inner, list | tuple) for inner in value))


def _seed(value: Any) -> Any:
    return secrets.randbits(32) if value is None or is_random_seed(value) else value


def _check(axes: Sequence[Axis]) -> None:
    if not axes:
        message = "nothing is compared: give a field several values, as steps=[10, 20] or --steps 10,20"
        raise RequestError("axes", message=message)
    known = sorted(InpaintRequest.model_fields)
    for axis in axes:
        if axis.name not in known:
            hint = hint_for(axis.name, known) or f"known fields: {', '.join(known)}"
            raise RequestError(axis.name, message=f"{named(axis.name)} is not a field of a request: {hint}")
        if not axis.values:
            raise RequestError(axis.name, message=f"{axis.name} is compared by an empty list: give it a value")

    cells = math.prod(len(axis.values) for axis in axes)
    if cells > MAX_CELLS:
        sizes = " x ".join(f"{len(axis.values)} {axis.name}" for axis in axes)
        raise RequestError("axes", message=f"{sizes} are {cells} cells: a comparison has at most {MAX_CELLS}")
