"""Results of shards, actors and other machines → one ``results.jsonl``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from intarsia.batch.ledger.lock import locked
from intarsia.batch.ledger.replacing import replacing
from intarsia.batch.ledger.results import History, Record, as_line, order, read_history, read_lines, result_files
from intarsia.errors import OutputError

__all__ = ["fold", "merge"]

log = logging.getLogger("intarsia")


def merge(
    out: str | os.PathLike[str],
    others: Sequence[str | os.PathLike[str]] = (),
    warn: Callable[[str], None] = log.warning,
) -> int:
    """Put all results in ``out``, and those in other folders, into ``out/results.jsonl``; the number of rows.

    Of an id's lines the latest stays, and the latest successful one where that is another. The images of other
    folders are not moved. May be repeated, and killed at any moment.

    Args:
        warn: called with a sentence for each line that was damaged, and is lost.

    Raises:
        OutputError: nothing to merge, a run is going on in ``out``, or an image of a successful row is not there.
    """
    target = Path(out)
    folders = (target, *map(Path, others))
    for folder in folders:
        if not result_files(folder):
            raise OutputError(f"{folder} holds no results of a batch run")

    with locked(target):
        files = [path for folder in folders for path in result_files(folder)]
        history = read_history(files)
        _check_outputs(target, history)
        fold(target / "results.jsonl", history, result_files(target))

    for sentence in history.damage.warnings:
        warn(sentence)
    return len(history.last)


def fold(target: Path, history: History, files: Sequence[Path]) -> None:
    """Write a history as one file of results, then remove those that it was made of; the lock is held."""
    lines: list[Record] = []
    latest = [*history.last.values(), *history.retired.values()]
    for record in sorted(latest, key=order):
        done = history.done.get(record.id, record)
        if done is not record:
            lines.append(done)  # first: of two lines of a file the later counts
        lines.append(record)

    _replace(target, lines)
    for path in files:
        if path != target:
            path.unlink()


def _replace(target: Path, lines: Sequence[Record]) -> None:
    with replacing(target) as file:
        file.writelines(map(as_line, lines))
    if sum(1 for _ in read_lines(target)) != len(lines):
        raise OutputError(f"{target} does not hold what was written to it")


def _check_outputs(folder: Path, history: History) -> None:
    for record in history.done.values():
        for name in record.outputs or ():
            if not os.path.isfile(folder / name):
                raise OutputError(f"{folder / name} is not there: copy the images of the other folders first")
