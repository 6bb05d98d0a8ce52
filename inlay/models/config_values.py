"""Checks on the values of a network's ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
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
