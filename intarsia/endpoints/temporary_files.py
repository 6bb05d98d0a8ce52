"""The folder for images that are kept for a day: in the user's cache, readable by the user alone."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

__all__ = ["KEPT_HOURS", "sweep", "temporary_folder"]

KEPT_HOURS = 24

# Only what we wrote ourselves is ever removed.
_OURS = re.compile(r"\d+(-\d)?\.png")


def temporary_folder() -> Path:
    """The folder, made where it is missing; OSError where it cannot be."""
    folder = _place()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def sweep(now: float | None = None) -> list[Path]:
    """Remove our images that are older than :data:`KEPT_HOURS`; returns what was removed."""
    oldest = (time.time() if now is None else now) - KEPT_HOURS * 3600
    removed = []
    # Another process may sweep at the same time, and what cannot be removed now is met again next time.
    with contextlib.suppress(OSError):
        for path in list(_place().iterdir()):
            if _OURS.fullmatch(path.name) and path.lstat().st_mtime < oldest:
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def _place() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("intarsia") / "temporary"
