"""A file that is replaced whole, or stays as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from intarsia.errors import OutputError
from intarsia.images.atomic_files import flush_folder

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to write, which takes the place of ``path`` when the block ends; it is on the disk by then.

    UTF-8; halves of surrogate pairs, which JSON can bring in, are written as escapes. After a failure or an
    interruption nothing is left behind, and what was at ``path`` is as it was.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".intarsia-{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except BaseException as exc:  # an interruption too must leave nothing behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(exc, OSError):
            raise OutputError(f"{path} cannot be written: {exc.strerror or exc}") from exc
        raise
