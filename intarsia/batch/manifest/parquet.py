"""Manifests in Parquet: a column a key, typed cells; needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from intarsia.batch.manifest.cells import IMAGE_COLUMNS, CellError, plain, written
from intarsia.batch.manifest.line import KEYS, Line
from intarsia.batch.manifest.tables import check_columns
from intarsia.errors import BackendError, RequestError

__all__ = ["parquet_columns", "parquet_lines"]

# Rows that are read at a time; images in them are megabytes each.
_ROWS, _ROWS_OF_IMAGES = 4096, 16


def parquet_columns(path: Path) -> list[str]:
    """The names of the columns."""
    with _opened(path) as file:
        names: list[str] = file.schema_arrow.names
        return names


def parquet_lines(path: Path, allow_extra: bool) -> Iterator[Line]:
    """Rows of a Parquet file, some at a time."""
    number = 0
    with _opened(path) as file:
        schema = file.schema_arrow
        check_columns(schema.names, path, allow_extra)
        has_images = any(field.name in IMAGE_COLUMNS and "string" not in str(field.type) for field in schema)
        for batch in file.iter_batches(batch_size=_ROWS_OF_IMAGES if has_images else _ROWS):
            for fields in batch.to_pylist():
                number += 1
                yield _line(number, fields)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as exc:
        raise BackendError("Parquet manifests need the package pyarrow: pip install 'intarsia[batch]'") from exc
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except ArrowException as exc:
        reason = str(exc).splitlines()[0]
        raise RequestError("manifest", message=f"{path} cannot be read as Parquet: {reason}") from exc


def _line(number: int, fields: Mapping[str, Any]) -> Line:
    """A row; columns that no request has were refused, or are left out."""
    identifier = fields.get("id")
    if identifier is None:
        identifier = _name_of(fields.get("init_image"))
    known = {**fields, "id": identifier}
    try:
        return Line(number, {name: _value(name, value) for name, value in known.items() if name in KEYS})
    except CellError as exc:
        return Line(number, {"id": identifier} if isinstance(identifier, str) else {}, str(exc))


def _value(name: str, value: Any) -> Any:
    return written(name, value) if isinstance(value, str) else plain(name, value)


def _name_of(image: Any) -> str | None:
    """What an image beside its bytes is called."""
    path = image.get("path") if isinstance(image, dict) else None
    return path if isinstance(path, str) and path else None
