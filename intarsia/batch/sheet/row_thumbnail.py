"""The thumbnail of a row that has just been run, made of the images in memory: a sheet then decodes no results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from intarsia.batch.ledger.records import Record
from intarsia.batch.sheet.pages import FILES
from intarsia.batch.sheet.sheet_rows import task_of
from intarsia.batch.sheet.thumbnails import make_thumbnail

__all__ = ["make_row_thumbnail"]


def make_row_thumbnail(record: Record, images: Sequence[Image.Image], out: Path) -> tuple[str, ...]:
    """Make the thumbnail that a contact sheet of ``out`` looks for; warnings where it cannot be written.

    Args:
        record: of a row that is done.
        images: its results, one for each of the record's outputs.
        out: the output folder.
    """
    try:
        make_thumbnail(task_of(record, out), out / FILES, images)
    except OSError as exc:
        return (f"the contact sheet's thumbnail was not written: {exc.strerror or exc}",)
    return ()
