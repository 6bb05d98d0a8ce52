"""The rows of a contact sheet, in the order in which they are worth a look: failures first."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.results import History
from intarsia.batch.manifest.spec_hash import identity
from intarsia.batch.sheet.thumbnails import LAYOUT, Thumbnail, ThumbnailTask

__all__ = ["GROUPS", "KEPT", "SheetRow", "group_of", "in_order", "rows_of", "task_of"]

KEPT = (
    "id", "line", "time", "status", "error", "text", "outputs", "sha256", "seeds", "sources", "warnings", "degraded",
    "nsfw", "nameless", "run",
)  # fmt: skip
"""The keys of a line of results that a sheet shows, or orders by."""

GROUPS = (
    "failed",
    "not done",
    "flagged by the safety checker",
    "done otherwise than asked",
    "done with warnings",
    "done",
)
"""What rows are sorted into, the first first."""

_UNKNOWN = 1000  # a change that could not be measured is shown behind those that could


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One row of a sheet.

    Attributes:
        record: the row's line of results.
        group: index into :data:`GROUPS`.
        thumbnail: before, mask and after in one small image.
    """

    record: Record
    group: int
    thumbnail: Thumbnail


def rows_of(history: History) -> list[Record]:
    """The line of each row that its images are known from: of one that was found done, the line that says how."""
    records = []
    for identifier, last in history.last.items():
        done = history.done.get(identifier)
        records.append(done if last.status == "skipped" and done is not None else last)
    return records


def group_of(record: Record) -> int:
    """The group of a row."""
    if record.status == "error":
        return 0
    if record.status != "ok":
        return 1
    if record.nsfw and any(record.nsfw):
        return 2
    if record.degraded:
        return 3
    return 4 if record.warnings else 5


def task_of(record: Record, out: Path) -> ThumbnailTask:
    """What the row's thumbnail is made of; its key changes with anything that it shows."""
    sources: Mapping[str, str] = record.sources or {}
    inputs = [sources.get(name) for name in ("init_image", "mask_image")]
    outputs = record.outputs if record.status == "ok" and record.outputs else ()

    seen = [LAYOUT, [identity(path) if path else "" for path in inputs], [record.sha256, outputs]]
    digest = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    before, mask = inputs
    return ThumbnailTask(
        key=digest[:32],
        before=before,
        mask=mask,
        after=tuple(os.path.join(out, name) for name in outputs),
    )


def in_order(rows: Iterable[SheetRow]) -> list[SheetRow]:
    """Failures by class, then the other groups: in these first what has changed least, as perhaps nothing was done."""
    return sorted(rows, key=_rank)


def _rank(row: SheetRow) -> tuple[int, str, int, int, str]:
    record = row.record
    change = row.thumbnail.change
    is_shown = record.status == "ok"
    kind = "" if is_shown else record.error or ""
    rank = (_UNKNOWN if change is None else change) if is_shown else 0
    return row.group, kind, rank, record.line or 0, record.id
