"""The registry of models: ``weights.toml`` → entries → located, verified files.

Entries are looked for in the file given by the caller, in ``$INTARSIA_WEIGHTS``, in the user's configuration
directory and in the packaged file; earlier ones win. Ids and aliases are case-insensitive and ``_`` is
``-``. Only safetensors are ever opened; nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from intarsia.checkpoints.files import one_line, read_bytes
from intarsia.errors import BackendError, WeightsError, expect, named, shown
from intarsia.execution import PRECISIONS, STANDARD
from intarsia.former_name import config_file, variable
from intarsia.registry.families import FAMILIES, Family
from intarsia.token_merging import MAX_RATIO, TokenMerging

__all__ = ["PARTS", "ModelEntry", "PartEntry", "PinnedFile", "Registry", "normalise"]

SCHEMA = 1
# Pixels of the side that a model was trained at.
_SMALLEST, _LARGEST = 8, 8192
_SHA256 = re.compile("[0-9a-f]{64}")
PARTS = {"vaes": "VAE", "loras": "LoRA", "ip_adapters": "IP adapter", "safety": "safety checker"}
"""Sections of a registry file besides ``models``, and what an error calls one of their entries."""

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class PinnedFile:
    """One file of an entry, relative to the entry's folder."""

    path: str
    sha256: str
    bytes: int


_DEFAULT_MERGING = TokenMerging(ratio=0.5)


@dataclass(frozen=True)
class ModelEntry:
    """One model of the registry, as declared; nothing on disk has been looked at.

    Attributes:
        path: folder (format ``diffusers``) that holds the files.
        defaults: scheduler and steps where the caller gives none; and by documented endpoint, in a table of
            its name, any of its documented fields.
        prompt_template: what ``enhance_prompt`` makes of ``{prompt}``.
        token_merging: what ``token_merging=True`` means; three keys in the file.
        precision: what its networks compute in: "standard", or "fp8" on a GPU that has it.
        safety: id of the model's safety checker; "" where it has none.
        stands_in_for: ids that this model answers to as long as no entry has them; results say so.
    """

    id: str
    family: str
    path: Path
    format: str = "diffusers"
    files: tuple[PinnedFile, ...] = ()
    aliases: tuple[str, ...] = ()
    size: int = 512
    prompt_template: str = "{prompt}"
    token_merging: TokenMerging = _DEFAULT_MERGING
    precision: str = STANDARD
    safety: str = ""
    stands_in_for: tuple[str, ...] = ()
    licence: str = "unknown"
    source: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    declared_in: str = ""

    @property
    def shape(self) -> Family:
        return FAMILIES[self.family]


@dataclass(frozen=True)
class PartEntry:
    """A VAE, LoRA, IP adapter or safety checker of the registry, as declared.

    Attributes:
        kind: the section that it stands in, a key of :data:`PARTS`.
        path: folder, or one safetensors file.
        families: model families that it fits; empty fits all.
    """

    kind: str
    id: str
    path: Path
    families: tuple[str, ...] = ()
    files: tuple[PinnedFile, ...] = ()
    aliases: tuple[str, ...] = ()
    licence: str = "unknown"
    source: str = ""
    declared_in: str = ""


E = TypeVar("E", ModelEntry, PartEntry)


def normalise(name: str) -> str:
    """The form in which ids are compared."""
    return name.strip().lower().replace("_", "-")


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
        self.models: dict[str, ModelEntry] = {}
        self.parts: dict[str, dict[str, PartEntry]] = {kind: {} for kind in PARTS}
        self._names: dict[str, dict[str, str]] = {section: {} for section in ("models", *PARTS)}
        self._stand_ins: dict[str, str] = {}
        self.default = ""
        self.realtime = ""  # what the realtime endpoint runs; the default model where a file names none
        for path in _places(weights):
            self._read(path)
        if precision is not None:
            if precision not in PRECISIONS:
                raise BackendError(f"precision must be {' or '.join(PRECISIONS)}, not {shown(precision)}")
            self.models = {name: replace(entry, precision=precision) for name, entry in self.models.items()}

    def find(self, name: str | None) -> ModelEntry:
        """The entry of that id or alias; None is the default model. Unknown: :class:`WeightsError`."""
        if name is None:
            name = self.default
        asked = normalise(name)
        key = self._names["models"].get(asked) or self._stand_ins.get(asked)
        if key is None:
            known = ", ".join(sorted(self.models)) or "none"
            raise WeightsError(f"Model not found: {named(name)}; the registry has: {known}")
        return self.models[key]

    def is_stand_in(self, name: str | None) -> bool:
        """Whether another model answers to ``name`` because no entry has it."""
        return name is not None and normalise(name) not in self._names["models"]

    def part(self, kind: str, name: str) -> PartEntry:
        """The entry of section ``kind`` with that id or alias. Unknown: :class:`WeightsError`."""
        key = self._names[kind].get(normalise(name))
        if key is None:
            known = ", ".join(sorted(self.parts[kind])) or "none"
            raise WeightsError(f"{PARTS[kind]} not found: {named(name)}; the registry has: {known}")
        return self.parts[kind][key]

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self.models.values())

    def _read(self, path: Path) -> None:
        document = _load_toml(path)
        allowed = ("schema", "default", "realtime", "models", *PARTS)
        unknown = sorted(set(document) - set(allowed))
        if unknown:
            raise WeightsError(f"{path}: {unknown[0]} is not known; allowed: {', '.join(allowed)}")
        if not _is(document.get("schema"), int) or document["schema"] != SCHEMA:
            raise WeightsError(f"{path}: schema must be {SCHEMA}, not {shown(document.get('schema'))}")
        for name in ("default", "realtime"):
            if not isinstance(document.get(name, ""), str):
                raise WeightsError(f"{path}: {name} must be the id of a model, not {shown(document[name])}")
        self.default = self.default or document.get("default", "")
        self.realtime = self.realtime or document.get("realtime", document.get("default", ""))
        for identifier, fields in _section(document, "models", path):
            model = _entry(identifier, fields, path)
            self._add("models", self.models, model)
            for name in model.stands_in_for:
                self._stand_ins.setdefault(normalise(name), normalise(model.id))
        for kind in PARTS:
            for identifier, fields in _section(document, kind, path):
                self._add(kind, self.parts[kind], _part(kind, identifier, fields, path))

    def _add(self, section: str, entries: dict[str, E], entry: E) -> None:
        """File an entry under its id and aliases, unless an earlier file has them."""
        names, own = self._names[section], normalise(entry.id)
        for name in (entry.id, *entry.aliases):
            if names.setdefault(normalise(name), own) == own:
                entries.setdefault(own, entry)


def _places(weights: str | os.PathLike[str] | None) -> Iterable[Path]:
    asked = [Path(place).expanduser() for place in (weights, variable("WEIGHTS")) if place]
    for path in asked:
        if not os.path.isfile(path):  # unlike Path's, False also for a name that no file system takes
            raise WeightsError(f"{path}: no such file; expected a weights.toml")
    # In a wheel the packaged file lies inside the package, in a checkout at the repository's root.
    packaged = [_PACKAGE / "weights.toml", _PACKAGE.parent / "weights.toml"]
    found = [path for path in packaged if path.is_file()][:1]
    usual = config_file("weights.toml")
    return [*asked, *([usual] if usual else []), *found]


def _load_toml(path: Path) -> dict[str, Any]:
    content = read_bytes(path)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError as exc:
        raise WeightsError(f"{path}: cannot be read as TOML: nested too deeply") from exc
    except ValueError as exc:
        raise WeightsError(f"{path}: cannot be read as TOML: {one_line(exc)}") from exc


def _section(document: Mapping[str, Any], name: str, path: Path) -> Iterable[tuple[str, Any]]:
    section = document.get(name, {})
    if not isinstance(section, dict):
        raise WeightsError(f"{path}: {name} must be a table, not {shown(section)}")
    return section.items()


_COMMON = {"path": str, "aliases": list, "licence": str, "source": str, "files": dict}
_PART_FIELDS = {**_COMMON, "families": list}
_FIELDS = {
    **_COMMON,
    "family": str,
    "format": str,
    "size": int,
    "prompt_template": str,
    "token_merging": float,
    "token_merging_levels": int,
    "token_merging_reuse": int,
    "precision": str,
    "safety": str,
    "stands_in_for": list,
    "defaults": dict,
}


def _checked(where: str, fields: Any, allowed: Mapping[str, type], required: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an entry, once every key and type is right."""
    if not isinstance(fields, dict):
        raise WeightsError(f"{where} must be a table, not {shown(fields)}")
    for name, value in fields.items():
        if name not in allowed:
            raise WeightsError(f"{where}: {name} is not a key; allowed: {', '.join(allowed)}")
        if not _is(value, allowed[name]):
            raise WeightsError(f"{where}: {name} must be a {allowed[name].__name__}, not {shown(value)}")
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise WeightsError(f"{where}: {name} must be a list of texts, not {shown(value)}")
    for name in required:
        if name not in fields:
            raise WeightsError(f"{where}: {name} is missing")
    return fields


def _is(value: object, kind: type) -> bool:
    """Whether a value of a file is of a kind: true and false are no numbers, a whole number is also a float."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float if kind is float else kind)


def _entry(identifier: str, fields: Any, path: Path) -> ModelEntry:
    where = f"{path}: models.{identifier}"
    fields = _checked(where, fields, _FIELDS, ("family", "path"))
    if fields["family"] not in FAMILIES:
        raise WeightsError(f"{where}: family must be one of {', '.join(FAMILIES)}, not {shown(fields['family'])}")
    if fields.get("format", "diffusers") != "diffusers":
        raise WeightsError(f"{where}: format must be diffusers (a folder), not {shown(fields['format'])}")
    if not _SMALLEST <= fields.get("size", 512) <= _LARGEST:
        raise WeightsError(f"{where}: size must be between {_SMALLEST} and {_LARGEST}, not {shown(fields['size'])}")
    if fields.get("precision", STANDARD) not in PRECISIONS:
        raise WeightsError(f"{where}: precision must be {' or '.join(PRECISIONS)}, not {shown(fields['precision'])}")
    settings: dict[str, Any] = {"size": FAMILIES[fields["family"]].native_size, **fields}
    settings["token_merging"] = _token_merging(where, settings)
    settings["stands_in_for"] = tuple(fields.get("stands_in_for", ()))
    return ModelEntry(id=identifier, declared_in=str(path), **settings | _located(where, fields, path))


def _token_merging(where: str, settings: dict[str, Any]) -> TokenMerging:
    """Takes the three keys of token merging out of an entry's settings."""
    ratio = settings.pop("token_merging", _DEFAULT_MERGING.ratio)
    if not 0 <= ratio <= MAX_RATIO:
        raise WeightsError(f"{where}: token_merging must be between 0 and {MAX_RATIO}, not {shown(ratio)}")

    levels = settings.pop("token_merging_levels", 1)
    reuse = settings.pop("token_merging_reuse", 1)
    for name, value in (("levels", levels), ("reuse", reuse)):
        if value < 1:
            raise WeightsError(f"{where}: token_merging_{name} must be at least 1, not {shown(value)}")
    return TokenMerging(ratio, levels, reuse)


def _part(kind: str, identifier: str, fields: Any, path: Path) -> PartEntry:
    where = f"{path}: {kind}.{identifier}"
    fields = _checked(where, fields, _PART_FIELDS, ("path",))
    families = tuple(fields.get("families", ()))
    for family in families:
        if family not in FAMILIES:
            raise WeightsError(f"{where}: families must be of {', '.join(FAMILIES)}, not {shown(family)}")
    settings = {**fields, "families": families}
    return PartEntry(kind=kind, id=identifier, declared_in=str(path), **settings | _located(where, fields, path))


def _located(where: str, fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What entries of every section declare in the same way."""
    return {
        "path": _folder(where, fields["path"], path),
        "files": tuple(_pinned(where, name, pin) for name, pin in fields.get("files", {}).items()),
        "aliases": tuple(fields.get("aliases", ())),
    }


def _folder(where: str, declared: str, registry: Path) -> Path:
    """``package:…`` is inside the installed package; anything else is relative to the registry file."""
    if "\0" in declared or not declared:
        raise WeightsError(f"{where}: path must name a folder or a file, not {shown(declared)}")
    if declared.startswith("package:"):
        return _PACKAGE / declared.removeprefix("package:")
    try:
        return registry.parent / Path(declared).expanduser()
    except RuntimeError as exc:  # a user that this machine does not have
        raise WeightsError(f"{where}: path {shown(declared)}: {one_line(exc)}") from exc


def _pinned(where: str, name: str, pin: Any) -> PinnedFile:
    if not isinstance(pin, dict) or not isinstance(pin.get("sha256"), str) or not _is(pin.get("bytes"), int):
        raise WeightsError(f"{where}: files.{shown(name)} must have sha256 (a string) and bytes (an integer)")
    if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise WeightsError(f"{where}: files.{shown(name)} must stay inside the model's folder")
    if not _SHA256.fullmatch(pin["sha256"].lower()) or pin["bytes"] < 0:
        raise WeightsError(f"{where}: files.{shown(name)} must have a sha256 of 64 hexadecimal digits and a size")
    return PinnedFile(name, pin["sha256"].lower(), pin["bytes"])
