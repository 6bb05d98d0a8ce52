"""A table as JSON, the form in which one of one's own is kept in a file and sent with a request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from intarsia.errors import RequestError, one_line, shown
from intarsia.schedulers.tables import Array, Table

__all__ = ["MOST_ROWS", "MOST_SLOTS", "checked_table", "read_table", "table_from_json", "table_hash", "table_to_json"]

SCHEMA = 1
MOST_ROWS = 300
"""Evaluations of one image: twice the steps that a request may have."""

MOST_SLOTS = 16
"""Arrays of an image's latents that a solver may keep; the documented ones keep at most 5."""

_LONGEST_NAME = 100
_NAMES = tuple(field.name for field in fields(Table))
_LISTS = ("timesteps", "input_scale", "known_image", "known_noise", "langevin_snr", "sigmas")
_NEEDED = ("name", "timesteps", "matrix", "start_noise", "known_image", "known_noise", "sigmas")


def table_to_json(table: Table) -> dict[str, Any]:
    """``table`` as an object of JSON: every field under its name, and ``schema``."""
    values: dict[str, Any] = {"schema": SCHEMA}
    for name in _NAMES:
        value = getattr(table, name)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        values[name] = list(value) if isinstance(value, tuple) else value
    return values


def table_from_json(values: object) -> Table:
    """The table of an object of JSON, as :func:`table_to_json` gives it, or shorter.

    Only ``name``, ``timesteps``, ``matrix``, ``start_noise``, ``known_image``, ``known_noise`` and ``sigmas`` are
    needed. The others are then: ``steps`` as many as there are rows, ``input_scale`` 1, ``start_image`` 0, no Langevin
    rows, all rows guided, ``strength`` 1, no notes; ``uses_noise`` follows from the matrix.

    Raises:
        RequestError: ``table`` or a part of it, its value and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise RequestError("table", values, "an object of JSON with the fields of a table")
    _check_names(values)

    rows = _count(values["timesteps"])
    given = {name: values[name] for name in _NAMES if values.get(name) is not None}
    filled: dict[str, Any] = {
        "steps": rows,
        "karras": False,
        "karras_applied": False,
        "input_scale": [1.0] * rows,
        "start_image": 0.0,
        "langevin_snr": [0.0] * rows,
        "guided": [True] * rows,
        "notes": (),
        "strength": 1.0,
    } | given

    matrix = _numbers("matrix", filled["matrix"], dimensions=3)
    filled["matrix"] = matrix
    filled.setdefault("uses_noise", (matrix[:, :, -1] != 0).any(axis=1).tolist())
    for name in _LISTS:
        filled[name] = _numbers(name, filled[name], dimensions=1)
    for name in ("uses_noise", "guided"):
        filled[name] = _flags(name, filled[name])
    for name in ("start_image", "start_noise", "strength"):
        filled[name] = float(_numbers(name, filled[name], dimensions=0))
    filled["notes"] = _texts(filled["notes"])
    return checked_table(Table(**filled))


def read_table(path: str | Path) -> object:
    """What a file holds as JSON, for :func:`table_from_json` to look at.

    Raises:
        RequestError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except RecursionError as exc:
        raise RequestError("table", message=f"table: {path} is nested too deeply") from exc
    except (OSError, ValueError) as exc:  # ValueError: not UTF-8, not JSON, a name with a NUL
        reason = getattr(exc, "strerror", None) or one_line(exc)
        raise RequestError("table", message=f"table: {path} cannot be read as JSON: {reason}") from exc


def checked_table(table: Table) -> Table:
    """``table``, if a backend can run it; RequestError, which names the part, where shapes or numbers are wrong."""
    expected = f"text of 1 to {_LONGEST_NAME} printable characters"
    if not isinstance(table.name, str) or not 1 <= len(table.name) <= _LONGEST_NAME or not table.name.isprintable():
        raise RequestError("table.name", table.name, expected)
    for name in ("karras", "karras_applied"):
        if not isinstance(getattr(table, name), bool):
            raise RequestError(f"table.{name}", getattr(table, name), "true or false")
    if isinstance(table.steps, bool) or not isinstance(table.steps, int) or not 1 <= table.steps <= 1000:
        raise RequestError("table.steps", table.steps, "a whole number between 1 and 1000")
    if not 0 < table.strength <= 1:
        raise RequestError("table.strength", table.strength, "above 0 and at most 1")
    _check_shapes(table)
    _check_noise(table)
    return table


def table_hash(table: Table) -> str:
    """Hash of everything in a table: equal tables, equal hashes."""
    text = json.dumps(table_to_json(table), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_names(values: Mapping[str, Any]) -> None:
    for name in values:
        if name not in ("schema", *_NAMES):
            message = f"table.{str(name)[:60]} is not a field of a table: it has {', '.join(_NAMES)}"
            raise RequestError("table", message=message)
    schema = values.get("schema", SCHEMA)
    if schema != SCHEMA or isinstance(schema, bool):
        raise RequestError("table.schema", schema, str(SCHEMA))
    for name in _NEEDED:
        if values.get(name) is None:
            raise RequestError("table", message=f"table.{name} is missing: a table needs {', '.join(_NEEDED)}")


def _count(timesteps: object) -> int:
    rows = len(timesteps) if isinstance(timesteps, list | tuple) else 0
    if not 1 <= rows <= MOST_ROWS:
        raise RequestError("table.timesteps", timesteps, f"a list of 1 to {MOST_ROWS} numbers, one for each row")
    return rows


def _check_shapes(table: Table) -> None:
    """Every array has a row for each evaluation, and numbers that backends can hold."""
    rows = len(table.timesteps) if table.timesteps.ndim == 1 else 0
    if not 1 <= rows <= MOST_ROWS:
        raise RequestError("table.timesteps", message=f"table.timesteps must be 1 to {MOST_ROWS} numbers, not {rows}")

    slots = table.matrix.shape[1] if table.matrix.ndim == 3 else 0
    if not 1 <= slots <= MOST_SLOTS:
        message = (
            f"table.matrix must be [rows, slots, slots + 2] with 1 to {MOST_SLOTS} slots, not {table.matrix.shape}"
        )
        raise RequestError("table.matrix", message=message)

    per_row = ("input_scale", "uses_noise", "known_image", "known_noise", "langevin_snr", "guided")
    shapes: dict[str, tuple[int, ...]] = {"matrix": (rows, slots, slots + 2), "sigmas": (rows + 1,)}
    shapes |= dict.fromkeys(per_row, (rows,))
    for name, shape in shapes.items():
        array = getattr(table, name)
        if array.shape != shape:
            wanted, found = (" x ".join(map(str, each)) for each in (shape, array.shape))
            raise RequestError(f"table.{name}", message=f"table.{name} must have {wanted} entries, not {found}")

    for name in (*_LISTS, "matrix"):
        with np.errstate(over="ignore"):
            is_finite = np.isfinite(np.asarray(getattr(table, name)).astype(np.float32)).all()
        if not is_finite:
            raise RequestError(f"table.{name}", message=f"table.{name} must be finite numbers that float32 can hold")
    for name in ("start_image", "start_noise"):
        if not abs(getattr(table, name)) < 1e30:
            raise RequestError(f"table.{name}", getattr(table, name), "a finite number that float32 can hold")


def _check_noise(table: Table) -> None:
    """Fresh noise is drawn where a row uses it, and Langevin rows have one slot."""
    used = (table.matrix[:, :, -1] != 0).any(axis=1)
    missing = np.flatnonzero(used & ~table.uses_noise)
    if len(missing):
        message = f"table.uses_noise must be true for row {missing[0]}, whose matrix has a share of fresh noise"
        raise RequestError("table.uses_noise", message=message)
    if (table.langevin_snr != 0).any() and table.state_slots != 1:
        raise RequestError("table.langevin_snr", message="table.langevin_snr must be 0 in a table of several slots")
    if (table.sigmas < 0).any() or (table.input_scale == 0).any():
        raise RequestError("table.sigmas", message="table.sigmas must not be negative, nor table.input_scale 0")


def _numbers(name: str, values: object, *, dimensions: int) -> Array:
    """``values`` as float64, or RequestError: no numbers, or lists of unequal lengths."""
    allowed = ("a number", "a list of numbers", "", "a list of rows, each a list of slots, each a list of numbers")
    try:
        array = np.array(values)
    except (ValueError, TypeError, OverflowError, RecursionError):
        array = np.array(None)
    is_number = array.dtype.kind in "iuf" and array.size > 0
    if not is_number or array.ndim != dimensions:
        raise RequestError(f"table.{name}", values, allowed[dimensions])
    return array.astype(np.float64)


def _flags(name: str, values: object) -> Any:
    if not isinstance(values, list | tuple) or not all(isinstance(value, bool) for value in values):
        raise RequestError(f"table.{name}", values, "a list of true and false")
    return np.array(values, dtype=np.bool_)


def _texts(values: object) -> tuple[str, ...]:
    """Remarks: short, and few, as they stand in every result."""
    if not isinstance(values, list | tuple) or len(values) > 10:
        raise RequestError("table.notes", values, "a list of at most 10 texts")
    for value in values:
        if not isinstance(value, str) or len(value) > 500 or not value.isprintable():
            raise RequestError("table.notes", message=f"table.notes holds {shown(value)}: each must be a line of text")
    return tuple(values)
