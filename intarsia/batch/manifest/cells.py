"""One cell of a table → the value of a request's field, of types that JSON has.

Tables come from spreadsheets and data frames, which store whole numbers as floats as soon as a cell of the column is
empty, write "nan" into it, or shorten what is long; JSON lines are taken as they are.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from intarsia.batch.manifest.line import KEYS
from intarsia.errors import shown

__all__ = ["FLAGS", "IMAGE_COLUMNS", "TEXTS", "WHOLE", "CellError", "plain", "written"]

# Columns whose cells are text whatever they look like: a prompt of "42" is no number.
TEXTS = {
    "id", "output", "prompt", "negative_prompt", "model", "init_image", "mask_image", "scheduler", "algorithm_type",
    "vae", "safety_action", "mask_source", "masked_content", "prompt_syntax", "spacing", "solver_type",
    "final_sigmas_type",
}  # fmt: skip
WHOLE = {
    "width", "height", "samples", "steps", "clip_skip", "seed", "mask_dilate", "mask_padding", "mask_min_area",
    "solver_order",
}  # fmt: skip
FLAGS = {
    "fit_output", "karras_sigmas", "safety_checker", "enhance_prompt", "invert_mask", "color_match", "mask_fill_holes",
    "soft_mask",
}  # fmt: skip
# Columns whose cells may hold a file's bytes; ``image`` is that of an IP adapter.
IMAGE_COLUMNS = {"init_image", "mask_image", "image"}

_BOOLS = {"true": True, "false": False}
_ABSENT = {"nan", "nat", "null", "none", "<na>", "n/a", "#n/a"}
_LARGEST_EXACT = 2**53  # beyond it a float64 does not hold every whole number
_COMMA = re.compile(r"[-+]?\d+(,\d+)+|[-+]?\d{1,3}(\.\d{3})+,\d+")
_SHORTENED = re.compile(r"\d+([.,]\d+)?[eE]\+?\d+")


class CellError(ValueError):
    """What a cell holds is the value of no field; the message names the column."""


def written(name: str, text: str) -> Any:
    """What the text of a cell means: text, true or false in any case, a number or JSON; None for an empty one.

    Anything else is left for the request to refuse.
    """
    if name in TEXTS or name not in KEYS:
        return text
    text = text.strip()
    if _COMMA.fullmatch(text):
        raise CellError(f"{name} must be a number with a point, as in 7.5, and no other marks, not {shown(text)}")
    if name == "seed" and _SHORTENED.fullmatch(text):
        raise CellError(f"{name} {shown(text)} was shortened by a spreadsheet: format its column as whole numbers")
    if text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    if text.lower() in _ABSENT:
        return None

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return plain(name, value)


def plain(name: str, value: Any) -> Any:
    """What a typed value means.

    NaN is an empty cell, 20.0 steps are 20, structs are without their nulls, an image's bytes are a data URI, dates
    and the like in columns of text are text.

    Raises:
        CellError: a type that no request takes, or lists too deep.
    """
    try:
        return _plain(name, value)
    except RecursionError:
        raise CellError(f"{name} is nested too deeply") from None


def _plain(name: str, value: Any) -> Any:
    if name in IMAGE_COLUMNS and isinstance(value, bytes | dict | list):
        return _image(name, value)
    if isinstance(value, date | time | timedelta | Decimal | UUID) and name in TEXTS:
        return str(value)
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(name, value)
    if isinstance(value, dict):
        return {key: _plain(key, inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain("", inner) for inner in value]
    if value is None or isinstance(value, str | bool):
        return value
    raise CellError(f"{name or 'a list'} holds a value of type {type(value).__name__}, which no request takes")


def _number(name: str, value: float) -> float | bool | None:
    if math.isnan(value):
        return None
    if name in FLAGS and value in (0, 1):
        return bool(value)

    if not isinstance(value, float) or name not in WHOLE | {"id"} or not value.is_integer():
        return value
    if abs(value) > _LARGEST_EXACT:
        raise CellError(f"{name} {value:.0f} was stored as a float, which has lost digits: store whole numbers or text")
    return int(value)


def _image(name: str, value: bytes | Mapping[str, Any] | list[Any]) -> str | None:
    """A file's bytes, or its path, also as the datasets library writes them: a struct of both, or a list of one."""
    if isinstance(value, list):
        if len(value) > 1:
            raise CellError(f"{name} holds {len(value)} images; a row has one")
        return plain(name, value[0]) if value else None
    if isinstance(value, bytes):
        return _data_uri(value)

    if not value.keys() <= {"bytes", "path"}:
        raise CellError(f"{name} holds a struct of {', '.join(map(shown, value))}; an image's has bytes and path")
    data, path = value.get("bytes"), value.get("path")
    if isinstance(data, bytes):
        return _data_uri(data)
    if path is None or isinstance(path, str):
        return path or None
    raise CellError(f"{name} holds a path of type {type(path).__name__}, which is no text")


def _data_uri(data: bytes) -> str:
    return f"data:;base64,{base64.b64encode(data).decode('ascii')}"
