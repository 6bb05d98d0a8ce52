"""A record: one line of results, what became of one row; and which values its fields take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, Self, get_args

from intarsia.batch.ledger.json_lines import is_count, is_text_list
from intarsia.errors import shown

__all__ = ["STATUSES", "Record", "Status", "problem_of", "timestamp"]

Status = Literal["ok", "error", "cancelled", "skipped", "retired"]
"""What may have become of a row; ``docs/batch.md`` describes them."""

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One line of results. A field that is None is a key that the line does not have.

    Attributes:
        line: number of the row's line in the manifest.
        attempts: how often the row was run; 0 where a stopped run did not begin it.
        time: when the line was made, for people (:func:`timestamp`).
        degraded: what was done otherwise than requested.
        error, text: class of the error (:mod:`intarsia.batch.ledger.error_kinds`), and its sentence.
        outputs, sha256, bytes: files of the outputs, their hashes and sizes, one for each sample.
        contents: sha256 of each input image, by field.
        identities: what each input image was known by without decoding it, by field.
        sources: paths of the input images that are files, by field; for the contact sheet.
        timings: seconds by stage.
        runtime: backend and device.
        nameless: the id was made of the line's number.
        worker: index of the process.
        run: number of the run (:meth:`intarsia.batch.ledger.results.History.next_run`).
        unknown: keys of later versions, with their values.
        key_order: the keys of a line that was read, where their order is not the usual one.
    """

    id: str
    status: Status
    line: int | None = None
    attempts: int | None = None
    time: str | None = None
    degraded: tuple[str, ...] | None = None
    error: str | None = None
    text: str | None = None
    outputs: tuple[str, ...] | None = None
    sha256: tuple[str, ...] | None = None
    bytes: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    model_sha256: str | None = None
    spec_hash: str | None = None
    contents: Mapping[str, str] | None = None
    identities: Mapping[str, str] | None = None
    sources: Mapping[str, str] | None = None
    timings: Mapping[str, float] | None = None
    runtime: tuple[str, ...] | None = None
    warnings: tuple[str, ...] | None = None
    nsfw: tuple[bool, ...] | None = None
    nameless: bool | None = None
    worker: int | None = None
    run: int | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)
    key_order: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """The record of a JSON object in which :func:`problem_of` finds nothing."""
        known = {name: _frozen(value) for name, value in line.items() if name in _FIELDS}
        unknown = {name: value for name, value in line.items() if name not in _FIELDS}

        order = tuple(line)
        usual = tuple(name for name in _KEY_ORDERS[line["status"]] if name in line)
        return cls(**known, unknown=unknown, key_order=() if order == usual else order)

    def to_json(self) -> dict[str, Any]:
        """The JSON object. Keys of a line that was read keep their order; new ones follow in the usual one."""
        present: dict[str, Any] = {}
        for name in _FIELDS:
            value = getattr(self, name)
            if value is not None:
                present[name] = _plain(value)
        present |= self.unknown

        order = dict.fromkeys((*self.key_order, *_KEY_ORDERS[self.status], *present))
        return {name: present[name] for name in order if name in present}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_FIELDS = tuple(each.name for each in fields(Record) if each.name not in ("unknown", "key_order"))

_HEAD = ("id", "line", "attempts", "time", "degraded", "status")
_END = ("nameless", "worker", "run")
_KEY_ORDERS: Mapping[str, tuple[str, ...]] = {
    "ok": (
        *_HEAD,
        *("outputs", "sha256", "bytes", "seeds", "model_sha256", "spec_hash", "contents", "identities"),
        "sources",
        *("timings", "runtime", "warnings", "nsfw"),
        *_END,
    ),
    "error": (*_HEAD, "error", "text", "sources", *_END),
    "cancelled": (*_HEAD, "error", "text", "sources", *_END),
    "skipped": (*_HEAD, "error", "text", "identities", "sources", "spec_hash", *_END),
    "retired": ("id", "line", "status", "time", *_END),
}
"""The order of keys in lines of each status; what else a line holds follows."""


def timestamp() -> str:
    """A record's ``time``, for people: a clock may be set back, so nothing is decided by it."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds")


def problem_of(line: Any) -> str:
    """What keeps a value from being a record; "" for nothing. Keys of later versions may hold anything."""
    if not isinstance(line, dict):
        return f"must be an object, not {shown(line)}"

    for name in ("id", "status"):
        if name not in line:
            return f"{name} is missing"

    for name, value in line.items():
        if name in _CHECKS and not _CHECKS[name](value):
            return f"{name} cannot be {shown(value)}"
    return ""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_count_list(value: object) -> bool:
    return isinstance(value, list) and all(map(is_count, value))


def _is_flag_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, bool) for item in value)


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def _is_seconds_map(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_seconds, value.values()))


_CHECKS: Mapping[str, Callable[[object], bool]] = {
    "id": lambda value: isinstance(value, str) and value != "",
    "status": lambda value: isinstance(value, str) and value in STATUSES,
    "nameless": lambda value: isinstance(value, bool),
    "contents": _is_text_map,
    "identities": _is_text_map,
    "sources": _is_text_map,
    "bytes": _is_count_list,
    "seeds": _is_count_list,
    "nsfw": _is_flag_list,
    "timings": _is_seconds_map,
    **dict.fromkeys(("line", "attempts", "run", "worker"), is_count),
    **dict.fromkeys(("time", "error", "text", "model_sha256", "spec_hash"), _is_text),
    **dict.fromkeys(("outputs", "sha256", "runtime", "warnings", "degraded"), is_text_list),
}
"""What a record's fields hold, as JSON."""
