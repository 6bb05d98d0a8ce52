"""What was written under the product's former name, ``inlay``: read here, written nowhere.

Environment variables and the configuration folder of that name still work, and say once what to use instead. Files
of a batch and metadata in images are read under both names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

__all__ = ["FORMER", "NAME", "config_file", "former", "under_either_name", "variable"]

NAME, FORMER = "intarsia", "inlay"

Value = TypeVar("Value")
log = logging.getLogger(NAME)
_warned: set[str] = set()


def variable(name: str) -> str | None:
    """The environment variable ``INTARSIA_<name>``, or else that of the former name; None where neither is set.

    An empty value counts as not set. A variable of the former name is warned of, once in a process.
    """
    current, old = f"{NAME.upper()}_{name}", f"{FORMER.upper()}_{name}"
    if os.environ.get(old):
        _warn_once(f"{old} is the former name of {current}: set {current} instead")
    return os.environ.get(current) or os.environ.get(old) or None


def config_file(name: str) -> Path | None:
    """A file in the user's configuration folder, or else in the folder of the former name; None where neither is."""
    from platformdirs import user_config_path

    current, old = (user_config_path(folder) / name for folder in (NAME, FORMER))
    if current.is_file():
        return current
    if not old.is_file():
        return None
    _warn_once(f"{old}: this configuration folder has its former name; move the file to {current}")
    return old


def former(name: str) -> str:
    """``.intarsia-outputs`` → ``.inlay-outputs``."""
    return name.replace(NAME, FORMER)


def under_either_name(entries: Mapping[str, Value]) -> Value | None:
    """The entry called ``intarsia``, or else the one of the former name."""
    return entries.get(NAME, entries.get(FORMER))


def _warn_once(sentence: str) -> None:
    if sentence not in _warned:
        _warned.add(sentence)
        log.warning(sentence)
