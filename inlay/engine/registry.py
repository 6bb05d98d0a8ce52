"""The registry of models: ``weights.toml`` → entries → located, verified files.

Entries are looked for in the file given by the caller, in ``$INLAY_WEIGHTS``, in the user's configuration
directory and in the packaged file; earlier ones win. Ids and aliases are case-insensitive and ``_`` is
``-``. Only safetensors are ever opened; nothing is downloaded.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inlay.engine.families import FAMILIES, Family
from inlay.errors import WeightsError

__all__ = ["ModelEntry", "PinnedFile", "Registry", "normalise"]

SCHEMA = 1
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class PinnedFile:
    """One file of an entry, relative to the entry's folder."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelEntry:
    """One model of the registry, as declared; nothing on disk has been looked at.

    Attributes:
        path: folder (format ``diffusers``) that holds the files.
        defaults: request fields that the model sets where the caller does not, by endpoint; the library's
            own are under ``""``.
        prompt_template: what ``enhance_prompt`` makes of ``{prompt}``.
        token_merging: ratio that ``token_merging=True`` means.
    """

    id: str
    family: str
    path: Path
    format: str = "diffusers"
    files: tuple[PinnedFile, ...] = ()
    aliases: tuple[str, ...] = ()
    size: int = 512
    prompt_template: str = "{prompt}"
    token_merging: float = 0.5
    licence: str = "unknown"
    source: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    declared_in: str = ""

    @property
    def shape(self) -> Family:
        return FAMILIES[self.family]


def normalise(name: str) -> str:
    """The form in which ids are compared."""
    return name.strip().lower().replace("_", "-")


class Registry:
    """All entries that can be seen from here.

    Args:
        weights: path of a ``weights.toml`` that goes before all others; None for the usual places.

    Raises:
        WeightsError: a file that is missing where it was asked for, is not TOML, or has an entry that
            lacks something; the message names file and entry.
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        self.models: dict[str, ModelEntry] = {}
        self._names: dict[str, str] = {}
        self.default = ""
        for path in _places(weights):
            self._read(path)

    def find(self, name: str | None) -> ModelEntry:
        """The entry of that id or alias; None is the default model. Unknown: :class:`WeightsError`."""
        if name is None:
            name = self.default
        key = self._names.get(normalise(name))
        if key is None:
            known = ", ".join(sorted(self.models)) or "none"
            raise WeightsError(f"Model not found: {name[:120]}; the registry has: {known}")
        return self.models[key]

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self.models.values())

    def _read(self, path: Path) -> None:
        document = _load_toml(path)
        unknown = sorted(set(document) - {"schema", "default", "models"})
        if unknown:
            raise WeightsError(f"{path}: {unknown[0]} is not known; allowed: schema, default, models")
        if document.get("schema") != SCHEMA:
            raise WeightsError(f"{path}: schema must be {SCHEMA}, not {document.get('schema')!r}")
        self.default = self.default or str(document.get("default", ""))
        for identifier, fields in document.get("models", {}).items():
            entry = _entry(identifier, fields, path)
            for name in (entry.id, *entry.aliases):
                if self._names.setdefault(normalise(name), normalise(entry.id)) == normalise(entry.id):
                    self.models.setdefault(normalise(entry.id), entry)


def _places(weights: str | os.PathLike[str] | None) -> Iterable[Path]:
    from platformdirs import user_config_path

    asked = [Path(place).expanduser() for place in (weights, os.environ.get("INLAY_WEIGHTS")) if place]
    for path in asked:
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; expected a weights.toml")
    # In a wheel the packaged file lies inside the package, in a checkout at the repository's root.
    packaged = [_PACKAGE / "weights.toml", _PACKAGE.parent / "weights.toml"]
    found = [path for path in packaged if path.is_file()][:1]
    usual = user_config_path("inlay") / "weights.toml"
    return [*asked, *([usual] if usual.is_file() else []), *found]


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise WeightsError(f"{path}: cannot be read as TOML: {exc}") from exc


_FIELDS = {
    "family": str,
    "path": str,
    "format": str,
    "aliases": list,
    "size": int,
    "prompt_template": str,
    "token_merging": float,
    "licence": str,
    "source": str,
    "defaults": dict,
    "files": dict,
}


def _entry(identifier: str, fields: Any, path: Path) -> ModelEntry:
    where = f"{path}: models.{identifier}"
    if not isinstance(fields, dict):
        raise WeightsError(f"{where} must be a table, not {fields!r}")
    for name, value in fields.items():
        if name not in _FIELDS:
            raise WeightsError(f"{where}: {name} is not a key; allowed: {', '.join(_FIELDS)}")
        if not isinstance(value, _FIELDS[name]):
            raise WeightsError(f"{where}: {name} must be a {_FIELDS[name].__name__}, not {value!r}")
    for name in ("family", "path"):
        if name not in fields:
            raise WeightsError(f"{where}: {name} is missing")
    if fields["family"] not in FAMILIES:
        raise WeightsError(f"{where}: family must be one of {', '.join(FAMILIES)}, not {fields['family']!r}")
    if fields.get("format", "diffusers") != "diffusers":
        raise WeightsError(f"{where}: format must be diffusers (a folder), not {fields['format']!r}")
    settings: dict[str, Any] = {"size": FAMILIES[fields["family"]].native_size, **fields}
    settings |= {
        "path": _folder(fields["path"], path),
        "files": tuple(_pinned(where, name, pin) for name, pin in fields.get("files", {}).items()),
        "aliases": tuple(map(str, fields.get("aliases", ()))),
    }
    return ModelEntry(id=identifier, declared_in=str(path), **settings)


def _folder(declared: str, registry: Path) -> Path:
    """``package:…`` is inside the installed package; anything else is relative to the registry file."""
    if declared.startswith("package:"):
        return _PACKAGE / declared.removeprefix("package:")
    return registry.parent / Path(declared).expanduser()


def _pinned(where: str, name: str, pin: Any) -> PinnedFile:
    if not isinstance(pin, dict) or not isinstance(pin.get("sha256"), str) or not isinstance(pin.get("bytes"), int):
        raise WeightsError(f"{where}: files.{name!r} must have sha256 (a string) and bytes (an integer)")
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts:
        raise WeightsError(f"{where}: files.{name!r} must stay inside the model's folder")
    return PinnedFile(name, pin["sha256"].lower(), pin["bytes"])
