"""An entry as keys of a ``weights.toml``, with its pins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from intarsia.adding.options import AddOptions
from intarsia.registry.entries import Entry, PartEntry
from intarsia.registry.families import FAMILIES
from intarsia.registry.files import read_files
from intarsia.registry.hashing import Hashes

__all__ = ["Pins", "declared", "pins_of", "write_entry", "write_pins"]

Pins = dict[str, tuple[int, str]]
"""Size and sha256 by the name that a file has in the registry: relative to the folder, or that of the one file."""

# Stable Diffusion 2 was made for 768 pixels where it predicts v, and for 512 where it predicts the noise.
_EPSILON_SIZE = {"sd21": 512}


def declared(entry: Entry, options: AddOptions) -> dict[str, Any]:
    """The keys of an entry in the file, but for its pins; empty ones are left out."""
    if isinstance(entry, PartEntry):
        keys: dict[str, Any] = {
            "path": str(entry.path),
            "families": list(entry.families),
            "image_encoder": _encoder(entry, options),
            "source": options.source,
        }
    else:
        keys = {
            "family": entry.family,
            "path": str(entry.path),
            "size": _size(entry.family, options.prediction),
            "prediction": options.prediction,
            "vae": options.vae,
            "text": options.text,
            "tokenizer": str(options.tokenizer.expanduser().absolute()) if options.tokenizer else "",
            "source": options.source,
        }
    return {key: value for key, value in keys.items() if value}


def _encoder(entry: PartEntry, options: AddOptions) -> str:
    """The id as the caller gave it, or the absolute path."""
    is_path = Path(options.image_encoder).expanduser().exists()
    return str(entry.image_encoder) if options.image_encoder and is_path else options.image_encoder


def _size(family: str, prediction: str) -> int:
    """The side that the model was trained at; 0 where it is the family's."""
    size = _EPSILON_SIZE.get(family, 0) if prediction == "epsilon" else 0
    return 0 if size == FAMILIES[family].native_size else size


def pins_of(entry: Entry) -> Pins:
    """Of every file that is read, each read once; not of an image encoder in another folder."""
    folder = entry.path if os.path.isdir(entry.path) else entry.path.parent
    paths = [path for path in read_files(entry) if path.is_relative_to(folder)]
    hashes = Hashes(paths)

    pins = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        sha256 = hashes.of(path)
        pins[name] = (path.stat().st_size, sha256)
    return pins


def write_entry(document: Any, section: str, identifier: str, keys: Mapping[str, Any], pins: Pins) -> None:
    """Add one entry to a TOML document, behind the others of its section."""
    table = tomlkit.table()
    for key, value in keys.items():
        table[key] = value
    write_pins(table, pins)

    if section not in document:
        document[section] = tomlkit.table(is_super_table=True)
    document[section][identifier] = table


def write_pins(table: Any, pins: Pins) -> None:
    """Put pins into an entry, in place of those that are there."""
    files = tomlkit.table()
    for name, (size, sha256) in pins.items():
        pin = tomlkit.inline_table()
        pin.update({"bytes": size, "sha256": sha256})
        files[name] = pin
    table["files"] = files
