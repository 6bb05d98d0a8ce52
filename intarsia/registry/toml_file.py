"""A ``weights.toml`` as entries: every key, type and limit is checked, nothing on disk is looked at but the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intarsia.checkpoints.files import read_bytes
from intarsia.errors import WeightsError, one_line, shown
from intarsia.execution import PRECISIONS
from intarsia.registry.entries import DEFAULT_MERGING, PARTS, Format, ModelEntry, PartEntry, PinnedFile
from intarsia.registry.families import FAMILIES
from intarsia.token_merging import MAX_RATIO, TokenMerging
from intarsia.weighted_text import SYNTAXES

__all__ = ["PACKAGE", "PREDICTIONS", "SCHEMA", "RegistryFile", "read_registry_file"]

PACKAGE = Path(__file__).resolve().parent.parent
"""The installed package, which paths that begin with ``package:`` are relative to."""

SCHEMA = 1
_KEYS = ("schema", "default", "realtime", "models", *PARTS)

# Pixels of the side that a model was trained at.
_SMALLEST, _LARGEST = 8, 8192
PREDICTIONS = ("epsilon", "v_prediction")
# Keys of a model whose value is one of a few.
_CHOICES = {"prediction": PREDICTIONS, "prompt_syntax": SYNTAXES, "precision": PRECISIONS}
_SHA256 = re.compile("[0-9a-f]{64}")

# Keys of an entry and their types.
_COMMON = {"path": str, "aliases": list, "licence": str, "source": str, "files": dict}
_PART_FIELDS = {**_COMMON, "families": list}
_IP_ADAPTER_FIELDS = {**_PART_FIELDS, "image_encoder": str}
_MODEL_FIELDS = {
    **_COMMON,
    "family": str,
    "format": str,
    "prediction": str,
    "vae": str,
    "text": str,
    "tokenizer": str,
    "size": int,
    "prompt_syntax": str,
    "prompt_template": str,
    "token_merging": float,
    "token_merging_levels": int,
    "token_merging_reuse": int,
    "precision": str,
    "safety": str,
    "stands_in_for": list,
    "defaults": dict,
}


@dataclass(frozen=True, kw_only=True)
class RegistryFile:
    """What one file declares.

    Attributes:
        default, realtime: ids of the models that run where none is named; "" where the file names none.
        models: in the file's order.
        parts: in the file's order, section by section.
    """

    default: str
    realtime: str
    models: tuple[ModelEntry, ...]
    parts: tuple[PartEntry, ...]


def read_registry_file(path: Path) -> RegistryFile:
    """Read and check one file.

    Raises:
        WeightsError: it is not TOML, or an entry lacks something; the message names file and entry.
    """
    document = _load(path)
    _check_document(document, path)

    section = _section(document, "models", path)
    models = [_model(name, fields, path) for name, fields in section.items()]
    parts = []
    for kind in PARTS:
        section = _section(document, kind, path)
        parts += [_part(kind, name, fields, path) for name, fields in section.items()]

    default = document.get("default", "")
    return RegistryFile(
        default=default,
        realtime=document.get("realtime", default),
        models=tuple(models),
        parts=tuple(parts),
    )


def _check_document(document: Mapping[str, Any], path: Path) -> None:
    """Refuse what is outside the sections: unknown keys, another schema, a default that is no text."""
    unknown = sorted(set(document) - set(_KEYS))
    if unknown:
        allowed = ", ".join(_KEYS)
        raise WeightsError(f"{path}: {unknown[0]} is not known; allowed: {allowed}")

    schema = document.get("schema")
    if not _is(schema, int) or schema != SCHEMA:
        raise WeightsError(f"{path}: schema must be {SCHEMA}, not {shown(schema)}")

    for name in ("default", "realtime"):
        identifier = document.get(name, "")
        if not isinstance(identifier, str):
            raise WeightsError(f"{path}: {name} must be the id of a model, not {shown(identifier)}")


def _load(path: Path) -> dict[str, Any]:
    content = read_bytes(path)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError as exc:
        raise WeightsError(f"{path}: cannot be read as TOML: nested too deeply") from exc
    except ValueError as exc:
        raise WeightsError(f"{path}: cannot be read as TOML: {one_line(exc)}") from exc


def _section(document: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = document.get(name, {})
    if not isinstance(section, dict):
        raise WeightsError(f"{path}: {name} must be a table, not {shown(section)}")
    return section


def _model(identifier: str, fields: Any, path: Path) -> ModelEntry:
    where = f"{path}: models.{identifier}"
    fields = _checked(where, fields, _MODEL_FIELDS, required=("family", "path"))
    _check_model(where, fields)

    family = FAMILIES[fields["family"]]
    settings: dict[str, Any] = {"size": family.native_size, **fields}
    settings["token_merging"] = _token_merging(where, settings)
    settings["stands_in_for"] = tuple(fields.get("stands_in_for", ()))
    settings["format"] = _format(where, fields)
    if "tokenizer" in fields:
        settings["tokenizer"] = _folder(where, "tokenizer", fields["tokenizer"], path)
    settings |= _common(where, fields, path)
    return ModelEntry(id=identifier, declared_in=str(path), **settings)


def _part(kind: str, identifier: str, fields: Any, path: Path) -> PartEntry:
    where = f"{path}: {kind}.{identifier}"
    allowed = _IP_ADAPTER_FIELDS if kind == "ip_adapters" else _PART_FIELDS
    fields = _checked(where, fields, allowed, required=("path",))
    families = tuple(fields.get("families", ()))
    for family in families:
        if family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise WeightsError(f"{where}: families must be of {known}, not {shown(family)}")

    settings = {**fields, "families": families, **_common(where, fields, path)}
    if "image_encoder" in fields:
        # the id of another adapter is a name in the registry file's folder until all files have been read
        settings["image_encoder"] = _folder(where, "image_encoder", fields["image_encoder"], path)
    return PartEntry(kind=kind, id=identifier, declared_in=str(path), **settings)


def _common(where: str, fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What entries of every section declare in the same way."""
    folder = _folder(where, "path", fields["path"], path)
    files = fields.get("files", {})
    return {
        "path": folder,
        "files": tuple(_pinned(where, name, pin) for name, pin in files.items()),
        "aliases": tuple(fields.get("aliases", ())),
    }


def _checked(where: str, fields: Any, allowed: Mapping[str, type], required: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an entry, once every key and type is right."""
    if not isinstance(fields, dict):
        raise WeightsError(f"{where} must be a table, not {shown(fields)}")

    for name, value in fields.items():
        kind = allowed.get(name)
        if kind is None:
            keys = ", ".join(allowed)
            raise WeightsError(f"{where}: {name} is not a key; allowed: {keys}")
        if not _is(value, kind):
            raise WeightsError(f"{where}: {name} must be a {kind.__name__}, not {shown(value)}")

        members = value if isinstance(value, list) else []
        if not all(isinstance(member, str) for member in members):
            raise WeightsError(f"{where}: {name} must be a list of texts, not {shown(value)}")

    for name in required:
        if name not in fields:
            raise WeightsError(f"{where}: {name} is missing")
    return fields


def _is(value: object, kind: type) -> bool:
    """Whether a value of a file is of a kind: true and false are no numbers, a whole number is also a float."""
    if isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)


def _check_model(where: str, fields: Mapping[str, Any]) -> None:
    """Refuse values outside their limits."""
    family = fields["family"]
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise WeightsError(f"{where}: family must be one of {known}, not {shown(family)}")

    size = fields.get("size", _SMALLEST)
    if not _SMALLEST <= size <= _LARGEST:
        raise WeightsError(f"{where}: size must be between {_SMALLEST} and {_LARGEST}, not {shown(size)}")

    for key, allowed in _CHOICES.items():
        if key in fields and fields[key] not in allowed:
            raise WeightsError(f"{where}: {key} must be {' or '.join(allowed)}, not {shown(fields[key])}")


def _format(where: str, fields: Mapping[str, Any]) -> Format:
    """As declared, or by the path's suffix."""
    is_file = fields["path"].endswith(".safetensors")
    declared = fields.get("format", "single" if is_file else "diffusers")
    if declared not in ("diffusers", "single"):
        raise WeightsError(
            f"{where}: format must be diffusers (a folder) or single (a .safetensors file), not {shown(declared)}"
        )
    return "single" if declared == "single" else "diffusers"


def _token_merging(where: str, settings: dict[str, Any]) -> TokenMerging:
    """Takes the three keys of token merging out of an entry's settings."""
    ratio = settings.pop("token_merging", DEFAULT_MERGING.ratio)
    if not 0 <= ratio <= MAX_RATIO:
        raise WeightsError(f"{where}: token_merging must be between 0 and {MAX_RATIO}, not {shown(ratio)}")

    levels = settings.pop("token_merging_levels", DEFAULT_MERGING.levels)
    if levels < 1:
        raise WeightsError(f"{where}: token_merging_levels must be at least 1, not {shown(levels)}")

    reuse = settings.pop("token_merging_reuse", DEFAULT_MERGING.reuse)
    if reuse < 1:
        raise WeightsError(f"{where}: token_merging_reuse must be at least 1, not {shown(reuse)}")
    return TokenMerging(ratio, levels, reuse)


def _folder(where: str, key: str, declared: str, registry: Path) -> Path:
    """``package:…`` is inside the installed package; anything else is relative to the registry file."""
    if "\0" in declared or not declared:
        raise WeightsError(f"{where}: {key} must name a folder or a file, not {shown(declared)}")
    if declared.startswith("package:"):
        return PACKAGE / declared.removeprefix("package:")
    try:
        return registry.parent / Path(declared).expanduser()
    except RuntimeError as exc:  # a user that this machine does not have
        raise WeightsError(f"{where}: {key} {shown(declared)}: {one_line(exc)}") from exc


def _pinned(where: str, name: str, pin: Any) -> PinnedFile:
    key = f"{where}: files.{shown(name)}"
    pin = pin if isinstance(pin, dict) else {}
    sha256, size = pin.get("sha256"), pin.get("bytes")
    if not isinstance(sha256, str) or not isinstance(size, int) or isinstance(size, bool):
        raise WeightsError(f"{key} must have sha256 (a string) and bytes (an integer)")

    path = Path(name)
    if "\0" in name or path.is_absolute() or ".." in path.parts:
        raise WeightsError(f"{key} must stay inside the model's folder")

    sha256 = sha256.lower()
    if not _SHA256.fullmatch(sha256) or size < 0:
        raise WeightsError(f"{key} must have a sha256 of 64 hexadecimal digits and a size")
    return PinnedFile(name, sha256, size)
