"""Copies of models that ``models add --copy`` made, in a folder of our own; nothing else is ever removed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from intarsia.errors import OutputError
from intarsia.former_name import NAME

__all__ = ["copy_in", "is_own", "own_folder", "remove_own"]


def own_folder() -> Path:
    """Where copies go: the user's folder for data of applications."""
    from platformdirs import user_data_path

    return user_data_path(NAME) / "models"


def copy_in(source: Path, section: str, identifier: str) -> Path:
    """Copy a file or a folder, whole or not at all; returns where it is.

    Raises:
        OutputError: it cannot be written, or that place is taken.
    """
    suffix = "" if source.is_dir() else source.suffix
    target = own_folder() / section / f"{identifier}{suffix}"
    temporary = target.with_name(f".{NAME}-{secrets.token_hex(8)}.part")
    if os.path.lexists(target):
        raise OutputError(f"{target} is already there")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, temporary)
        else:
            shutil.copy2(source, temporary)
        os.replace(temporary, target)
    except BaseException as exc:  # an interruption too must leave nothing behind
        with contextlib.suppress(OSError):
            _remove(temporary)
        if isinstance(exc, OSError | shutil.Error):
            raise OutputError(f"{target} cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc
        raise
    return target


def is_own(path: Path) -> bool:
    """Whether a path is one of our copies."""
    own = os.path.realpath(own_folder())
    return os.path.realpath(path).startswith(own + os.sep)


def remove_own(path: Path) -> bool:
    """Remove one of our copies; False, and nothing is touched, where the path is not one."""
    if not is_own(path) or path.is_symlink():
        return False
    try:
        _remove(path)
    except OSError as exc:
        raise OutputError(f"{path} cannot be removed: {exc.strerror or exc}") from exc
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
