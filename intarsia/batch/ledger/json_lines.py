"""Files of JSON lines that runs leave beside their images, read so that a damaged line costs itself alone.

A kill or a full disk tears a line, a file system that lost its power leaves NULs, an editor or another program anything
else. Such a line is left out and named, whatever it holds; what is in the other lines counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from intarsia.counted import counted
from intarsia.errors import OutputError, shown
from intarsia.printable import printable

__all__ = ["LONGEST", "Damage", "is_count", "is_text_list", "read_json", "read_values", "without_repeats"]

LONGEST = 1 << 20
"""Bytes of a line: many times what a run writes, and no burden on memory."""

_MOST_NAMED = 10
_BOM = b"\xef\xbb\xbf"


@dataclass
class Damage:
    """What was left out of files: the first lines of each by number and reason, the others counted."""

    _named: dict[Path, list[str]] = field(default_factory=dict)
    _more: dict[Path, int] = field(default_factory=dict)

    def add(self, path: Path, place: str, problem: str) -> None:
        """Note that a part of a file is left out, and why."""
        named = self._named.setdefault(path, [])
        if len(named) < _MOST_NAMED:
            named.append(printable(f"{path}: {place} is damaged and left out: {problem}"))
        else:
            self._more[path] = self._more.get(path, 0) + 1

    @property
    def warnings(self) -> list[str]:
        """A sentence for each line that is named, and one for all others of its file."""
        named = [sentence for sentences in self._named.values() for sentence in sentences]
        others = []
        for path, more in self._more.items():
            others.append(printable(f"{path}: {counted(more, 'more line is', 'more lines are')} damaged"))
        return named + others


def read_values(path: Path, problem_of: Callable[[Any], str], damage: Damage) -> Iterator[Any]:
    """The values of a file's lines; empty lines are none.

    Args:
        problem_of: what is wrong with a value; "" where it is what the file should hold.
        damage: takes in the lines that are left out.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                if line.isspace():
                    continue
                problem, value = read_json(line)
                problem = problem or problem_of(value)
                if problem:
                    damage.add(path, f"line {number}", problem)
                else:
                    yield value
    except OSError as exc:
        raise OutputError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def read_json(data: bytes) -> tuple[str, Any]:
    """What keeps ``data`` from being one JSON value ("" for nothing), and that value."""
    if len(data) > LONGEST:
        return f"longer than {LONGEST} bytes", None
    try:
        return "", json.loads(data.removeprefix(_BOM).decode(), object_pairs_hook=without_repeats)
    except UnicodeDecodeError:
        return "not UTF-8", None
    except RecursionError:
        return "nested too deeply", None
    except ValueError as exc:
        return f"not JSON: {exc}", None


def is_count(value: object) -> bool:
    """Whether a value is an integer of at most 64 bits, from 0; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def is_text_list(value: object) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file; of one that is too long as much as shows that it is."""
    while line := file.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST + 1)


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's keys and values; :class:`ValueError` for a key that is there twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        repeated = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {shown(repeated)} is there twice")
    return fields
