"""``results.jsonl``: one line for each row, appended and flushed to the disk; and what all the lines say together."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from intarsia.batch.ledger.json_lines import Damage, read_values
from intarsia.batch.ledger.records import Record, problem_of, timestamp
from intarsia.batch.manifest.ids import public_id
from intarsia.errors import OutputError
from intarsia.images.atomic_files import flush_folder
from intarsia.printable import printable_json

__all__ = [
    "History",
    "Record",
    "Results",
    "as_line",
    "is_results",
    "name_of",
    "order",
    "read_history",
    "read_lines",
    "result_files",
    "retirement",
]

_NAME = re.compile(r"results(-\d+-of-\d+|-ray-[0-9a-z-]+)?\.jsonl")
# How long a line waits for room on a full disk, and how often it looks.
_ROOM_WITHIN_S = 3.0
_LOOK_EVERY_S = 0.05


def name_of(shard: tuple[int, int]) -> str:
    """The file of a run, or of one of its shards."""
    part, parts = shard
    return "results.jsonl" if parts == 1 else f"results-{part}-of-{parts}.jsonl"


def result_files(folder: Path) -> list[Path]:
    """Every file of results in a folder: the run's, shards', actors'."""
    if not os.path.isdir(folder):
        return []
    return sorted(path for path in folder.iterdir() if is_results(path.name) and path.is_file())


def is_results(name: str) -> bool:
    """Whether a file of that name holds results."""
    return _NAME.fullmatch(name) is not None


def retirement(record: Record) -> Record:
    """The line that takes back another: there is no such row any more."""
    return Record(id=record.id, line=record.line or 0, status="retired", time=timestamp())


class Results:
    """Appends lines. What :meth:`add` has returned from is on the disk.

    Args:
        run: the number of the run, which its lines carry (:meth:`History.next_run`); None leaves them as they are.

    Raises:
        OutputError: the file cannot be opened or written; nothing torn is left behind a line that was whole.
    """

    def __init__(self, path: Path, run: int | None = None) -> None:
        self.path = path
        self._run = run
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            flush_folder(path.parent)
            self._mend()
        except OSError as exc:
            raise OutputError(f"{path} cannot be written: {exc.strerror or exc}") from exc

    def add(self, records: Iterable[Record]) -> None:
        """Append the records, a line each, with one flush for all of them.

        On a full disk they wait a moment: an image that does not fit takes the last blocks too, until what there is of
        it has been removed, and the lines that say so must not be what stops the run.
        """
        data = "".join(as_line(self._marked(record)) for record in records).encode()
        give_up = time.monotonic() + _ROOM_WITHIN_S

        while True:
            try:
                return self._append(data)
            except OSError as exc:
                if exc.errno not in (errno.ENOSPC, errno.EDQUOT) or time.monotonic() >= give_up:
                    raise OutputError(f"{self.path} cannot be written: {exc.strerror or exc}; the run stops") from exc
            time.sleep(_LOOK_EVERY_S)

    def _append(self, data: bytes) -> None:
        """Write all of it and flush it, or leave the file as it was."""
        end = os.fstat(self._handle).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._handle, data[written:])
            os.fsync(self._handle)
        except BaseException:  # an interruption too must leave whole lines
            os.ftruncate(self._handle, end)
            raise

    def _marked(self, record: Record) -> Record:
        return record if self._run is None else replace(record, run=self._run)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mend(self) -> None:
        """End a last line that a kill has torn, so that the next begins its own."""
        end = os.fstat(self._handle).st_size
        if end and os.pread(self._handle, 1, end - 1) != b"\n":
            os.write(self._handle, b"\n")


def as_line(record: Record) -> str:
    """A record as a line of JSON that every program takes for one."""
    return printable_json(record.to_json(), indent=None) + "\n"


def read_lines(path: Path, damage: Damage | None = None, keep: tuple[str, ...] | None = None) -> Iterator[Record]:
    """The records of a file; lines that are none are left out, and noted in ``damage``.

    Args:
        keep: the only keys that are kept of each line, in that order, where memory matters; None keeps all.

    Raises:
        OutputError: the file cannot be read.
    """
    for line in read_values(path, problem_of, Damage() if damage is None else damage):
        line["id"] = public_id(line["id"])  # earlier versions kept addresses as they were

        if keep is not None:
            line = {key: line[key] for key in keep if key in line}
        yield Record.from_json(line)


@dataclass
class History:
    """What the results say of each id.

    Of two lines in one file the later counts. Of lines in two files that of the later run does: each run has a number
    above those of all lines that were there when it began, whatever the clock has said since.

    Attributes:
        last: the latest line.
        done: the latest line with status ``ok``.
        retired: the latest line of ids that stand for no row any more; they are in neither of the others.
        damage: lines that say nothing.
        newest: the highest number of a run in any line.
    """

    last: dict[str, Record] = field(default_factory=dict)
    done: dict[str, Record] = field(default_factory=dict)
    retired: dict[str, Record] = field(default_factory=dict)
    damage: Damage = field(default_factory=Damage)
    newest: int = 0

    def add(self, records: Iterable[Record]) -> None:
        """Take in the lines of one file, in their order."""
        last: dict[str, Record] = {}
        done: dict[str, Record] = {}
        for record in records:
            last[record.id] = record
            if record.status == "ok":
                done[record.id] = record
            self.newest = max(self.newest, _run_of(record))

        _take_later(self.last, last)
        _take_later(self.done, done)

    def next_run(self) -> int:
        """The number of a run that begins now.

        It is the clock's, in seconds, so that runs in several folders have an order too, or one more than the newest
        where the clock is behind that.
        """
        return max(self.newest + 1, int(time.time()))


def _take_later(known: dict[str, Record], lines: dict[str, Record]) -> None:
    for identifier, record in lines.items():
        if identifier not in known or order(known[identifier]) <= order(record):
            known[identifier] = record


def order(record: Record) -> tuple[int, str]:
    """What lines of different files are ordered by: the number of their run, then their time."""
    return _run_of(record), record.time or ""


def _run_of(record: Record) -> int:
    """The number of the run that wrote a line; lines of earlier versions have a time alone."""
    if record.run is not None:
        return record.run
    try:
        return max(0, int(datetime.fromisoformat(record.time or "").timestamp()))
    except (ValueError, OverflowError):
        return 0


def read_history(paths: Iterable[Path], keep: tuple[str, ...] | None = None) -> History:
    """All lines of all files. ``keep`` names the only keys that are kept of each line, where memory matters."""
    history = History()
    for path in paths:
        history.add(read_lines(path, history.damage, keep))

    for identifier in [key for key, record in history.last.items() if record.status == "retired"]:
        history.retired[identifier] = history.last.pop(identifier)
        history.done.pop(identifier, None)
    return history
