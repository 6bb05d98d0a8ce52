"""A run made ready: its manifest, whose names have all been looked at, its options, its registry."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from intarsia.batch.ledger.results import History, Record, is_results, read_history, result_files
from intarsia.batch.manifest.collisions import Collisions, read_rows
from intarsia.batch.manifest.reader import Manifest
from intarsia.batch.manifest.rows import Reader, Refused, Row, in_shard, load_defaults
from intarsia.batch.settings import Options, Pair
from intarsia.errors import RequestError
from intarsia.registry.registry import Registry

__all__ = ["Task", "history_of", "keep_out", "prepare"]

log = logging.getLogger("intarsia")

_KEPT = (
    "id", "line", "status", "time", "run", "error", "nameless", "spec_hash", "outputs", "bytes", "contents",
    "identities",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Task:
    """A run made ready: everything that concerns all of its rows has been looked at.

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
        nameless = {record.get("line"): record for record in history.last.values() if record.get("nameless")}
        for row in self._read():
            last = history.last.get(row.id) or nameless.get(row.number)
            if in_shard(_key(row), self.options.shard) and self._is_wanted(last):
                yield row

    def stale_rows(self, history: History) -> list[Record]:
        """Rows that were named by their lines alone, and that the manifest has no more: it has been mended."""
        nameless = {record["id"] for record in history.last.values() if record.get("nameless")}
        wanted = {name for name in nameless if self._is_wanted(history.last[name])}
        return [history.last[name] for name in sorted(wanted - {row.id for row in self._read()})] if wanted else []

    def _read(self) -> Iterator[Row | Refused]:
        lines = (line for line, _ in zip(self.manifest, range(self.lines), strict=False))
        return read_rows(lines, self.reader, self.collisions)

    def _is_wanted(self, last: Mapping[str, object] | None) -> bool:
        """Whether a retry is for a row with that line of results."""
        if self.failures is None:
            return True
        if last is None or last["status"] not in ("error", "cancelled"):
            return False
        return "" in self.failures or last.get("error") in self.failures


def _key(row: Row | Refused) -> str:
    """What says to which shard a row belongs: its id before that was changed, so that all shards say the same."""
    return (row.key if isinstance(row, Refused) else "") or row.id


def prepare(
    manifest: str | os.PathLike[str] | Pair,
    out: Path,
    options: Options,
    failures: Collection[str] | None = None,
) -> Task:
    """Look at all names in the manifest, before anything is done; what is left out of it is logged as a warning.

    Raises:
        RequestError: no rows, or none that the manifest's kind allows to be read; results would be written into it.
    """
    place = manifest if isinstance(manifest, Pair) else Path(manifest)
    found = Manifest.of(place, options, out)
    reader = Reader(found.base, options, load_defaults(options.defaults))
    keep_out(found, out)
    collisions, lines, rows = Collisions(out), 0, 0
    for line in found:
        lines += 1
        row = reader.row(line)
        if isinstance(row, Row):
            collisions.add(row)
        rows += in_shard(_key(row), options.shard)
    if not lines:
        raise found.without_rows()
    for note in found.notes:
        log.warning("%s", note)
    return Task(
        found, reader, collisions, out, options, Registry(options.weights, options.precision), lines, rows, failures
    )


def keep_out(manifest: Manifest, out: Path) -> None:
    """Raises :class:`RequestError` where the manifest is what the run would take for results, or the reverse."""
    place = manifest.place
    for folder in (place.images, place.masks) if isinstance(place, Pair) else ():
        if os.path.realpath(folder) == os.path.realpath(out):
            message = f"{folder}: the next run would take outputs for pictures; choose another folder, in it if need be"
            raise RequestError("out", message=message)
    if isinstance(place, Path) and is_results(place.name) and os.path.realpath(place.parent) == os.path.realpath(out):
        message = f"{place}: results would be written into the manifest; choose another folder"
        raise RequestError("out", message=message)


def history_of(out: Path) -> History:
    """What all files of results in a folder say."""
    return read_history(result_files(out), _KEPT)
