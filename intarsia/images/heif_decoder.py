"""The decoder of HEIC, which is no part of Pillow: that of the package pillow-heif, where it is installed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

from intarsia.images.containers import Damaged

__all__ = ["NEEDS_HEIF", "has_heif", "heif_opener"]

NEEDS_HEIF = "HEIC, which needs pip install 'intarsia[heif]'"
"""Why such a file is not read."""


@cache
def has_heif() -> bool:
    """Whether the package is installed."""
    return find_spec("pillow_heif") is not None


def heif_opener() -> Any:
    """The class of such files, called as Pillow calls its own. Pillow's list of formats stays as it is.

    Raises:
        Damaged: the package is not installed.
    """
    if not has_heif():
        raise Damaged(f"is {NEEDS_HEIF}")
    from pillow_heif import HeifImageFile

    return HeifImageFile
