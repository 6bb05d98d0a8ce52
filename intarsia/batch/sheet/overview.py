"""The first rows of a contact sheet as one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from intarsia.batch.sheet.sheet_rows import GROUPS, SheetRow
from intarsia.batch.sheet.thumbnails import GAP, SIDE
from intarsia.errors import OutputError
from intarsia.images.encode import SaveOptions
from intarsia.images.save import write
from intarsia.printable import printable

__all__ = ["draw_overview"]

_COLUMNS = 2
_MARGIN = 12
_TEXT_HEIGHT = 16
_PAPER, _INK, _RED = (255, 255, 255), (32, 32, 32), (170, 0, 0)


def draw_overview(rows: Sequence[SheetRow], folder: Path, path: Path) -> None:
    """Draw the rows, two beside one another, and replace the file.

    Args:
        folder: of the thumbnails.

    Raises:
        OutputError: it cannot be written.
    """
    strips = [_strip(row, folder) for row in rows]
    width = max((strip.width for strip in strips), default=SIDE)
    lines = -(-len(strips) // _COLUMNS)
    cell_width, cell_height = width + _MARGIN, SIDE + _TEXT_HEIGHT + _MARGIN

    canvas = Image.new("RGB", (_COLUMNS * cell_width + _MARGIN, max(lines, 1) * cell_height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (row, strip) in enumerate(zip(rows, strips, strict=True)):
        line, column = divmod(place, _COLUMNS)
        left, top = _MARGIN + column * cell_width, _MARGIN + line * cell_height
        canvas.paste(strip, (left, top))
        color = _INK if row.record.status == "ok" else _RED
        draw.text((left, top + SIDE + 1), _caption(row, width), font=_font(), fill=color)
    write(canvas, path, metadata=None, parameters=None, options=SaveOptions(overwrite=True))


def _strip(row: SheetRow, folder: Path) -> Image.Image:
    if not row.thumbnail.name:
        return Image.new("RGB", (3 * (SIDE + GAP) - GAP, SIDE), _PAPER)
    path = folder / row.thumbnail.name
    try:
        with Image.open(path, formats=["JPEG"]) as image:
            return image.convert("RGB")
    except OSError as exc:
        raise OutputError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _caption(row: SheetRow, width: int) -> str:
    """The row's id, and why it stands where it does, as much as fits; in ASCII, which the font has in any case."""
    record = row.record
    reason = record.text or GROUPS[row.group] if row.group < len(GROUPS) - 1 else ""
    text = printable(": ".join(filter(None, [record.id, record.error, reason])))
    text = text.encode("ascii", "replace").decode()

    end = len(text)
    while end and _font().getlength(text[:end]) > width:
        end -= 1
    return text[:end]


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default()
