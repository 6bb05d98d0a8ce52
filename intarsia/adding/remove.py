"""Take an entry out of the user's ``weights.toml``."""

from __future__ import annotations

import os
from pathlib import Path

from intarsia.adding.add import visible_entries, visible_registry
from intarsia.adding.own_copies import remove_own
from intarsia.adding.user_file import edited, user_file
from intarsia.errors import WeightsError
from intarsia.registry.entries import Entry, ModelEntry, normalize
from intarsia.registry.paths import entry_with_path

__all__ = ["remove"]


def remove(section: str, name: str, weights: Path | None = None) -> tuple[str, Path | None]:
    """Take an entry out of the user's ``weights.toml``; a copy that we made goes with it, no other file ever.

    Returns:
        The entry's id, and the path of the copy that was removed, or None.

    Raises:
        WeightsError: there is no such entry, another file declares it, or another entry needs it.
        OutputError: the file cannot be written.
    """
    target = user_file(weights)
    registry = visible_registry(weights, target)
    entry: Entry = registry.find(name) if section == "models" else registry.part(section, name)
    if os.path.realpath(entry.declared_in) != os.path.realpath(target):
        raise WeightsError(f"{entry.id}: is declared in {entry.declared_in}, not in {target}; nothing is removed")

    users = [model.id for model in registry if _needs(model, section, entry)]
    if users:
        raise WeightsError(f"{entry.id}: {', '.join(users)} needs it; nothing is removed")
    with edited(target) as document:
        del document[section][entry.id]
        if not document[section]:
            del document[section]
        for key in ("default", "realtime"):
            if section == "models" and normalize(str(document.get(key, ""))) == normalize(entry.id):
                del document[key]

    still_used = entry_with_path(visible_entries(visible_registry(weights, target), section), str(entry.path))
    if still_used is None and remove_own(entry.path):
        return entry.id, entry.path
    return entry.id, None


def _needs(model: ModelEntry, section: str, entry: Entry) -> bool:
    """Whether a model's entry names another entry."""
    names = {"models": model.text, "vaes": model.vae, "safety": model.safety}
    named = normalize(names.get(section, ""))
    return named in {normalize(name) for name in (entry.id, *entry.aliases)}
