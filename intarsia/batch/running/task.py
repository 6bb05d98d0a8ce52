"""A task: a run made ready, with its manifest, whose ids and outputs have all been read, and its options."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from intarsia.batch.ledger.results import History, Record, is_results, read_history, result_files
from intarsia.batch.manifest.collisions import Collisions, read_rows
from intarsia.batch.manifest.prompt_count import PromptCount
from intarsia.batch.manifest.reader import Manifest
from intarsia.batch.manifest.rows import Reader, Refused, Row, defaults_of, in_shard
from intarsia.batch.settings import Options, Pair
from intarsia.errors import RequestError
from intarsia.registry.registry import Registry

__all__ = ["Task", "history_of", "keep_out", "prepare"]

log = logging.getLogger("intarsia")

# Rows of a manifest from which on thumbnails are made with them, as a contact sheet of files alone takes long then.
_MANY = 1000

# Of each line, in the order that records have them.
_KEPT = (
    "id", "line", "time", "status", "error", "outputs", "bytes", "spec_hash", "contents", "identities", "nameless",
    "run",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Task:
    """A run made ready: everything that concerns all of its rows has been checked.

    Attributes:
        collisions: ids and outputs of all rows of the manifest, as long as it was.
        rows: how many of them the run accounts for.
        failures: classes that a retry is for ("" is all); None runs everything.
    """

    manifest: Manifest
    reader: Reader
    collisions: Collisions
    out: Path
    options: Options
    registry: Registry
    lines: int
    rows: int
    failures: Collection[str] | None

    def all_rows(self, history: History) -> Iterator[Row | Refused]:
        """The rows that the run accounts for. What was appended to the manifest since it was looked at is not."""
        return islice(self._selected_rows(history), self.options.limit)

    def stale_rows(self, history: History) -> list[Record]:
        """Records of unparsable lines that the manifest no longer contains."""
        nameless = {record.id for record in history.last.values() if record.nameless}
        candidates = {name for name in nameless if self._is_selected(history.last[name])}
        if not candidates:
            return []

        stale = candidates - {row.id for row in self._read()}
        return [history.last[name] for name in sorted(stale)]

    def _selected_rows(self, history: History) -> Iterator[Row | Refused]:
        nameless = {record.line: record for record in history.last.values() if record.nameless}
        for row in self._read():
            last = history.last.get(row.id) or nameless.get(row.number)
            if in_shard(_shard_key(row), self.options.shard) and self._is_selected(last):
                yield row

    def _read(self) -> Iterator[Row | Refused]:
        lines = (line for line, _ in zip(self.manifest, range(self.lines), strict=False))
        return read_rows(lines, self.reader, self.collisions)

    def _is_selected(self, last: Record | None) -> bool:
        """Whether a retry is for a row with that line of results."""
        if self.failures is None:
            return True
        if last is None or last.status not in ("error", "cancelled"):
            return False
        return "" in self.failures or last.error in self.failures


def _shard_key(row: Row | Refused) -> str:
    """The text whose hash decides the row's shard: its id before that was changed, the same in all shards."""
    if isinstance(row, Refused) and row.key:
        return row.key
    return row.id


def prepare(
    manifest: str | os.PathLike[str] | Pair,
    out: Path,
    options: Options,
    failures: Collection[str] | None = None,
) -> Task:
    """Read all names in the manifest, before anything is done; what is left out of it is logged as a warning.

    Raises:
        RequestError: no rows, or none that the manifest's kind allows to be read; results would be written into it.
    """
    place = manifest if isinstance(manifest, Pair) else Path(manifest)
    opened = Manifest.of(place, options, out)
    reader = Reader(opened.base, options, defaults_of(options))
    keep_out(opened, out)

    collisions = Collisions(out)
    prompts = PromptCount()
    lines = rows = 0
    for line in opened:
        lines += 1
        row = reader.row(line)
        if isinstance(row, Row):
            collisions.add(row)
            prompts.add(row)
        rows += in_shard(_shard_key(row), options.shard)

    if not lines:
        raise opened.without_rows()
    for note in (*opened.notes, *prompts.notes()):
        log.warning("%s", note)
    if options.thumbnails is None:
        options = replace(options, thumbnails=lines >= _MANY)

    return Task(
        manifest=opened,
        reader=reader,
        collisions=collisions,
        out=out,
        options=options,
        registry=Registry(options.weights, options.precision),
        lines=lines,
        rows=rows if options.limit is None else min(rows, options.limit),
        failures=failures,
    )


def keep_out(manifest: Manifest, out: Path) -> None:
    """Raises :class:`RequestError` where the manifest is what the run would take for results, or the reverse."""
    place = manifest.place
    folder = os.path.realpath(out)
    if isinstance(place, Pair):
        for inputs in (place.images, place.masks):
            if os.path.realpath(inputs) == folder:
                message = (
                    f"{inputs}: the next run would take outputs for images; choose another folder, in it if need be"
                )
                raise RequestError("out", message=message)

    elif is_results(place.name) and os.path.realpath(place.parent) == folder:
        message = f"{place}: results would be written into the manifest; choose another folder"
        raise RequestError("out", message=message)


def history_of(out: Path) -> History:
    """The history in all files of results in a folder."""
    return read_history(result_files(out), _KEPT)
