"""``results.jsonl``: one line for each row, appended and flushed to the disk; and what all the lines say together."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from inlay.batch.ids import public_id
from inlay.errors import OutputError

__all__ = [
    "History",
    "Record",
    "Results",
    "is_results",
    "name_of",
    "read_history",
    "read_lines",
    "result_files",
    "retirement",
]

Record = dict[str, Any]

_NAME = re.compile(r"results(-\d+-of-\d+|-ray-[0-9a-z-]+)?\.jsonl")


def name_of(shard: tuple[int, int]) -> str:
    """The file of a run, or of one of its shards."""
    part, parts = shard
    return "results.jsonl" if parts == 1 else f"results-{part}-of-{parts}.jsonl"


def result_files(folder: Path) -> list[Path]:
    """Every file of results in a folder: the run's, shards', actors'."""
    if not os.path.isdir(folder):
        return []
    return sorted(path for path in folder.iterdir() if is_results(path.name))


def is_results(name: str) -> bool:
    """Whether a file of that name holds results."""
    return _NAME.fullmatch(name) is not None


def retirement(record: Record) -> Record:
    """The line that takes back another: there is no such row any more."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return {"id": record["id"], "line": record.get("line", 0), "status": "retired", "time": now}


class Results:
    """Appends lines. What :meth:`add` has returned from is on the disk.

    Raises:
        OutputError: the file cannot be opened or written; nothing torn is left behind a line that was whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._end = self._mend()
        except OSError as exc:
            raise OutputError(f"{path} cannot be written: {exc.strerror or exc}") from exc

    def add(self, records: Iterable[Record]) -> None:
        """Append the records, a line each, with one flush for all of them."""
        text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        data = text.encode("utf-8", "backslashreplace")  # the halves of surrogate pairs, as JSON escapes
        try:
            written = 0
            while written < len(data):
                written += os.write(self._handle, data[written:])
            os.fsync(self._handle)
        except BaseException as exc:  # an interruption too must leave whole lines
            os.ftruncate(self._handle, self._end)
            if isinstance(exc, OSError):
                raise OutputError(f"{self.path} cannot be written: {exc.strerror or exc}; the run stops") from exc
            raise
        self._end += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mend(self) -> int:
        """The file's length, once a last line that a kill has torn is ended, so that the next begins its own."""
        end = os.fstat(self._handle).st_size
        if end and os.pread(self._handle, 1, end - 1) != b"\n":
            os.write(self._handle, b"\n")
            end += 1
        return end


def read_lines(path: Path) -> Iterator[Record]:
    """The records of a file; torn and foreign lines are left out. A file that cannot be read: :class:`OutputError`."""
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # torn by a kill while it was written
                if isinstance(record, dict) and isinstance(record.get("id"), str) and "status" in record:
                    record["id"] = public_id(record["id"])  # earlier versions kept addresses as they were
                    yield record
    except OSError as exc:
        raise OutputError(f"{path} cannot be read: {exc.strerror or exc}") from exc


@dataclass
class History:
    """What the results say of each id.

    Attributes:
        last: the latest line.
        done: the latest line with status ``ok``.
        retired: the latest line of ids that stand for no row any more; they are in neither of the others.
    """

    last: dict[str, Record] = field(default_factory=dict)
    done: dict[str, Record] = field(default_factory=dict)
    retired: dict[str, Record] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take in a line; of two for one id the later one counts, by its time, then by its place."""
        identifier, time = record["id"], str(record.get("time", ""))
        for lines in (self.last, self.done):
            if lines is self.done and record["status"] != "ok":
                continue
            if identifier not in lines or str(lines[identifier].get("time", "")) <= time:
                lines[identifier] = record


def read_history(paths: Iterable[Path], keep: tuple[str, ...] | None = None) -> History:
    """All lines of all files. ``keep`` names the only keys that are kept of each line, where memory matters."""
    history = History()
    for path in paths:
        for record in read_lines(path):
            history.add(record if keep is None else {key: record[key] for key in keep if key in record})
    for identifier in [key for key, record in history.last.items() if record["status"] == "retired"]:
        history.retired[identifier] = history.last.pop(identifier)
        history.done.pop(identifier, None)
    return history
