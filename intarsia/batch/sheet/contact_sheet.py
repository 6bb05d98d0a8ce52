"""A contact sheet of an output folder: pages of HTML beside the results, and one image of the first rows."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from intarsia.batch.ledger.progress import Progress
from intarsia.batch.ledger.results import read_history, result_files
from intarsia.batch.sheet.overview import draw_overview
from intarsia.batch.sheet.pages import FILES, FRONT, Book, page_name
from intarsia.batch.sheet.sheet_rows import KEPT, SheetRow, group_of, in_order, rows_of, task_of
from intarsia.batch.sheet.thumbnail_pool import thumbnails
from intarsia.batch.sheet.thumbnails import Thumbnail, ThumbnailTask
from intarsia.errors import OutputError, RequestError
from intarsia.images.output_names import format_of

__all__ = ["Sheet", "sheet"]

_PER_PAGE = 100
_MOST_WORKERS = 64
_THUMBNAIL = re.compile(r"([0-9a-f]{32})-(\d{3}|none)\.jpg")
_PAGE = re.compile(r"page-(\d+)\.html")
_UNFINISHED = re.compile(r"\.intarsia-.*\.part")
_ABANDONED = 3600  # seconds after which nobody still writes at an unfinished file

Watch = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A sheet that was made.

    Attributes:
        path: of its first page.
        unreadable: rows that no thumbnail could be made of: a decoder's process died of them.
        warnings: what was damaged in the results, and left out.
    """

    path: Path
    rows: int
    pages: int
    unreadable: int
    warnings: tuple[str, ...] = ()


def sheet(
    out: str | os.PathLike[str],
    *,
    overview: str | os.PathLike[str] | None = None,
    first: int = 40,
    workers: int | None = None,
    watch: Watch | None = None,
) -> Sheet:
    """Write ``sheet.html`` into the output folder of a run, with its other pages and thumbnails in ``sheet-files``.

    Thumbnails that are there already are kept, so it goes on where it was stopped, and is soon done after another run,
    or after one with ``thumbnails``. It may be made while a run goes on, of the rows that are done so far.

    Args:
        overview: a PNG, JPEG or WebP file for one image of the first rows.
        first: how many these are.
        workers: processes that make thumbnails; None is one for each core.
        watch: called as thumbnails are made.

    Raises:
        OutputError: the folder holds no results, something cannot be written, an extension of no known format.
        RequestError: ``first`` or ``workers`` outside its limits.
    """
    _check_arguments(overview, first, workers)
    folder = Path(out)
    files = result_files(folder)
    if not files:
        raise OutputError(f"{folder} holds no results of a batch run")

    # Before the results are read: a run that goes on adds thumbnails of rows that this sheet has not seen.
    present = _present(folder / FILES)
    history = read_history(files, KEPT)
    records = rows_of(history)
    tasks = [task_of(record, folder.absolute()) for record in records]
    made = _thumbnails(tasks, folder / FILES, present, workers or os.cpu_count() or 1, watch)

    rows = in_order(
        SheetRow(record=record, group=group_of(record), thumbnail=made[task.key])
        for record, task in zip(records, tasks, strict=True)
    )
    book = Book(
        out=folder.absolute(), title=f"Contact sheet of {folder.absolute().name}", rows=rows, per_page=_PER_PAGE
    )
    try:
        _write_pages(book, folder)
        _remove_old(folder / FILES, book.pages, present.keys() - {each.name for each in made.values()})
    except OSError as exc:
        raise OutputError(f"{folder / FRONT} cannot be written: {exc.strerror or exc}") from exc

    if overview is not None:
        draw_overview(rows[:first], folder / FILES, Path(overview))
    return Sheet(
        path=folder / FRONT,
        rows=len(rows),
        pages=book.pages,
        unreadable=sum(not row.thumbnail.name for row in rows),
        warnings=tuple(history.damage.warnings),
    )


def _check_arguments(overview: str | os.PathLike[str] | None, first: int, workers: int | None) -> None:
    """Refuse, before anything is read, what :func:`sheet` does not take."""
    if not 1 <= first <= 400:
        raise RequestError("first", first, "between 1 and 400")
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise RequestError("workers", workers, f"between 1 and {_MOST_WORKERS}")
    if overview is not None:
        format_of(Path(overview))


def _present(folder: Path) -> dict[str, str]:
    """Name → key of each thumbnail that is in the folder, which is made where it is not there."""
    try:
        folder.mkdir(exist_ok=True)
        return dict(_existing(folder))
    except OSError as exc:
        raise OutputError(f"{folder} cannot be used for a contact sheet: {exc.strerror or exc}") from exc


def _thumbnails(
    tasks: Sequence[ThumbnailTask], folder: Path, present: Mapping[str, str], workers: int, watch: Watch | None
) -> dict[str, Thumbnail]:
    """A thumbnail for each key; only those that are not there are made."""
    known = {key: Thumbnail.of_name(name) for name, key in present.items()}
    missing = list({task.key: task for task in tasks if task.key not in known}.values())
    unreadable = 0
    for count, (key, thumbnail) in enumerate(thumbnails(missing, folder, min(workers, len(missing) or 1)), 1):
        known[key] = thumbnail
        unreadable += not thumbnail.name
        if watch is not None:
            watch(Progress(rows=len(missing), finished=count, failed=unreadable))
    return {task.key: known[task.key] for task in tasks}


def _existing(folder: Path) -> Iterator[tuple[str, str]]:
    """Names and keys of the thumbnails in it; what a killed process left unfinished is removed."""
    with os.scandir(folder) as entries:
        inner = sorted(entry.name for entry in entries if re.fullmatch(r"[0-9a-f]{2}", entry.name) and entry.is_dir())
    for name in inner:
        for file in os.listdir(folder / name):
            match = _THUMBNAIL.fullmatch(file)
            if match:
                yield f"{name}/{file}", match[1]
            elif _UNFINISHED.fullmatch(file):
                _remove_abandoned(folder / name / file)


def _remove_abandoned(path: Path) -> None:
    """Remove a file of a process that was killed; what a run is writing at the moment stays."""
    with suppress(FileNotFoundError):
        if abs(time.time() - path.stat().st_mtime) >= _ABANDONED:  # a clock may be set back
            path.unlink()


def _write_pages(book: Book, folder: Path) -> None:
    """Each page whole, the first one last: it is what is opened."""
    for number in range(book.pages, 0, -1):
        path = folder / page_name(number)
        temporary = path.with_name(f".intarsia-{path.name}.part")
        temporary.write_text(book.page(number), encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)


def _remove_old(folder: Path, pages: int, thumbnails: Collection[str]) -> None:
    """Pages of an earlier sheet that this one does not have, and the thumbnails of these names."""
    for name in os.listdir(folder):
        match = _PAGE.fullmatch(name)
        if match and not 2 <= int(match[1]) <= pages:
            os.unlink(folder / name)
    for name in thumbnails:
        with suppress(FileNotFoundError):
            os.unlink(folder / name)
