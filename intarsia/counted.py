"""Counts with their noun, for messages: ``1 row``, ``12,400 rows``."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, singular: str, plural: str = "") -> str:
    """The number and the noun that goes with it.

    Args:
        plural: where it is not the singular with an s: ``retries``.
    """
    noun = singular if count == 1 else plural or f"{singular}s"
    return f"{count:,} {noun}"
