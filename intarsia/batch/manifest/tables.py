"""Manifests in CSV: text in every cell, as spreadsheets and data frames save it."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intarsia.batch.manifest.cells import CellError, written
from intarsia.batch.manifest.line import KEYS, Line
from intarsia.counted import counted
from intarsia.errors import RequestError, shown

__all__ = ["check_columns", "csv_columns", "csv_lines", "notes"]

# What data frames call their index when they save it: nothing, "Unnamed: 0", "__index_level_0__".
_UNNAMED = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
_SEPARATOR = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel's own first line
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BINARY = (b"PK\3\4", b"PAR1", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")


@dataclass(frozen=True)
class _Table:
    """An open file: what reads its rows, the columns, and lines before those that the reader counts."""

    reader: Any
    columns: list[str]
    before: int


def csv_columns(path: Path) -> list[str]:
    """The names of the columns; none in an empty file."""
    with _opened(path) as table:
        return table.columns


def csv_lines(path: Path, allow_extra: bool) -> Iterator[Line]:
    """Rows of a CSV file in UTF-8, with or without a byte order mark, or UTF-16; commas, semicolons or tabs."""
    with _opened(path) as table:
        if not table.columns:
            return  # an empty file is an empty manifest
        check_columns(table.columns, path, allow_extra)
        for cells in _rows(table):
            if isinstance(cells, Line):
                yield cells
            elif any(map(str.strip, cells)):
                yield _line(table.before + table.reader.line_num, table.columns, cells)


def check_columns(columns: Sequence[str], path: Path, allow_extra: bool) -> None:
    """Raises :class:`RequestError` for a column that is there twice, or that no request has."""
    named = [name for name in columns if not _UNNAMED.fullmatch(name)]
    repeated = [name for name in named if named.count(name) > 1]
    if repeated:
        raise RequestError("manifest", message=f"{path}: the column {shown(repeated[0])} is there twice")
    unknown = [name for name in named if name not in KEYS]
    if unknown and not allow_extra:
        known = ", ".join(sorted(KEYS))
        message = (
            f"{path}: {shown(unknown[0])} is not a column of a manifest (--allow-extra ignores it); known: {known}"
        )
        raise RequestError("manifest", message=message)


def notes(path: Path, columns: Sequence[str]) -> tuple[str, ...]:
    """A sentence about the columns that are left out because they have no name."""
    unnamed = [f"{shown(name)} (column {number})" for number, name in enumerate(columns, 1) if _UNNAMED.fullmatch(name)]
    return (f"{path}: left out, without a name: {', '.join(unnamed)}",) if unnamed else ()


@contextmanager
def _opened(path: Path) -> Iterator[_Table]:
    # base64 in a cell is longer than the module's default limit of 128 KiB
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    encoding = _encoding(path)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    try:
        with path.open(encoding=encoding, newline="", errors=errors) as file:
            head, before = file.readline(), 0
            separator = _SEPARATOR.fullmatch(head)
            if separator:
                head, before = file.readline(), 1

            file.seek(0)
            for _ in range(before):
                file.readline()

            mark = separator[1] if separator else max(",;\t", key=head.count)
            reader = csv.reader(file, delimiter=mark, strict=True, skipinitialspace=f"{mark} " in head)
            yield _Table(reader, _header(reader, path), before)
    except UnicodeError as exc:
        raise RequestError("manifest", message=f"{path} begins like UTF-16 and is not: save it as UTF-8") from exc


def _header(reader: Any, path: Path) -> list[str]:
    try:
        return [name.strip() for name in next(reader, [])]
    except csv.Error as exc:
        raise RequestError("manifest", message=f"{path}: the header is not CSV: {exc}") from exc


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(_UTF16):
        return "utf-16"
    if head.startswith(_BINARY) or b"\0" in head:
        message = f"{path} is no text, whatever its extension says: save the table as CSV UTF-8 and give that"
        raise RequestError("manifest", message=message)
    return "utf-8-sig"


def _rows(table: _Table) -> Iterator[Any]:
    """The reader's rows; where one cannot be parsed, a line with that problem."""
    while True:
        try:
            yield next(table.reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield Line(table.before + table.reader.line_num, problem=f"is not CSV: {exc}")


def _line(number: int, columns: Sequence[str], cells: list[str]) -> Line:
    surplus = cells[len(columns) :]
    if not any(map(str.strip, surplus)):  # spreadsheets write empty cells at the end of a row
        cells = cells[: len(columns)]
    if len(cells) != len(columns):
        return Line(number, problem=f"has {counted(len(cells), 'cell')}; the header has {len(columns)}")

    named = {name: cell for name, cell in zip(columns, cells, strict=True) if cell.strip()}
    if not all(map(_is_utf8, named.values())):
        return Line(number, problem="is not UTF-8")

    try:
        values = {name: written(name, cell) for name, cell in named.items() if not _UNNAMED.fullmatch(name)}
    except CellError as exc:
        return Line(number, {"id": named["id"]} if "id" in named else {}, str(exc))
    return Line(number, values)


def _is_utf8(cell: str) -> bool:
    """False where a byte that is no UTF-8 was read as half a surrogate pair."""
    return not any("\udc80" <= letter <= "\udcff" for letter in cell)
