"""Manifests: JSONL, CSV, Parquet, or a pair of folders → lines, one for each row, in their order.

A line that cannot be read is a line with a problem, not the end of the manifest. What concerns all rows (no such
file, a column that no request has, a damaged Parquet file) is a :class:`RequestError`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from intarsia.batch.ledger.json_lines import without_repeats
from intarsia.batch.manifest import album, parquet, tables
from intarsia.batch.manifest.documented_lines import DocumentedLines
from intarsia.batch.manifest.line import Line
from intarsia.batch.settings import Options, Pair
from intarsia.errors import RequestError, shown
from intarsia.registry.registry import Registry

__all__ = ["Manifest"]

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Manifest:
    """Rows that can be gone through again and again.

    Attributes:
        place: the file, or the two folders.
        base: what relative paths in the rows are relative to.
        allow_extra: columns that no request has are passed on to the rows rather than refused.
        out: where outputs go; they are no images of the manifest, should they lie among them.
        notes: what is left out of it, in sentences for people.
        documented: reads the rows as documented requests.
    """

    place: Path | Pair
    allow_extra: bool = False
    out: Path | None = None
    documented: DocumentedLines | None = None
    base: Path = field(init=False)
    notes: tuple[str, ...] = field(init=False, default=())
    _album: album.Album | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises :class:`RequestError` where the manifest is of no known kind, or not there."""
        base = self.place.images if isinstance(self.place, Pair) else self.place.parent
        object.__setattr__(self, "base", base.absolute())

        if isinstance(self.place, Pair):
            album.check(self.place)
            opened = album.open_album(self.place, self.out)
            object.__setattr__(self, "_album", opened)
            object.__setattr__(self, "notes", album.notes(opened))
            return

        suffix = self.place.suffix.lower()
        if suffix not in _READERS:
            kinds = ", ".join(_READERS)
            advice = f"; {_ADVICE[suffix]}" if suffix in _ADVICE else ""
            message = f"{self.place}: a manifest's extension must be one of {kinds}{advice}"
            raise RequestError("manifest", message=message)

        if not os.path.isfile(self.place):  # unlike pathlib's it takes a name that is too long for the file system
            problem = "is a folder" if os.path.isdir(self.place) else "does not exist"
            raise RequestError("manifest", message=f"{self.place}: the manifest {problem}")
        object.__setattr__(self, "notes", self._notes_of_table(self.place))

    @classmethod
    def of(cls, place: str | Path | Pair, options: Options, out: Path | None) -> Manifest:
        """A manifest from a path or a pair of folders."""
        if not isinstance(place, Pair):
            place = Path(place)
        if options.endpoint is None:
            return cls(place, options.allow_extra, out)

        is_json = isinstance(place, Path) and _READERS.get(place.suffix.lower()) == "jsonl"
        if not is_json:
            raise RequestError("endpoint", message="documented requests are JSON lines: give a .jsonl file")
        documented = DocumentedLines(options.endpoint, Registry(options.weights, options.precision))
        return cls(place, options.allow_extra, out, documented)

    def without_rows(self) -> RequestError:
        """What to raise where nothing has come of it."""
        if isinstance(self.place, Pair):
            reasons = "".join(f"; {note}" for note in self.notes)
            message = f"{self.place.images}: there are no images in this folder{reasons}"
            return RequestError("--images", message=message)
        return RequestError("manifest", message=f"{self.place}: the manifest has no rows")

    def __iter__(self) -> Iterator[Line]:
        if isinstance(self.place, Path):
            lines = self._read(self.place)
            return lines if self.documented is None else map(self.documented.translated, lines)
        return album.read(self._album) if self._album is not None else iter(())

    def _read(self, path: Path) -> Iterator[Line]:
        kind = _READERS[path.suffix.lower()]
        with _readable(path):
            if kind == "jsonl":
                yield from _jsonl(path)
            elif kind == "csv":
                yield from tables.csv_lines(path, self.allow_extra)
            else:
                yield from parquet.parquet_lines(path, self.allow_extra)

    def _notes_of_table(self, path: Path) -> tuple[str, ...]:
        kind = _READERS[path.suffix.lower()]
        if kind == "jsonl":
            return ()
        with _readable(path):
            names = tables.csv_columns(path) if kind == "csv" else parquet.parquet_columns(path)
        return tables.notes(path, names)


_READERS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_ADVICE = dict.fromkeys(
    (".xlsx", ".xls", ".xlsm", ".ods"), "save the spreadsheet as CSV UTF-8 (File, Save as) and give that"
) | {".json": "JSON lines have one object a line, without brackets around them and commas between"}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of the system in reading a manifest concern all of its rows."""
    try:
        yield
    except OSError as exc:
        raise RequestError("manifest", message=f"{path} cannot be read: {exc.strerror or exc}") from exc


def _jsonl(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        is_utf16 = file.peek(2)[:2] in _UTF16
        lines = _from_utf16(path) if is_utf16 else file
        for number, raw in enumerate(lines, 1):
            text = raw.removeprefix(_BOM) if number == 1 else raw
            if text.strip():
                yield _json_line(number, text)


def _from_utf16(path: Path) -> Iterator[bytes]:
    """The lines of a file as PowerShell writes them, in UTF-8."""
    try:
        with path.open(encoding="utf-16", newline="\n") as file:
            for line in file:
                yield line.encode()
    except UnicodeError as exc:
        raise RequestError("manifest", message=f"{path} begins like UTF-16 and is not: save it as UTF-8") from exc


def _json_line(number: int, text: bytes) -> Line:
    try:
        fields = json.loads(text, object_pairs_hook=without_repeats, parse_constant=_constant)
    except UnicodeDecodeError:
        return Line(number, problem="is not UTF-8")
    except RecursionError:
        return Line(number, problem="is nested too deeply")
    except ValueError as exc:
        comma = " (a comma at the end: JSON lines have none between them)" if text.rstrip().endswith(b",") else ""
        return Line(number, problem=f"is not JSON: {exc}{comma}")
    if not isinstance(fields, dict):
        return Line(number, problem=f"must be a JSON object, not {shown(fields)}")
    return Line(number, fields)


def _constant(name: str) -> float | None:
    """NaN is what data frames put into an empty cell; infinities are left for the request to refuse."""
    return None if name == "NaN" else float(name)
