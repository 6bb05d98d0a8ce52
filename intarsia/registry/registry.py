"""The registry of models: ``weights.toml`` → entries, looked up by id or alias.

Entries are looked for in the file given by the caller, in ``$INTARSIA_WEIGHTS``, in the user's configuration
directory and in the packaged file; earlier ones win. Ids and aliases are case-insensitive and ``_`` is
``-``. Only safetensors are ever opened; nothing is downloaded.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from intarsia.errors import BackendError, WeightsError, expect, named, shown
from intarsia.execution import PRECISIONS, Precision
from intarsia.former_name import config_file, variable
from intarsia.registry.entries import PARTS, ModelEntry, PartEntry, normalize
from intarsia.registry.paths import entry_with_path, is_path, model_of_path, part_of_path
from intarsia.registry.toml_file import PACKAGE, read_registry_file

__all__ = ["Registry"]

E = TypeVar("E", ModelEntry, PartEntry)

# How alike a name must be to one that there is, for the question whether that was meant.
_CLOSE = 0.75


class Registry:
    """All entries that can be seen from here.

    Args:
        weights: path of a ``weights.toml`` that goes before all others; None for the usual places.
        precision: of every model, whatever its entry says; None leaves it to the entries.

    Raises:
        BackendError: there is no such precision.
        WeightsError: a file that is missing where it was asked for, is not TOML, or has an entry that
            lacks something; the message names file and entry.
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None, precision: str | None = None) -> None:
        expect("weights", weights, str | os.PathLike | None, "the path of a weights.toml")
        self.default = ""
        self.realtime = ""  # what the realtime endpoint runs; the default model where a file names none
        self.models: dict[str, ModelEntry] = {}
        self.parts: dict[str, dict[str, PartEntry]] = {kind: {} for kind in PARTS}

        # By section: ids and aliases, normalized, and the key of the entry that has them.
        self._names: dict[str, dict[str, str]] = {"models": {}, **{kind: {} for kind in PARTS}}
        self._stand_ins: dict[str, str] = {}
        self._precision: Precision | None = None

        for path in _files(weights):
            self._read(path)
        self._find_image_encoders()
        if precision is not None:
            self._set_precision(precision)

    def find(self, name: str | None, *, allow_paths: bool = False) -> ModelEntry:
        """The entry of that id or alias; None is the default model.

        Args:
            allow_paths: the path of a checkpoint or of a folder may stand for an id; never for a name that came
                over a network.

        Raises:
            WeightsError: it is unknown, or is the path of something else than a model.
        """
        name = self.default if name is None else name
        normalized = normalize(name)
        names = self._names["models"]
        key = names.get(normalized) or self._stand_ins.get(normalized)
        if key is not None:
            return self.models[key]
        if allow_paths and is_path(name):
            declared = entry_with_path(self.models.values(), name)
            if declared is not None:
                return declared
            model = model_of_path(name)
            return replace(model, precision=self._precision) if self._precision else model
        raise self._unknown("models", name, allow_paths)

    def is_stand_in(self, name: str | None) -> bool:
        """Whether another model answers to ``name`` because no entry has it."""
        if name is None:
            return False
        normalized = normalize(name)
        return normalized not in self._names["models"] and normalized in self._stand_ins

    def part(self, kind: str, name: str, *, allow_paths: bool = False) -> PartEntry:
        """The entry of section ``kind`` with that id or alias; ``allow_paths`` and errors as for :meth:`find`."""
        entries = self.parts[kind]
        key = self._names[kind].get(normalize(name))
        if key is not None:
            return entries[key]
        if allow_paths and is_path(name):
            return entry_with_path(entries.values(), name) or part_of_path(kind, name)
        raise self._unknown(kind, name, allow_paths)

    def names(self, section: str) -> frozenset[str]:
        """Ids and aliases of a section, normalized."""
        return frozenset(self._names[section])

    def _unknown(self, section: str, name: str, allow_paths: bool) -> WeightsError:
        """The error for a name that no entry has; to a caller at this machine it says which name was probably meant."""
        entries = self.models if section == "models" else self.parts[section]
        known = ", ".join(sorted(entries)) or "none"
        what = "Model" if section == "models" else PARTS[section]

        sentence = f"{what} not found: {named(name)}; the registry has: {known}"
        if not allow_paths:
            return WeightsError(sentence)

        close = difflib.get_close_matches(normalize(name), sorted(self._names[section]), n=1, cutoff=_CLOSE)
        meant = f"did you mean {close[0]}? A" if close else "a"
        return WeightsError(f"{sentence}; {meant} file is added with: intarsia models add PATH")

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self.models.values())

    def _set_precision(self, name: str) -> None:
        precision = self._precision = next((known for known in PRECISIONS if known == name), None)
        if precision is None:
            choices = " or ".join(PRECISIONS)
            raise BackendError(f"precision must be {choices}, not {shown(name)}")

        for key, entry in self.models.items():
            self.models[key] = replace(entry, precision=precision)

    def _read(self, path: Path) -> None:
        file = read_registry_file(path)
        self.default = self.default or file.default
        self.realtime = self.realtime or file.realtime

        for model in file.models:
            self._add("models", self.models, model)
            key = normalize(model.id)
            for name in model.stands_in_for:
                self._stand_ins.setdefault(normalize(name), key)

        for part in file.parts:
            self._add(part.kind, self.parts[part.kind], part)

    def _find_image_encoders(self) -> None:
        """Where an adapter's ``image_encoder`` is the id of another one, name that one's place."""
        adapters = self.parts["ip_adapters"]
        for key, entry in adapters.items():
            named = entry.image_encoder
            other = self._names["ip_adapters"].get(normalize(named.name)) if named is not None else None
            is_id = named is not None and named.parent == Path(entry.declared_in).parent and not named.exists()
            if other is not None and other != key and is_id:
                adapters[key] = replace(entry, image_encoder=adapters[other].image_encoder or adapters[other].path)

    def _add(self, section: str, entries: dict[str, E], entry: E) -> None:
        """File an entry under its id and aliases, unless an earlier file has them."""
        names = self._names[section]
        key = normalize(entry.id)
        for name in (entry.id, *entry.aliases):
            owner = names.setdefault(normalize(name), key)
            if owner == key:
                entries.setdefault(key, entry)


def _files(weights: str | os.PathLike[str] | None) -> Iterable[Path]:
    """Registry files in the order in which their entries win."""
    named_files = [weights, variable("WEIGHTS")]
    files = [Path(file).expanduser() for file in named_files if file]
    for path in files:
        if not os.path.isfile(path):  # unlike Path's, False also for a name that no file system takes
            raise WeightsError(f"{path}: no such file; expected a weights.toml")

    users = config_file("weights.toml")
    if users:
        files.append(users)

    # In a wheel the packaged file lies inside the package, in a checkout at the repository's root.
    for folder in (PACKAGE, PACKAGE.parent):
        packaged = folder / "weights.toml"
        if packaged.is_file():
            return [*files, packaged]
    return files
