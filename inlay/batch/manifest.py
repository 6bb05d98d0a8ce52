"""Manifests: JSONL, CSV, Parquet, or a pair of folders → lines, one for each row, in their order.

A line that cannot be read is a line with a problem, not the end of the manifest. What concerns all rows (no such
file, a column that no request has, a damaged Parquet file) is a :class:`RequestError`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inlay.batch import folders, tables
from inlay.batch.line import Line
from inlay.batch.settings import Options, Pair
from inlay.errors import RequestError, shown

__all__ = ["Manifest"]

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Manifest:
    """Rows that can be gone through again and again.

    Attributes:
        place: the file, or the two folders.
        base: what relative paths in the rows are relative to.
        allow_extra: columns that no request has are left to whoever reads the rows.
        out: where outputs go; they are no pictures of the manifest, should they lie among them.
    """

    place: Path | Pair
    allow_extra: bool = False
    out: Path | None = None
    base: Path = field(init=False)

    def __post_init__(self) -> None:
        """Raises :class:`RequestError` where the manifest is of no known kind, or not there."""
        base = self.place.images if isinstance(self.place, Pair) else self.place.parent
        object.__setattr__(self, "base", base.absolute())
        if isinstance(self.place, Pair):
            folders.check(self.place)
            return
        if self.place.suffix.lower() not in _READERS:
            kinds = ", ".join(_READERS)
            raise RequestError("manifest", message=f"{self.place}: a manifest's extension must be one of {kinds}")
        if not os.path.isfile(self.place):  # unlike pathlib's it takes a name that is too long for the file system
            problem = "is a folder" if os.path.isdir(self.place) else "does not exist"
            raise RequestError("manifest", message=f"{self.place}: the manifest {problem}")

    @classmethod
    def of(cls, place: str | Path | Pair, options: Options, out: Path | None) -> Manifest:
        """A manifest from a path or a pair of folders."""
        return cls(place if isinstance(place, Pair) else Path(place), options.allow_extra, out)

    def without_rows(self) -> RequestError:
        """What to raise where nothing has come of it."""
        if isinstance(self.place, Pair):
            return RequestError("--images", message=f"{self.place.images}: there are no pictures in this folder")
        return RequestError("manifest", message=f"{self.place}: the manifest has no rows")

    def __iter__(self) -> Iterator[Line]:
        if isinstance(self.place, Pair):
            return folders.read(self.place, self.out)
        return self._read(self.place)

    def _read(self, path: Path) -> Iterator[Line]:
        kind = _READERS[path.suffix.lower()]
        try:
            if kind == "jsonl":
                yield from _jsonl(path)
            elif kind == "csv":
                yield from tables.csv_lines(path, self.allow_extra)
            else:
                yield from tables.parquet_lines(path, self.allow_extra)
        except OSError as exc:
            raise RequestError("manifest", message=f"{path} cannot be read: {exc.strerror or exc}") from exc


_READERS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def _jsonl(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            text = raw.removeprefix(_BOM) if number == 1 else raw
            if text.strip():
                yield _json_line(number, text)


def _json_line(number: int, text: bytes) -> Line:
    try:
        fields = json.loads(text, object_pairs_hook=_without_repeats)
    except UnicodeDecodeError:
        return Line(number, problem="is not UTF-8")
    except RecursionError:
        return Line(number, problem="is nested too deeply")
    except ValueError as exc:
        return Line(number, problem=f"is not JSON: {exc}")
    if not isinstance(fields, dict):
        return Line(number, problem=f"must be a JSON object, not {shown(fields)}")
    return Line(number, fields)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that is there twice says two things."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(repeated)} is there twice")
    return made
