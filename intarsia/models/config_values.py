"""Checks on the values of a network's ``config.json``. Nothing here needs torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from intarsia.errors import WeightsError, shown

__all__ = ["MOST", "flag", "number", "refuse", "whole", "wholes"]

MOST = 2**20
"""The largest whole number that is plausible in a network's config: widths, counts, sizes."""


def refuse(kind: str, config: Mapping[str, Any], fixed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise a WeightsError for the first key of ``config`` whose value is none of those in ``fixed``.

    The first of each key's values stands for an absent key.
    """
    for key, allowed in fixed.items():
        value = config.get(key, allowed[0])
        is_list = isinstance(value, list | tuple) and len(value) > 0
        entries = value if is_list else [value]
        if any(entry not in allowed for entry in entries):
            listed = " or ".join(repr(entry) for entry in allowed)
            raise _wrong(kind, key, value, listed)


def whole(
    kind: str, config: Mapping[str, Any], key: str, default: int | None, *, least: int = 1, most: int = MOST
) -> int:
    """A whole number of a config. An absent key, or null, is the default; without a default the key is required.

    Args:
        kind: kind of the config, for the error.

    Raises:
        WeightsError: anything but a whole number from ``least`` to ``most``.
    """
    value = config.get(key)
    value = default if value is None else value
    if not _is_whole(value, least, most):
        raise _wrong(kind, key, value, f"a whole number from {least} to {most}")
    return int(value)  # type: ignore[arg-type]


def wholes(
    kind: str, config: Mapping[str, Any], key: str, default: Sequence[int], *, count: int | None = None, least: int = 1
) -> tuple[int, ...]:
    """Whole numbers, one for each level; a single one stands for all of ``count`` levels.

    Raises:
        WeightsError: anything else, or another number of them than ``count``.
    """
    value = config.get(key)
    value = default if value is None else value
    if count is not None and _is_whole(value, least, MOST):
        value = [value] * count

    are_whole = isinstance(value, list | tuple) and all(_is_whole(entry, least, MOST) for entry in value)
    if not are_whole or not value or (count is not None and len(value) != count):
        levels = f"each of {count} levels" if count is not None else "each level"
        raise _wrong(kind, key, value, f"a whole number from {least} to {MOST}, or one for {levels}")
    return tuple(value)


def number(
    kind: str, config: Mapping[str, Any], key: str, default: float, *, positive: bool = True, most: float = 1e6
) -> float:
    """A finite number; an absent key, or null, is the default. WeightsError otherwise."""
    value = config.get(key)
    value = default if value is None else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_in_range = is_number and math.isfinite(value) and abs(value) <= most
    if not is_in_range or (positive and value <= 0):
        allowed = "a positive number" if positive else "a number"
        raise _wrong(kind, key, value, f"{allowed} up to {most:g}")
    return float(value)


def flag(kind: str, config: Mapping[str, Any], key: str, default: bool) -> bool:
    """true or false; an absent key, or null, is the default. WeightsError otherwise."""
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise _wrong(kind, key, value, "true or false")
    return value


def _is_whole(value: object, least: int, most: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return least <= value <= most


def _wrong(kind: str, key: str, value: object, allowed: str) -> WeightsError:
    return WeightsError(f"{kind} config: {key} must be {allowed}, not {shown(value)}")
