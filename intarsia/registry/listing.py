"""Entries of the registry as rows of plain values, for the command line and the server."""

from __future__ import annotations

from typing import Any

from intarsia.errors import WeightsError
from intarsia.registry.entries import ModelEntry, PartEntry
from intarsia.registry.registry import Registry
from intarsia.registry.usable import check_usable

__all__ = ["entry_row", "why_missing"]


def entry_row(registry: Registry, entry: ModelEntry | PartEntry) -> dict[str, Any]:
    """What there is to know about an entry; looks on the disk whether it could be opened, and reads no weights.

    Returns:
        ``id``, ``installed``, ``aliases`` and ``licence``; of a model also ``family``, ``size`` (the side in pixels
        that it is made for), and whether it is the ``default``, and the one that the ``realtime`` endpoint runs; of a
        part the ``families`` that it fits.
    """
    values: dict[str, Any] = {"id": entry.id, "installed": not why_missing(entry)}
    if isinstance(entry, ModelEntry):
        values |= {
            "family": entry.family,
            "size": entry.size,
            "default": _is_found(registry, None, entry),
            "realtime": _is_found(registry, registry.realtime or None, entry),
        }
    else:
        values |= {"families": list(entry.families)}
    return values | {"aliases": list(entry.aliases), "licence": entry.licence}


def _is_found(registry: Registry, name: str | None, entry: ModelEntry) -> bool:
    """Whether a name means this model; one that means none is of no model."""
    try:
        return registry.find(name).id == entry.id
    except WeightsError:
        return False


def why_missing(entry: ModelEntry | PartEntry) -> str:
    """Why an entry could not be opened, with paths of this machine; "" where it could."""
    try:
        check_usable(entry)
    except WeightsError as exc:
        return str(exc)
    return ""
