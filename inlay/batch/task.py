"""A run made ready: its manifest, whose names have all been looked at, its options, its registry."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from inlay.batch.manifest import Manifest
from inlay.batch.results import History, read_history, result_files
from inlay.batch.rows import Names, Reader, Refused, Row, in_shard, load_defaults, read_rows
from inlay.batch.settings import Options, Pair
from inlay.engine.registry import Registry
from inlay.errors import RequestError

__all__ = ["Task", "history_of", "prepare"]

_KEPT = ("id", "status", "time", "error", "spec_hash", "outputs", "bytes", "contents", "identities")


@dataclass(frozen=True)
class Task:
    """A run made ready: everything that concerns all of its rows has been looked at.

    Attributes:
        names: ids and outputs of all rows of the manifest, as long as it was.
        rows: how many of them the run accounts for.
        failures: classes that a retry is for ("" is all); None runs everything.
    """

    manifest: Manifest
    reader: Reader
    names: Names
    out: Path
    options: Options
    registry: Registry
    lines: int
    rows: int
    failures: Collection[str] | None

    def all_rows(self, history: History) -> Iterator[Row | Refused]:
        """The rows that the run accounts for. What was appended to the manifest since it was looked at is not."""
        lines = (line for line, _ in zip(self.manifest, range(self.lines), strict=False))
        for row in read_rows(lines, self.reader, self.names):
            if in_shard(row.id, self.options.shard) and self._is_wanted(row.id, history):
                yield row

    def _is_wanted(self, identifier: str, history: History) -> bool:
        if self.failures is None:
            return True
        last = history.last.get(identifier)
        if last is None or last["status"] not in ("error", "cancelled"):
            return False
        return "" in self.failures or last.get("error") in self.failures


def prepare(
    manifest: str | os.PathLike[str] | Pair,
    out: Path,
    options: Options,
    failures: Collection[str] | None = None,
) -> Task:
    """Look at all names in the manifest, before anything is done.

    Raises:
        RequestError: no rows, or none that the manifest's kind allows to be read.
    """
    place = manifest if isinstance(manifest, Pair) else Path(manifest)
    found = Manifest.of(place, options)
    reader = Reader(found.base, options, load_defaults(options.defaults))
    names, lines, rows = Names(), 0, 0
    for line in found:
        lines += 1
        row = reader.row(line)
        if isinstance(row, Row):
            names.add(row)
        rows += in_shard(row.id, options.shard)
    if not lines:
        raise RequestError("manifest", message=f"{place}: the manifest has no rows")
    return Task(found, reader, names, out, options, Registry(options.weights), lines, rows, failures)


def history_of(out: Path) -> History:
    """What all files of results in a folder say."""
    return read_history(result_files(out), _KEPT)
