"""Add a file or a folder to the registry: identified, hashed once, and declared with its pins."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from intarsia.adding.declaration import Pins, declared, pins_of, write_entry, write_pins
from intarsia.adding.options import AddOptions, check_options, find_encoder, model_family
from intarsia.adding.own_copies import copy_in, remove_own
from intarsia.adding.user_file import edited, user_file
from intarsia.checkpoints.files import is_there
from intarsia.checkpoints.header import read_header
from intarsia.checkpoints.identified import Identified
from intarsia.checkpoints.lora_families import peft_settings_beside
from intarsia.checkpoints.probe import identify
from intarsia.errors import WeightsError, shown
from intarsia.former_name import variable
from intarsia.registry.entries import Entry, ModelEntry, PartEntry, normalize
from intarsia.registry.paths import entry_with_path, id_of
from intarsia.registry.registry import Registry
from intarsia.registry.usable import section_of

__all__ = ["Added", "add", "visible_entries", "visible_registry"]

State = Literal["added", "there", "updated"]

# What an id may not have, so that ID:STRENGTH, lists of ids and <lora:ID> can be read.
_NOT_IN_IDS = set(":/\\<>,")


@dataclass(frozen=True, kw_only=True)
class Added:
    """One file and its entry.

    Attributes:
        section: of the registry.
        state: ``added``; ``there`` where an entry had the file already; ``updated`` where that had other pins.
        registry: the file that declares it.
    """

    entry: Entry
    section: str
    found: Identified
    state: State
    registry: Path


def add(
    path: Path,
    options: AddOptions = AddOptions(),
    weights: Path | None = None,
    meanwhile: Callable[[Identified], None] = lambda found: None,
) -> Added:
    """Declare a checkpoint, a folder, a LoRA, a VAE or an IP adapter in the user's ``weights.toml``.

    Args:
        weights: a ``weights.toml`` to add to instead.
        meanwhile: called once it is known what the file is, before it is hashed.

    Raises:
        WeightsError: the file cannot be used, lacks a network that the options do not name, or an id is taken or not
            there.
        OutputError: the registry file, or the copy, cannot be written.
    """
    given, path = path, Path(os.path.abspath(path.expanduser()))
    if not is_there(path):
        raise WeightsError(_not_there(given))
    target = user_file(weights)
    found = identify(path)
    registry = visible_registry(weights, target)
    encoder = find_encoder(registry, options)
    section = section_of(found, encoder)
    known = entry_with_path(visible_entries(registry, section), str(found.path))
    if known is None:
        check_options(registry, found, options)
        _free_id(registry, section, path, options.id)

    beside = _needed_beside(found.path, section)
    if options.copy and beside:
        raise WeightsError(f"{found.path}: --copy would part it from {beside}; add it where it lies")

    meanwhile(found)
    if known is not None:
        return _again(known, found, section, target)
    copy = copy_in(found.path, section, id_of(path)) if options.copy else None
    try:
        entry = _entry(found, section, options, copy or found.path, encoder=encoder)
        return _declare(path, found, options, weights=weights, entry=entry)
    except BaseException:
        if copy is not None:
            remove_own(copy)
        raise


def visible_registry(weights: Path | None, target: Path) -> Registry:
    """The registry as it is seen from here; a file that was named and is not there yet is made."""
    is_named = weights is not None or variable("WEIGHTS") is not None
    if is_named and not target.is_file():
        with edited(target):
            pass
    return Registry(weights)


def _not_there(path: Path) -> str:
    """What to say of a path that leads nowhere; two names with a slash between may be meant as a repository's."""
    is_repository = not path.suffix and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path))
    hint = f"; of the Hugging Face hub it is hf:{path}" if is_repository else ""
    return f"{path}: no such file or folder{hint}"


def visible_entries(registry: Registry, section: str) -> list[Entry]:
    """The entries of a section, models or parts."""
    entries: list[Entry] = []
    entries += registry if section == "models" else registry.parts[section].values()
    return entries


def _needed_beside(path: Path, section: str) -> str:
    """What is read from the folder of a file whenever the file is; "" for nothing."""
    if path.is_dir():
        return ""
    if section == "ip_adapters":
        return "its image encoder"
    settings = peft_settings_beside(read_header(path)) if section == "loras" else None
    return f"{settings.name}, which has its alpha" if settings is not None else ""


def _declare(path: Path, found: Identified, options: AddOptions, *, weights: Path | None, entry: Entry) -> Added:
    """Hash the file, and write its entry.

    Args:
        path: as the caller named it: the id comes from it.
        entry: as it will be declared, without an id; its path is the file's, or that of the copy of it.
    """
    target, stored = user_file(weights), entry.path
    section = entry.kind if isinstance(entry, PartEntry) else "models"
    pins = pins_of(entry)
    with edited(target) as document:
        # as it is now, while others wait: another process may have added an entry since
        registry = Registry(weights)
        same = _with_content(visible_entries(registry, section), pins)
        if same is not None and options.id is None:
            if stored != found.path:
                remove_own(stored)
            return Added(entry=same, section=section, found=found, state="there", registry=Path(same.declared_in))

        identifier = _free_id(registry, section, path, options.id)
        write_entry(document, section, identifier, declared(entry, options), pins)
        if options.default:
            document["default"] = identifier
    entry = replace(entry, id=identifier, declared_in=str(target))
    return Added(entry=entry, section=section, found=found, state="added", registry=target)


def _again(known: Entry, found: Identified, section: str, target: Path) -> Added:
    """The entry that has the file already, with the file's pins as they are now."""
    pins = pins_of(known)
    is_ours = os.path.realpath(known.declared_in) == os.path.realpath(target)
    state: State = "there"
    if known.files and _pinned(known) != pins:
        if not is_ours:
            raise WeightsError(f"{known.id}: {found.path} is not what {known.declared_in} pins, and that is not yours")
        with edited(target) as document:
            write_pins(document[section][known.id], pins)
        state = "updated"
    return Added(entry=known, section=section, found=found, state=state, registry=Path(known.declared_in))


def _with_content(entries: list[Entry], pins: Pins) -> Entry | None:
    """The entry that pins the same content, under whatever names."""
    content = sorted(pins.values())
    return next((entry for entry in entries if sorted(_pinned(entry).values()) == content), None)


def _pinned(entry: Entry) -> Pins:
    return {file.path: (file.bytes, file.sha256) for file in entry.files}


def _free_id(registry: Registry, section: str, path: Path, asked: str | None) -> str:
    """The id that was asked for, or one from the file's name with a number where that is taken."""
    taken = registry.names(section)
    if asked is None:
        name = id_of(path)
        numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
        return next(candidate for candidate in (name, *numbered) if normalize(candidate) not in taken)

    if not asked.strip() or not asked.isprintable() or set(asked) & _NOT_IN_IDS:
        raise WeightsError(f"--id must be a name without : / \\ < > and commas, not {shown(asked)}")
    if normalize(asked) in taken:
        raise WeightsError(f"--id: {asked} is taken; choose another, or remove that entry first")
    return asked


def _entry(found: Identified, section: str, options: AddOptions, stored: Path, *, encoder: Path | None) -> Entry:
    """The entry as it will be declared, without an id."""
    if section == "models":
        return ModelEntry(
            id="",
            family=model_family(found, options),
            path=stored,
            format="diffusers" if found.kind == "folder" else "single",
        )
    return PartEntry(
        kind=section,
        id="",
        path=stored,
        families=options.families or found.families,
        image_encoder=encoder,
    )
