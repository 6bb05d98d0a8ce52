"""Lines of a manifest → rows that can be run, or the reason why not.

A row is an ``InpaintRequest`` with an ``id`` and an ``output``. What can only be seen with all rows in view (ids and
outputs that are there twice) is found by :class:`intarsia.batch.manifest.collisions.Collisions`.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intarsia.batch.ledger.error_kinds import ErrorKind
from intarsia.batch.manifest.ids import ADDRESS, inline_id, public_id
from intarsia.batch.manifest.line import KEYS, Line
from intarsia.batch.manifest.outputs import checked_outputs, default_output, is_encodable
from intarsia.batch.settings import Options
from intarsia.engine.field_names import hint_for
from intarsia.engine.loose_values import loosened
from intarsia.engine.request import InpaintRequest
from intarsia.errors import OutputError, RequestError, shown
from intarsia.numbers import is_random_seed
from intarsia.redact import redacted
from intarsia.schedulers.table_json import read_table

__all__ = ["Reader", "Refused", "Row", "derived_seed", "in_shard", "defaults_of", "is_path", "sources_of"]

_IMAGE_FIELDS = ("init_image", "mask_image")
_MISSPELT = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # "https:/…" is an address to be refused, no path
_LONGEST_PATH = 4096
_LONGEST_ID = 1024
# How base64 of a PNG, JPEG, WebP, GIF, BMP or TIFF file begins.
_BASE64 = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "Qk", "SUkq", "TU0A")


@dataclass(frozen=True)
class Row:
    """One row that can be run.

    Attributes:
        number: of its line.
        outputs: where its images go, relative to the output folder, one for each sample.
        fields: of the request, paths of images made absolute; its seed is in it.
        notes: warnings for its results.
        paths: of images, by field, as the manifest has them where they are relative: what files of results say.
    """

    number: int
    id: str
    outputs: tuple[str, ...]
    fields: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """One row that cannot be run as it is written.

    Attributes:
        id: its own, or one made of its line's number.
        error: the class of what is wrong; see :mod:`intarsia.batch.ledger.error_kinds`.
        key: the text that decides its shard, where that is not ``id``.
        is_nameless: ``id`` was made of the line's number, and means nothing once the manifest has changed.
    """

    number: int
    id: str
    error: ErrorKind
    text: str
    key: str = ""
    is_nameless: bool = False


def defaults_of(options: Options) -> dict[str, Any]:
    """The fields of a run's defaults file, and over them those of its options.

    Raises:
        RequestError: an unknown key, or a value that no request takes.
    """
    fields = _file_fields(options.defaults) if options.defaults is not None else {}
    given = {name: value for name, value in (options.request or {}).items() if value is not None}

    for name in ("id", "output"):
        if name in given:
            raise RequestError(name, message=f"{name} cannot be the same for all rows")
    InpaintRequest.parse(loosened(InpaintRequest, given))
    return fields | given


def _file_fields(path: str) -> dict[str, Any]:
    """The fields of a defaults file."""
    try:
        fields = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError as exc:
        raise RequestError("--defaults", message=f"{path}: is nested too deeply") from exc
    except (OSError, ValueError) as exc:  # ValueError: not UTF-8, not TOML, a name with a NUL
        raise RequestError("--defaults", message=f"{path}: cannot be read as TOML: {exc}") from exc

    for name in ("id", "output"):
        if name in fields:
            raise RequestError("--defaults", message=f"{path}: {name} cannot be the same for all rows")
    # A table's path is relative to the manifest, and looked at with the rows.
    checked = {name: value for name, value in fields.items() if name != "table" or not isinstance(value, str)}
    try:
        InpaintRequest.parse(checked)
    except RequestError as exc:
        raise RequestError("--defaults", message=f"{path}: {exc}") from exc
    return fields


def derived_seed(run: int, identifier: str) -> int:
    """The seed of a row that has none: 48 bits of a hash, the same in any order and shard."""
    digest = hashlib.sha256(f"{run}\0{identifier}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def in_shard(identifier: str, shard: tuple[int, int]) -> bool:
    """Whether the row of that id belongs to the part (i, n), counted from 1."""
    part, parts = shard
    if parts == 1:
        return True
    digest = hashlib.sha256(identifier.encode()).digest()
    return int.from_bytes(digest[-8:], "big") % parts == part - 1


class Reader:
    """Turns lines into rows.

    Args:
        base: folder that relative paths are relative to.
        options: seed, format and allow_extra of the run.
        defaults: fields under the rows'.
    """

    def __init__(self, base: Path, options: Options, defaults: Mapping[str, Any]) -> None:
        self.base = str(base)
        self.options = options
        self.defaults = dict(defaults)
        self._tables: dict[str, object] = {}

    def row(self, line: Line) -> Row | Refused:
        """The row that a line means."""
        if line.problem:
            text = line.problem if "id" in line.fields else f"line {line.number} {line.problem}"
            return self._refused(line, self._written_id(line), text)

        fields = dict(self.defaults)
        fields |= {key: value for key, value in line.fields.items() if value is not None}
        identifier = ""
        try:
            self._check_keys(fields)
            _check_texts(fields)
            fields = loosened(InpaintRequest, fields)
            if isinstance(fields.get("table"), str):
                fields["table"] = self._table(fields["table"])
            written_id, output = fields.pop("id", None), fields.pop("output", None)
            identifier = self._id(written_id, fields)
            if output is None:
                output = default_output(identifier, self.options.format)
            outputs = checked_outputs(output, fields.get("samples", 1), self.options.format)
        except (RequestError, OutputError) as exc:
            return self._refused(line, identifier or self._written_id(line), str(exc))

        written = sources_of(fields)
        self._complete(fields, identifier)
        located = sources_of(fields)
        paths = {name: text.strip() for name, text in written.items() if located[name] != text.strip()}
        known = {key: fields[key] for key in fields if key in KEYS}
        return Row(line.number, identifier, outputs, known, line.notes, paths)

    def _complete(self, fields: dict[str, Any], identifier: str) -> None:
        """Give a row's fields a seed and absolute paths."""
        if is_random_seed(fields.get("seed")):
            del fields["seed"]  # drawn anew, it would run a row again that is done
        fields.setdefault("seed", derived_seed(self.options.seed, identifier))

        for name in _IMAGE_FIELDS:
            if isinstance(fields.get(name), str):
                fields[name] = self._located(fields[name])
        fields |= self._adapter(fields)

    def _refused(self, line: Line, identifier: str, text: str) -> Refused:
        text = redacted(text).encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8
        error = line.error if line.problem else "param"
        return Refused(line.number, identifier or f"line {line.number}", error, text, is_nameless=not identifier)

    def _written_id(self, line: Line) -> str:
        """The line's own id where it is one, for the name of a row that is refused."""
        written = line.fields.get("id")
        identifier = public_id(written) if isinstance(written, str) else ""
        return identifier if _is_id(identifier) else ""

    def _check_keys(self, fields: Mapping[str, Any]) -> None:
        if self.options.allow_extra:
            return
        for key in fields:
            if key not in KEYS:
                hint = hint_for(key, KEYS) or f"known: {', '.join(sorted(KEYS))}"
                message = f"{shown(key)} is not a key of a row (--allow-extra ignores it): {hint}"
                raise RequestError(key, message=message)

    def _id(self, written: Any, fields: Mapping[str, Any]) -> str:
        """The row's id; without one, its image's path as the manifest has it. Keys of addresses are not in it."""
        if written is None:
            return self._id_of_image(fields.get("init_image"))

        if isinstance(written, int) and not isinstance(written, bool):
            written = str(written)
        identifier = public_id(written) if isinstance(written, str) else ""
        if not _is_id(identifier):
            raise RequestError("id", written, f"a text of 1 to {_LONGEST_ID} characters")
        return identifier

    def _id_of_image(self, source: Any) -> str:
        if not isinstance(source, str) or not source.strip() or not is_encodable(source):
            raise RequestError("id", message="id is required where init_image is not a text")

        source = source.strip()
        identifier = public_id(source)
        if self._is_inline(source) or not _is_id(identifier):
            return inline_id(source)
        return identifier

    def _is_inline(self, source: str) -> bool:
        """Whether an image is written out in the row, as base64."""
        return not ADDRESS.match(source) and _may_be_base64(source) and self._located(source) == source

    def _table(self, path: str) -> object:
        """What the file of a scheduler table holds; read once, as rows share it."""
        located = self._located(path)
        if located not in self._tables:
            self._tables[located] = read_table(located)
        return self._tables[located]

    def _adapter(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        adapter = fields.get("ip_adapter")
        if not isinstance(adapter, dict) or not isinstance(adapter.get("image"), str):
            return {}
        return {"ip_adapter": {**adapter, "image": self._located(adapter["image"])}}

    def _located(self, text: str) -> str:
        """A relative path made absolute; URLs, data URIs and base64 as they are.

        Blanks around it are left out, unless there is a file of that very name.
        """
        if text != text.strip() and len(text) <= _LONGEST_PATH and "\0" not in text:
            path = os.path.join(self.base, text)
            if os.path.lexists(path):
                return path
        text = text.strip()
        if not text or len(text) > _LONGEST_PATH or "\0" in text or ADDRESS.match(text):
            return text
        path = os.path.join(self.base, os.path.expanduser(text) if text[0] == "~" else text)
        is_other = _may_be_base64(text) or _MISSPELT.match(text)
        return text if is_other and not os.path.lexists(path) else path


def sources_of(fields: Mapping[str, Any]) -> dict[str, str]:
    """Where a row's images come from, by field."""
    sources = {name: fields[name] for name in ("init_image", "mask_image") if isinstance(fields.get(name), str)}
    adapter = fields.get("ip_adapter")
    if isinstance(adapter, dict) and isinstance(adapter.get("image"), str):
        sources["ip_adapter.image"] = adapter["image"]
    return sources


def is_path(source: str) -> bool:
    """Whether a located source is a file's path; base64 of a JPEG begins with a slash too."""
    if not os.path.isabs(source) or len(source) > _LONGEST_PATH:
        return False
    return not _may_be_base64(source) or os.path.lexists(source)


def _may_be_base64(text: str) -> bool:
    return text.startswith(_BASE64)


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_ID and is_encodable(text)


def _check_texts(fields: Mapping[str, Any]) -> None:
    """Raises :class:`RequestError` for halves of surrogate pairs in any text of a row, however deep."""
    for name, value in fields.items():
        for text in _texts_in(value):
            if not is_encodable(text):
                raise RequestError(name, text, "text that UTF-8 can hold (no halves of surrogate pairs)")


def _texts_in(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, keys of objects among them."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left += [*item, *item.values()]
        elif isinstance(item, list):
            left += item
        elif isinstance(item, str):
            yield item
