"""Which files in an output folder are a row's own: those that results name, and those that a run set out to write.

A run that is killed leaves images that no line of results names yet, and the next one has to replace them. Whatever
else lies in the folder under the name of an output stays: no run wrote it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from intarsia.batch.ledger.json_lines import Damage, is_text_list, read_values
from intarsia.batch.ledger.results import History
from intarsia.batch.manifest.ids import public_id
from intarsia.errors import OutputError
from intarsia.former_name import former

__all__ = ["Claims"]

_NAME = ".intarsia-outputs"


class Claims:
    """The outputs that runs in a folder set out to write, by row; they are kept there in ``.intarsia-outputs*``.

    Args:
        history: names the outputs that were written.
        shard: each writes a file of its own.

    Attributes:
        damage: lines that say nothing.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, out: Path, history: History, shard: tuple[int, int]) -> None:
        self._out = str(out)
        self._done = history.done
        self.damage = Damage()
        self._known = {
            (public_id(row), name) for file in _files(out) for row, name in read_values(file, _problem, self.damage)
        }

        part, parts = shard
        path = out / (_NAME if parts == 1 else f"{_NAME}-{part}-of-{parts}")
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as exc:
            raise OutputError(f"{path} cannot be written: {exc.strerror or exc}") from exc

    def claim(self, identifier: str, outputs: tuple[str, ...]) -> tuple[str, ...]:
        """Note that a row is about to write ``outputs``; those of them that are its own, and may be replaced.

        Raises:
            OutputError: a file of that name is there which is not the row's, or the note cannot be written.
        """
        done = self._done.get(identifier)
        written = done.outputs or () if done else ()
        own = tuple(name for name in outputs if name in written or (identifier, name) in self._known)

        for name in outputs:
            path = os.path.join(self._out, name)
            if name not in own and os.path.lexists(path):
                raise OutputError(
                    f"{path} is already there, and no earlier run wrote it for this row: "
                    "choose another output or folder, or move it away"
                )

        for name in outputs:
            if (identifier, name) not in self._known:
                self._note(identifier, name)
        return own

    def _note(self, identifier: str, name: str) -> None:
        try:
            # The line's end goes first, so that a line which a full disk has torn costs itself alone.
            self._file.write(b"\n" + json.dumps([identifier, name]).encode())
        except OSError as exc:
            raise OutputError(f"{self._file.name} cannot be written: {exc.strerror or exc}") from exc
        self._known.add((identifier, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _files(out: Path) -> list[Path]:
    """The files of claims in a folder, also those under the package's former name."""
    paths = [path for name in (_NAME, former(_NAME)) for path in out.glob(f"{name}*")]
    return sorted(path for path in paths if path.is_file())


def _problem(claim: Any) -> str:
    return "" if is_text_list(claim) and len(claim) == 2 else "must be a row's id and the name of an output"
