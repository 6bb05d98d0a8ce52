"""The user's ``weights.toml``, changed by one edit at a time: comments stay, a crash leaves the old or the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from intarsia.checkpoints.files import read_bytes
from intarsia.errors import WeightsError, one_line
from intarsia.former_name import NAME, config_file, variable
from intarsia.images.atomic_files import edit_lock, naming, place
from intarsia.registry.toml_file import SCHEMA

__all__ = ["edited", "user_file"]


def user_file(weights: Path | None) -> Path:
    """The file that entries are added to: the one that is named, or else the user's own, which need not be there yet.

    Raises:
        WeightsError: the user's file lies in the folder of the product's former name, where nothing is written.
    """
    named = weights or variable("WEIGHTS")
    if named:
        return Path(named).expanduser()

    from platformdirs import user_config_path

    current = user_config_path(NAME) / "weights.toml"
    found = config_file("weights.toml")
    if found is not None and found != current:
        raise WeightsError(f"{found}: is in the folder of the former name; move it to {current} first")
    return current


@contextlib.contextmanager
def edited(path: Path) -> Iterator[Any]:
    """The file as a TOML document, written back if the block ends without an error and has changed it.

    Others that edit it at the same time wait. A file that is not there begins with its schema alone.

    Raises:
        WeightsError: it is no TOML.
        OutputError: it cannot be written.
    """
    target = Path(os.path.realpath(path))  # a link stays one
    with naming(path):
        target.parent.mkdir(parents=True, exist_ok=True)

    with edit_lock(path):
        before = read_bytes(target).decode() if target.exists() else f"schema = {SCHEMA}\n"
        try:
            document = tomlkit.parse(before)
        except TOMLKitError as exc:
            raise WeightsError(f"{path}: cannot be read as TOML: {one_line(exc)}") from exc

        yield document
        after = tomlkit.dumps(document)
        if after != before or not target.exists():
            place([(target, after.encode())], overwrite=True)
