"""What is in a folder of downloads: every file and folder that could be a model or a part of one, identified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from intarsia.adding.add import visible_entries
from intarsia.checkpoints.identified import Identified
from intarsia.checkpoints.probe import PICKLED, identify
from intarsia.errors import WeightsError
from intarsia.registry.paths import entry_with_path
from intarsia.registry.registry import Registry
from intarsia.registry.usable import section_of

__all__ = ["Sight", "scan"]

# Files that tell a folder which is one entry as a whole.
_MARKS = ("model_index.json", "ip_adapter.safetensors", "adapter_model.safetensors")
_SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One file or folder that was found.

    Attributes:
        found: None where it cannot be read.
        id: of the entry that has it already; "" without one.
        problem: why it cannot be added as it is; "" where it can.
    """

    path: Path
    found: Identified | None = None
    id: str = ""
    problem: str = ""


def scan(folder: Path, registry: Registry) -> Iterator[Sight]:
    """Look through a folder and those below it; links to folders are not followed. Changes nothing.

    Raises:
        WeightsError: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise WeightsError(f"{folder}: no such folder")
    for path in _candidates(folder):
        yield _sight(path, registry)


def _candidates(folder: Path) -> Iterator[Path]:
    """In the order of their names; hidden folders, and what lies in a folder that is one entry, are passed over."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        is_network = "config.json" in files and any(name.endswith(_SUFFIX) for name in files)
        if is_network or any(mark in files for mark in _MARKS):
            folders.clear()
            yield here
            continue

        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            is_weights = name.lower().endswith((_SUFFIX, *PICKLED))
            if is_weights and not name.startswith("."):
                yield here / name


def _sight(path: Path, registry: Registry) -> Sight:
    try:
        found = identify(path)
    except WeightsError as exc:
        return Sight(path=path, problem=str(exc).removeprefix(f"{path}: "))

    try:
        section = section_of(found)
    except WeightsError as exc:
        return Sight(path=path, found=found, problem=found.refused or str(exc).removeprefix(f"{found.path}: "))
    entry = entry_with_path(visible_entries(registry, section), str(found.path))
    if entry is not None:
        return Sight(path=path, found=found, id=entry.id)
    return Sight(path=path, found=found, problem=_lacks(found))


def _lacks(found: Identified) -> str:
    if "text" in found.missing or "text_2" in found.missing:
        return "it has no text encoders; add it with --text ID"
    return "it has no VAE; add it with --vae ID" if "vae" in found.missing else ""
