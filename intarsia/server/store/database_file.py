"""The file of a SQLite database: whether it is still the one that the server has open."""

from __future__ import annotations

import os
from pathlib import Path

from intarsia.errors import one_line
from intarsia.server.store.database import StoreError

__all__ = ["DatabaseFile"]


class DatabaseFile:
    """Device and inode of a file that is open.

    A file that is removed or replaced stays where it is for whoever has it open: jobs would be written into it, and be
    lost with the process.

    Args:
        path: None for a database without a file.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._identity = _identity(path)

    def check(self) -> None:
        """Raise StoreError where another file, or none, has its name now."""
        if _identity(self._path) == self._identity:
            return
        assert self._path is not None
        state = "replaced" if self._path.exists() else "removed"
        raise StoreError(f"the file {self._path.name} was {state} while the server had it open: restart the server")


def _identity(path: Path | None) -> tuple[int, int] | None:
    """None where there is no file."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(f"the file {path.name} cannot be looked at: {one_line(exc)}") from exc
    return status.st_dev, status.st_ino
