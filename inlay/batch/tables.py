"""Manifests with columns: CSV (text in every cell) and Parquet (typed)."""

from __future__ import annotations

import base64
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from inlay.batch.line import KEYS, Line
from inlay.errors import BackendError, RequestError, shown

__all__ = ["csv_lines", "parquet_lines"]

# Columns whose cells are text whatever they look like: a prompt of "42" is no number.
_TEXTS = {
    "id", "output", "prompt", "negative_prompt", "model", "init_image", "mask_image", "scheduler", "algorithm_type",
    "vae", "safety_action", "mask_source", "masked_content",
}  # fmt: skip
# Spreadsheets and data frames store whole numbers as floats as soon as a cell of the column is empty.
_WHOLE = {"width", "height", "samples", "steps", "clip_skip", "seed", "mask_dilate", "mask_padding"}
# Columns whose cells may hold a file's bytes; ``image`` is that of an IP adapter.
_PICTURES = {"init_image", "mask_image", "image"}
_FLAGS = {"true": True, "false": False}


def csv_lines(path: Path, allow_extra: bool) -> Iterator[Line]:
    """Rows of a CSV file in UTF-8, with or without a byte order mark; commas, semicolons or tabs."""
    # base64 in a cell is longer than the module's default limit of 128 KiB
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        head = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=_delimiter(head, path), strict=True)
        columns = [name.strip() for name in next(_rows(reader), [])]
        if not columns:
            return  # an empty file is an empty manifest
        _check_columns(columns, path, allow_extra)
        for cells in _rows(reader):
            if isinstance(cells, Line):
                yield cells
            elif any(cells):
                yield _csv_line(reader.line_num, columns, cells)


def _rows(reader: Any) -> Iterator[Any]:
    """The reader's rows; where one cannot be parsed, a line that says so."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield Line(reader.line_num, problem=f"is not CSV: {exc}")


def _delimiter(head: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",;\t", key=head.count)


def _check_columns(columns: Sequence[str], path: Path, allow_extra: bool) -> None:
    repeated = [name for name in columns if columns.count(name) > 1]
    if repeated:
        raise RequestError("manifest", message=f"{path}: the column {shown(repeated[0])} is there twice")
    unknown = [name for name in columns if name not in KEYS]
    if unknown and not allow_extra:
        known = ", ".join(sorted(KEYS))
        message = (
            f"{path}: {shown(unknown[0])} is not a column of a manifest (--allow-extra ignores it); known: {known}"
        )
        raise RequestError("manifest", message=message)


def _csv_line(number: int, columns: Sequence[str], cells: Sequence[str]) -> Line:
    if len(cells) != len(columns):
        return Line(number, problem=f"has {len(cells)} cells; the header has {len(columns)}")
    named = {name: cell for name, cell in zip(columns, cells, strict=True) if cell.strip()}
    if any("\udc80" <= letter <= "\udcff" for cell in named.values() for letter in cell):
        return Line(number, problem="is not UTF-8")
    return Line(number, {name: _cell(name, cell) for name, cell in named.items()})


def _cell(name: str, cell: str) -> Any:
    """What a cell says: text, true or false in any case, or JSON; anything else is left for the request to refuse."""
    if name in _TEXTS or name not in KEYS:
        return cell
    text = cell.strip()
    if text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    try:
        return _plain(name, json.loads(text))
    except (ValueError, RecursionError):
        return cell


def parquet_lines(path: Path, allow_extra: bool) -> Iterator[Line]:
    """Rows of a Parquet file, read a batch at a time; needs pyarrow."""
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as exc:
        raise BackendError("Parquet manifests need the package pyarrow: pip install 'inlay[batch]'") from exc
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, path, allow_extra)
            for batch in file.iter_batches(batch_size=4096):
                for fields in batch.to_pylist():
                    number += 1
                    yield _parquet_line(number, fields)
    except ArrowException as exc:
        reason = str(exc).splitlines()[0]
        raise RequestError("manifest", message=f"{path} cannot be read as Parquet: {reason}") from exc


def _parquet_line(number: int, fields: Mapping[str, Any]) -> Line:
    """A row; columns that no request has were refused, or are left out."""
    identifier = fields.get("id")
    try:
        return Line(number, {name: _plain(name, value) for name, value in fields.items() if name in KEYS})
    except TypeError as exc:
        return Line(number, {"id": identifier} if isinstance(identifier, str) else {}, str(exc))


def _plain(name: str, value: Any) -> Any:
    """A typed value as a request takes it, of types that JSON has.

    NaN is an empty cell, 20.0 steps are 20, structs are without their nulls, a picture's bytes are a data URI, dates
    and the like in columns of text are text.

    Raises:
        TypeError: any other type; the message names the column.
    """
    if isinstance(value, bytes) and name in _PICTURES:
        return f"data:;base64,{base64.b64encode(value).decode('ascii')}"
    if isinstance(value, date | time | timedelta | Decimal | UUID) and name in _TEXTS:
        return str(value)
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and name in _WHOLE and value.is_integer():
        return int(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(key, inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain("", inner) for inner in value]
    if value is None or isinstance(value, str | int | float):  # bool is an int
        return value
    raise TypeError(f"{name or 'a list'} holds a value of type {type(value).__name__}, which no request takes")
