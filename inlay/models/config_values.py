"""A network's ``config.json``: reading it, and checks on its values. Nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlay.errors import WeightsError, shown


def refuse(kind: str, config: Mapping[str, Any], fixed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise a WeightsError for the first key of ``config`` whose value is none of those in ``fixed``.

    The first of each key's values stands for an absent key.
    """
    for key, allowed in fixed.items():
        value = config.get(key, allowed[0])
        every = value if isinstance(value, list | tuple) and value else [value]
        if any(v not in allowed for v in every):
            choice = " or ".join(repr(v) for v in allowed)
            raise WeightsError(f"{kind} config: {key} must be {choice}, not {shown(value)}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; WeightsError where it is missing, unreadable or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise WeightsError(f"{path}: no such file; a model is a diffusers folder, which has it") from exc
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path}: not readable as JSON: {one_line(exc)}") from exc
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def one_line(exc: BaseException) -> str:
    """The first line of an exception's message, or its type's name."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
