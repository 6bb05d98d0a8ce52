"""Collisions of rows: ids and outputs that are there twice, outputs that would replace input images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from intarsia.batch.manifest.line import Line
from intarsia.batch.manifest.outputs import folded
from intarsia.batch.manifest.rows import Reader, Refused, Row, is_path, sources_of
from intarsia.errors import shown

__all__ = ["Collisions", "read_rows"]


class Collisions:
    """Ids and outputs of all rows, which of them are there more than once, and the images in the output folder that
    rows read.

    Outputs that differ in case alone, or in how a letter and its accent are put together, count as equal: on many file
    systems they are one file.

    Args:
        out: the output folder; None where it is not known.

    Attributes:
        repeated: ids that more than one row has.
    """

    def __init__(self, out: Path | None = None) -> None:
        self._root = "" if out is None else os.path.realpath(out)
        self._ids: dict[str, int] = {}
        self._files: dict[str, int] = {}
        self._folders: dict[str, int] = {}
        self._refused: dict[int, str] = {}
        self.repeated: set[str] = set()
        self._inputs: dict[str, str] = {}
        self._real_folders: dict[str, str] = {}

    def add(self, row: Row) -> None:
        """Take in a row; whatever collides is refused, on either side."""
        other = self._ids.setdefault(row.id, row.number)
        if other != row.number:
            self.repeated.add(row.id)
            self._refuse(other, row.number, f"the id {shown(row.id)}")
        for output in row.outputs:
            self._add_output(folded(output), output, row.number)
        if self._root:
            self._add_inputs(row)

    def problem(self, row: Row) -> str:
        """Why a row cannot be run beside all the others; "" where it can. All of them must have been added."""
        return self._refused.get(row.number, "") or self._overwritten(row)

    def _add_output(self, key: str, output: str, number: int) -> None:
        other = self._files.setdefault(key, number)
        if other != number:
            self._refuse(other, number, f"the output {shown(output)}")
        elif key in self._folders:
            self._refuse(self._folders[key], number, f"{shown(output)}, for one a file and for the other a folder,")

        for folder in _parents(key):
            self._folders.setdefault(folder, number)
            if self._files.get(folder, number) != number:
                what = f"{shown(folder)}, for one a file and for the other a folder,"
                self._refuse(self._files[folder], number, what)

    def _refuse(self, one: int, other: int, what: str) -> None:
        for number, partner in ((one, other), (other, one)):
            self._refused.setdefault(number, f"line {number} and line {partner} have {what} in common")

    def _add_inputs(self, row: Row) -> None:
        """Note the row's images that lie in the output folder; there are none, mostly."""
        inside = os.path.join(self._root, "")
        for field, source in sources_of(row.fields).items():
            if not is_path(source):
                continue
            for path in self._real_paths(source):
                if path.startswith(inside):
                    self._inputs.setdefault(path, f"the {field} of line {row.number}, {shown(source)}")

    def _overwritten(self, row: Row) -> str:
        """The sentence about an image that the row's outputs would replace; "" where there is none."""
        if not self._inputs:
            return ""
        for output in row.outputs:
            for path in self._real_paths(os.path.join(self._root, output)):
                if path in self._inputs:
                    return f"the output {shown(output)} would replace {self._inputs[path]}; choose another folder"
        return ""

    def _real_paths(self, path: str) -> tuple[str, ...]:
        """The names of the file without links in its folder: its own, and that of the file which it is a link to."""
        folder, name = os.path.split(path)
        try:
            if name in ("", ".", ".."):
                return (os.path.realpath(path),)

            if folder not in self._real_folders:
                self._real_folders[folder] = os.path.realpath(folder)
            own = os.path.join(self._real_folders[folder], name)
            return (own, os.path.realpath(own)) if os.path.islink(own) else (own,)
        except ValueError:  # a NUL, half a surrogate pair: no file has such a name
            return ()


def _parents(path: str) -> Iterator[str]:
    """The folders above a relative path, the outermost first."""
    for end, letter in enumerate(path):
        if letter == "/":
            yield path[:end]


def read_rows(lines: Iterable[Line], reader: Reader, collisions: Collisions) -> Iterator[Row | Refused]:
    """Rows of a manifest whose names are known: what collides is refused too."""
    for line in lines:
        row = reader.row(line)
        problem = collisions.problem(row) if isinstance(row, Row) else ""
        if not problem:
            yield row
        elif row.id in collisions.repeated:
            # Two rows of one id would share a line of results: the number tells them apart.
            apart = f"{row.id} (line {row.number})"
            yield Refused(row.number, apart, "param", problem, key=row.id, is_nameless=True)
        else:
            yield Refused(row.number, row.id, "param", problem)
