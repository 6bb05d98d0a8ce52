"""Pages of a contact sheet: static HTML without scripts, which links to the images and to the other pages."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from intarsia.batch.ledger.records import Record
from intarsia.batch.sheet.sheet_rows import GROUPS, SheetRow
from intarsia.batch.sheet.thumbnails import SIDE, width_of
from intarsia.printable import printable

__all__ = ["FILES", "FRONT", "Book", "page_name"]

FRONT = "sheet.html"
"""The first page, in the output folder."""

FILES = "sheet-files"
"""The folder of the other pages and of the thumbnails, beside it."""

_NEIGHBORS = 3  # pages before and behind this one that are linked by number
_LONGEST = 400  # characters of a text

# Nothing is loaded from anywhere else, and nothing runs.
_POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem; color: #222; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
nav { margin: .5rem 0; } nav a, nav b { margin-right: .7rem; }
ol { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 1rem; }
li { border: 1px solid #ccc; padding: .5rem; max-width: 100%; box-sizing: border-box; }
li p { margin: .2rem 0 0; max-width: 24.5rem; overflow-wrap: anywhere; } img { display: block; }
.error { color: #a00; } .note { color: #850; } small { color: #666; }
"""


def page_name(number: int) -> str:
    """The file of a page, counted from 1, relative to the output folder."""
    return FRONT if number == 1 else f"{FILES}/page-{number}.html"


@dataclass(frozen=True, kw_only=True)
class Book:
    """All rows of a sheet, divided into pages.

    Attributes:
        out: the output folder.
        rows: in their order.
        per_page: rows of each page.
    """

    out: Path
    title: str
    rows: Sequence[SheetRow]
    per_page: int

    @property
    def pages(self) -> int:
        """How many there are; one where there are no rows."""
        return max(1, -(-len(self.rows) // self.per_page))

    def page(self, number: int) -> str:
        """The HTML of a page, counted from 1."""
        folder = os.path.join(self.out, os.path.dirname(page_name(number)))
        shown = self.rows[(number - 1) * self.per_page : number * self.per_page]
        head = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
            f"<title>{_text(self.title)}, page {number} of {self.pages}</title>\n<style>{_STYLE}</style></head><body>"
        )
        parts = [head, f"<h1>{_text(self.title)}</h1>", self._sections(number), self._numbers(number)]
        group = None
        for row in shown:
            if row.group != group:
                parts += ["</ol>" if group is not None else "", f"<h2>{GROUPS[row.group]}</h2>", "<ol>"]
                group = row.group
            parts.append(self._card(row, folder))
        parts += ["</ol>" if shown else "<p>There are no rows.</p>", self._numbers(number), "</body></html>\n"]
        return "\n".join(filter(None, parts))

    @cached_property
    def _groups(self) -> dict[int, tuple[int, int]]:
        """Group → how many rows are in it, and the page of the first."""
        found: dict[int, tuple[int, int]] = {}
        for place, row in enumerate(self.rows):
            count, first = found.get(row.group, (0, place // self.per_page + 1))
            found[row.group] = count + 1, first
        return found

    def _sections(self, number: int) -> str:
        """Links to the first page of each group, with how many rows are in it."""
        groups = self._groups.items()
        return _nav([_link(f"{count:,} {GROUPS[group]}", first, number) for group, (count, first) in groups])

    def _numbers(self, number: int) -> str:
        """Links to the first, the last and the neighboring pages."""
        near = range(max(1, number - _NEIGHBORS), min(self.pages, number + _NEIGHBORS) + 1)
        numbers = sorted({1, *near, self.pages})
        return _nav([f"<b>{each}</b>" if each == number else _link(str(each), each, number) for each in numbers])

    def _card(self, row: SheetRow, folder: str) -> str:
        """One row: its images, its id, and what is to be said about it."""
        record = row.record
        outputs = record.outputs if record.status == "ok" and record.outputs else ()
        lines = [f"<p>{self._name(record, outputs, folder)}</p>"]
        if row.thumbnail.name:
            thumbnail = os.path.relpath(os.path.join(self.out, FILES, row.thumbnail.name), folder)
            lines.insert(0, _image(thumbnail, len(outputs), f"before, mask, after of {record.id}"))
        if record.status != "ok":
            problem = ": ".join(filter(None, [record.error, record.text]))
            lines.append(f'<p class="error">{_text(problem or record.status)}</p>')
        for note in (*(record.degraded or ()), *(record.warnings or ())):
            lines.append(f'<p class="note">{_text(note)}</p>')
        return f"<li>{''.join(lines)}</li>"

    def _name(self, record: Record, outputs: Sequence[str], folder: str) -> str:
        """The row's id, with links to the files themselves."""
        links = []
        for place, name in enumerate(outputs, 1):
            label = f"after {place}" if len(outputs) > 1 else "after"
            links.append(_anchor(label, os.path.join(self.out, name), folder))
        sources: Mapping[str, str] = record.sources or {}
        for label, field in (("before", "init_image"), ("mask", "mask_image")):
            if field in sources:
                links.append(_anchor(label, sources[field], folder))
        line = "" if record.line is None else f"line {record.line}"
        seeds = f"seed {', '.join(map(str, record.seeds))}" if record.seeds else ""
        details = " · ".join(filter(None, [line, seeds, *links]))
        return f"{_text(record.id)}<br><small>{details}</small>"


def _nav(links: Sequence[str]) -> str:
    return f"<nav>{' '.join(links)}</nav>"


def _link(text: str, target: int, page: int) -> str:
    """A link to a page from another."""
    name = page_name(target)
    if page > 1:
        name = f"../{name}"
    return f'<a href="{html.escape(name)}">{_text(text)}</a>'


def _image(name: str, outputs: int, alternative: str) -> str:
    """A thumbnail, loaded when it comes into view; its size is known before."""
    size = f'width="{width_of(outputs)}" height="{SIDE}"'
    return f'<img loading="lazy" {size} alt="{_text(alternative)}" src="{html.escape(name)}">'


def _anchor(text: str, path: str, folder: str) -> str:
    """A link to a file, relative to the page, so that the folder may be moved with its images."""
    target = quote(os.path.relpath(path, folder), errors="surrogateescape")
    return f'<a href="{html.escape(target)}">{_text(text)}</a>'


def _text(text: str) -> str:
    """Text of anybody's as HTML shows it."""
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return html.escape(printable(short))
