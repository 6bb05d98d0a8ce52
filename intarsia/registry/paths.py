"""Entries made on the fly for the path of a file or folder that no registry file declares."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from intarsia.checkpoints.identified import Identified
from intarsia.errors import WeightsError, one_line, shown
from intarsia.registry.entries import ModelEntry, PartEntry
from intarsia.registry.families import FAMILIES
from intarsia.registry.files import identified
from intarsia.registry.usable import SECTIONS, noun, one, section_of

__all__ = ["entry_with_path", "id_of", "is_path", "model_of_path", "part_of_path"]

E = TypeVar("E", bound=ModelEntry | PartEntry)

_SUFFIX = ".safetensors"
# What an error advises by the section that a file belongs into.
_OPTIONS = {"models": "--model", "vaes": "--vae", "loras": "--lora", "ip_adapters": "--ip-adapter"}


def is_path(name: str) -> bool:
    """Whether a name that is no id was meant as a path; whether anything is there is another question."""
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    has_separator = any(separator in name for separator in separators)
    return has_separator or name.startswith("~") or name.lower().endswith(_SUFFIX)


def entry_with_path(entries: Iterable[E], name: str) -> E | None:
    """The entry that declares this path, however it is written; None where none does."""
    real = os.path.realpath(_expanded(name))
    return next((entry for entry in entries if os.path.realpath(entry.path) == real), None)


def model_of_path(name: str) -> ModelEntry:
    """A model in a checkpoint or a folder, as :mod:`intarsia.adding` would declare it.

    Raises:
        WeightsError: nothing is there, it is no model, or one that cannot be used.
    """
    path, found = _usable(name, "models")
    if not found.family:
        raise WeightsError(f"{path}: of which family it is cannot be told; add it with --family")
    return ModelEntry(
        id=id_of(path),
        family=found.family,
        path=path,
        format="diffusers" if found.kind == "folder" else "single",
        size=FAMILIES[found.family].native_size,
    )


def part_of_path(kind: str, name: str) -> PartEntry:
    """A VAE, LoRA, IP adapter or other part in a file or a folder; WeightsError as :func:`model_of_path`."""
    path, found = _usable(name, kind)
    return PartEntry(kind=kind, id=id_of(path), path=found.path, families=found.families)


def id_of(path: Path) -> str:
    """The id that a file's or a folder's name gives: lower case, and only what needs no quotes on a command line."""
    name = path.name[: -len(_SUFFIX)] if path.name.lower().endswith(_SUFFIX) else path.name
    plain = unicodedata.normalize("NFKC", name).lower()
    words = re.sub(r"[^\w.+]+|_", "-", plain)
    return re.sub("-{2,}", "-", words).strip("-.") or "model"


def _usable(name: str, section: str) -> tuple[Path, Identified]:
    """Path and kind, once it is of the section."""
    path = _expanded(name)
    if not os.path.exists(path):
        raise WeightsError(f"{path}: no such file or folder, and the registry has no {noun(section)} of that name")

    found = identified(path)
    belongs = SECTIONS.get(found.kind)
    if belongs != section:
        option = _OPTIONS.get(belongs or "", "")
        advice = f"; give it as {option}" if option else ""
        raise WeightsError(f"{path}: is {found.what}, not {one(section)}{advice}")
    section_of(found)
    return path, found


def _expanded(name: str) -> Path:
    if "\0" in name:
        raise WeightsError(f"{shown(name)}: must be a path")
    try:
        return Path(name).expanduser()
    except RuntimeError as exc:  # a user that this machine does not have
        raise WeightsError(f"{shown(name)}: {one_line(exc)}") from exc
