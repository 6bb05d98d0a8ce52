"""The labelled grid of a comparison, drawn from axes and images as plain data.

The last axis goes across, the one before it down; each combination of further ones is a block of rows with a line above
it. A single axis of many values goes across in several blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from intarsia.comparing.axes import Axis
from intarsia.comparing.labels import Font, distinct, fitted, font
from intarsia.counted import counted
from intarsia.errors import RequestError, expect

__all__ = ["MAX_PIXELS", "Tile", "check_size", "draw_grid", "thumbnail"]

Tile = Sequence[Image.Image] | str
"""What a cell shows: the images of its request, or the sentence that says why there are none."""

MAX_PIXELS = 64 * 1024 * 1024
"""Most pixels of all cells together."""

_SMALLEST, _LARGEST = 64, 1024
_MARGIN, _GAP = 12, 6
_NARROWEST = 112  # of a column: its label has to be read
_MOST_ACROSS = 6  # of a single axis
_LINES = 3  # of a label
_FAILED_LINES = 5  # that a cell without an image has room for at least
_PAPER, _INK, _FADED, _FAILED, _ALARM = "white", "#1a1a1a", "#6b6b6b", "#f1f1f1", "#a01818"


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Rows of cells under one line of column labels.

    Attributes:
        title: the line above; "" without.
        columns, rows: labels, each as its lines; none at the rows of a single axis.
        tiles: of each row, from left to right.
    """

    title: str
    columns: Sequence[list[str]]
    rows: Sequence[list[str]]
    tiles: Sequence[Sequence[Tile]]


@dataclass(frozen=True, kw_only=True)
class _Measures:
    """Sizes in pixels, the same for all blocks.

    Attributes:
        width, height: of a cell.
        gutter: width of what is left of the cells, for the rows' labels.
        columns, rows: labels, each as its lines; none of rows for a single axis.
    """

    width: int
    height: int
    gutter: int
    font: Font
    small: Font
    line: int
    columns: Sequence[list[str]]
    rows: Sequence[list[str]]

    @property
    def header(self) -> int:
        """Height of the columns' labels: the axis' name, and a value below it."""
        return self.line * (self.label_lines + 1) + _GAP

    @property
    def label_lines(self) -> int:
        """Most lines of a column's label."""
        return max(map(len, self.columns))


@dataclass(kw_only=True)
class _Sheet:
    """An image that is drawn from above: ``y`` is where the next thing goes."""

    image: Image.Image
    measures: _Measures
    y: int = _MARGIN
    draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: int, y: int, lines: Sequence[str], ink: str) -> None:
        for number, line in enumerate(lines):
            self.draw.text((x, y + number * self.measures.line), line, fill=ink, font=self.measures.font)

    def name(self, x: int, y: int, name: str, width: int) -> None:
        """The name of an axis, small and gray."""
        small = self.measures.small
        self.draw.text((x, y), fitted(name, small, width, 1)[0], fill=_FADED, font=small)


def check_size(cells: int, cell_size: object) -> int:
    """Pixels of a cell's longer side.

    Raises:
        RequestError: no whole number from 64 to 1024, or more than so many cells can have in one grid.
    """
    allowed = f"an integer between {_SMALLEST} and {_LARGEST}"
    expect("cell_size", cell_size, int, allowed)
    assert isinstance(cell_size, int)
    if not _SMALLEST <= cell_size <= _LARGEST:
        raise RequestError("cell_size", cell_size, allowed)
    most = math.isqrt(MAX_PIXELS // max(1, cells))
    if cell_size > most:
        raise RequestError("cell_size", cell_size, f"at most {most} for a grid of {counted(cells, 'cell')}")
    return cell_size


def thumbnail(image: Image.Image, cell_size: int) -> Image.Image:
    """An image as a cell shows it: RGB on white where it is transparent, no larger than the cell, never enlarged."""
    small = image.copy()
    small.thumbnail((cell_size, cell_size), Image.Resampling.LANCZOS)
    if small.mode == "RGB":
        return small
    on_white = Image.new("RGBA", small.size, "white")
    shown = Image.alpha_composite(on_white, small.convert("RGBA")).convert("RGB")
    shown.info = dict(image.info)
    return shown


def draw_grid(axes: Sequence[Axis], tiles: Sequence[Tile], *, caption: str = "", cell_size: int = 256) -> Image.Image:
    """The grid of a comparison.

    Args:
        axes: with them the labels; see :class:`Axis`.
        tiles: one for each combination of values, the last axis changing first. Several images of a cell are shown
            side by side in it.
        caption: what is the same in all cells, written above.
        cell_size: pixels of a cell's longer side at most.

    Raises:
        RequestError: as of :func:`check_size`.
    """
    check_size(len(tiles), cell_size)
    measures = _measures(axes, tiles, cell_size)
    blocks = _blocks(axes, tiles, measures)

    columns = max(len(block.columns) for block in blocks)
    width = 2 * _MARGIN + measures.gutter + columns * (measures.width + _GAP) - _GAP
    heading = fitted(caption, measures.font, width - 2 * _MARGIN, _LINES) if caption else []
    above = len(heading) * measures.line + _GAP
    height = 2 * _MARGIN + above + sum(_height(block, measures) for block in blocks)

    sheet = _Sheet(image=Image.new("RGB", (width, height), _PAPER), measures=measures)
    sheet.text(_MARGIN, sheet.y, heading, _INK)
    sheet.y += above
    for block in blocks:
        _draw_block(sheet, block, axes)
    return sheet.image


def _blocks(axes: Sequence[Axis], tiles: Sequence[Tile], measures: _Measures) -> list[_Block]:
    """The cells in their order, as blocks."""
    across = measures.columns
    if len(axes) == 1:
        count = len(across) if len(across) <= _MOST_ACROSS else math.ceil(math.sqrt(len(across)))
        starts = range(0, len(across), count)
        return [
            _Block(title="", columns=across[at : at + count], rows=[[]], tiles=[tiles[at : at + count]])
            for at in starts
        ]

    down = measures.rows
    titles = _titles(axes[:-2])
    size = len(down) * len(across)
    blocks = []
    for number, title in enumerate(titles):
        first = number * size
        starts = range(first, first + size, len(across))
        rows = [tiles[start : start + len(across)] for start in starts]
        blocks.append(_Block(title=title, columns=across, rows=down, tiles=rows))
    return blocks


def _titles(axes: Sequence[Axis]) -> list[str]:
    """A line for each combination of values; one empty line of no axis."""
    named = [[f"{axis.name} {label}" for label in axis.labels] for axis in axes]
    return [" · ".join(parts) for parts in itertools.product(*named)]


def _measures(axes: Sequence[Axis], tiles: Sequence[Tile], cell_size: int) -> _Measures:
    sizes = [_montage_size(tile) for tile in tiles if not isinstance(tile, str) and tile]
    width = max((size[0] for size in sizes), default=cell_size)
    height = max((size[1] for size in sizes), default=cell_size)

    points = min(18, max(12, cell_size // 16))
    regular, small = font(points), font(points - 2)
    width, line = max(width, _NARROWEST), points + 5
    gutter, rows = 0, []
    if len(axes) > 1:
        names = [regular.getlength(label) for label in axes[-2].labels]
        widest = math.ceil(max(small.getlength(axes[-2].name), *names))
        beside = min(widest, max(_NARROWEST, cell_size))
        gutter, rows = beside + 2 * _GAP, distinct(axes[-2].labels, regular, beside, _LINES)

    least = [line * (1 + max(map(len, rows), default=0))]
    if any(isinstance(tile, str) for tile in tiles):
        least.append(line * _FAILED_LINES + 2 * _GAP)
    return _Measures(
        width=width,
        height=max(height, *least),
        gutter=gutter,
        font=regular,
        small=small,
        line=line,
        columns=distinct(axes[-1].labels, regular, width, _LINES),
        rows=rows,
    )


def _height(block: _Block, measures: _Measures) -> int:
    title = measures.line + _GAP if block.title else 0
    return title + measures.header + len(block.rows) * (measures.height + _GAP)


def _draw_block(sheet: _Sheet, block: _Block, axes: Sequence[Axis]) -> None:
    measures = sheet.measures
    left = _MARGIN + measures.gutter
    if block.title:
        sheet.y += _GAP
        sheet.text(_MARGIN, sheet.y, fitted(block.title, measures.font, sheet.image.width - 2 * _MARGIN, 1), _INK)
        sheet.y += measures.line

    for number, label in enumerate(block.columns):
        x = left + number * (measures.width + _GAP)
        # the values stand on the cells, whatever their number of lines
        top = sheet.y + (measures.label_lines - len(label)) * measures.line
        sheet.name(x, top, axes[-1].name, measures.width)
        sheet.text(x, top + measures.line, label, _INK)
    sheet.y += measures.header

    for label, tiles in zip(block.rows, block.tiles, strict=True):
        if label:
            sheet.name(_MARGIN, sheet.y, axes[-2].name, measures.gutter)
            sheet.text(_MARGIN, sheet.y + measures.line, label, _INK)
        for number, tile in enumerate(tiles):
            _draw_tile(sheet, (left + number * (measures.width + _GAP), sheet.y), tile)
        sheet.y += measures.height + _GAP


def _draw_tile(sheet: _Sheet, place: tuple[int, int], tile: Tile) -> None:
    x, y = place
    measures = sheet.measures
    if not isinstance(tile, str):
        sheet.image.paste(_montage(tile), place)
        return

    sheet.draw.rectangle((x, y, x + measures.width - 1, y + measures.height - 1), fill=_FAILED)
    inner, lines = measures.width - 2 * _GAP, (measures.height - 2 * _GAP) // measures.line - 1
    sheet.text(x + _GAP, y + _GAP, ["failed"], _ALARM)
    sheet.text(x + _GAP, y + _GAP + measures.line, fitted(tile, measures.font, inner, max(1, lines)), _INK)


def _montage_size(images: Sequence[Image.Image]) -> tuple[int, int]:
    """Of one image its own; of several as wide as the widest."""
    width, height = max(image.width for image in images), max(image.height for image in images)
    across = math.ceil(math.sqrt(len(images)))
    return width, height // across * math.ceil(len(images) / across)


def _montage(images: Sequence[Image.Image]) -> Image.Image:
    """One image as it is; up to four smaller, side by side, in the place of one."""
    if len(images) == 1:
        return images[0]
    across = math.ceil(math.sqrt(len(images)))
    made = Image.new("RGB", _montage_size(images), _PAPER)
    width = made.width // across
    height = max(image.height for image in images) // across
    for number, image in enumerate(images):
        part = image.copy()
        part.thumbnail((width, height), Image.Resampling.LANCZOS)
        made.paste(part, (number % across * width, number // across * height))
    return made
