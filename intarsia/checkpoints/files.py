"""Regular files of a model or a registry, looked at before they are opened.

A named pipe in place of a config would be waited for, a link to ``/dev/zero`` would be read for ever. Links to regular
files are followed, wherever they point: the Hugging Face cache is made of them.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from intarsia.errors import WeightsError, one_line

__all__ = ["MOST_JSON", "is_there", "read_bytes", "read_json", "read_object", "regular"]

MOST_JSON = 64 * 2**20
"""Bytes of a JSON or TOML file that are read at most; the largest published ones, tokenizers, have 4 MB."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_there(path: Path) -> bool:
    """Whether something has that name, of whatever kind; a link counts even where it leads nowhere."""
    return os.path.lexists(path)


def regular(path: Path) -> os.stat_result:
    """Size and time of a regular file, or of the one that a link leads to.

    Raises:
        WeightsError: nothing is there, a link leads nowhere, or it is a folder, a pipe or a device.
    """
    try:
        found = path.stat()
    except FileNotFoundError as exc:
        if path.is_symlink():
            target = os.readlink(path)
            raise WeightsError(f"{path}: a link to {target}, which does not exist") from exc
        # weights may be one file that is a whole model; what else is read lies in a folder
        hint = "" if path.suffix == ".safetensors" else "; a model is a diffusers folder, which has it"
        raise WeightsError(f"{path}: no such file{hint}") from exc
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path}: cannot be read: {one_line(exc)}") from exc
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "something else")
        raise WeightsError(f"{path}: must be a file, not {kind}")
    return found


def read_bytes(path: Path, most: int = MOST_JSON) -> bytes:
    """The whole of a regular file; WeightsError as :func:`regular`, or where it is larger than ``most``."""
    size = regular(path).st_size
    if size > most:
        raise WeightsError(f"{path}: has {size} bytes, and at most {most} are read")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as exc:
        raise WeightsError(f"{path}: cannot be read: {one_line(exc)}") from exc
    if len(content) > most:  # what the kernel makes as it is read has no size
        raise WeightsError(f"{path}: has more than {most} bytes, which are read at most")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; WeightsError where it is missing, unreadable or something else."""
    return read_object(path, read_bytes(path))


def read_object(path: Path, content: bytes) -> dict[str, Any]:
    """A JSON object from the content of a file; ``path`` is for the error."""
    try:
        value = json.loads(content.decode("utf-8"))
    except RecursionError as exc:
        raise WeightsError(f"{path}: not readable as JSON: nested too deeply") from exc
    except ValueError as exc:
        raise WeightsError(f"{path}: not readable as JSON: {one_line(exc)}") from exc
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value
