"""EXIF blocks: tags read, and changed without moving what is in the block.

A changed directory is written anew at the block's end, so that every offset in the block still holds: of values, of
other directories, and those in makers' notes, which nobody else can move. TIFF 6.0, section 2, and EXIF 2.32.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

__all__ = ["EMPTY", "Tag", "read_tags", "upright", "with_tags"]

EMPTY = b"II*\0\x08\0\0\0" + b"\0\0" + b"\0\0\0\0"
"""A block without tags."""

_EXIF_DIRECTORY = 0x8769
_ORIENTATION = 0x0112
_THUMBNAIL, _THUMBNAIL_BYTES = 0x0201, 0x0202
_WORD = b"Exif\0\0"

_ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 2, 3, 4, 5, 7
# Bytes of one value, by TIFF's types from BYTE (1) to IFD (13).
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


@dataclass(frozen=True)
class Tag:
    """A value to be written: TIFF's type, how many there are of it, and its bytes in the block's order."""

    kind: int
    count: int
    little: bytes
    big: bytes

    @classmethod
    def text(cls, value: str) -> Self:
        """ASCII, with the zero that ends it."""
        data = value.encode("ascii") + b"\0"
        return cls(_ASCII, len(data), data, data)

    @classmethod
    def raw(cls, data: bytes) -> Self:
        """Bytes of a form that the tag itself defines."""
        return cls(_UNDEFINED, len(data), data, data)

    @classmethod
    def short(cls, value: int) -> Self:
        return cls(_SHORT, 1, struct.pack("<H", value), struct.pack(">H", value))

    @classmethod
    def long(cls, value: int) -> Self:
        return cls(_LONG, 1, struct.pack("<I", value), struct.pack(">I", value))

    @classmethod
    def ratio(cls, value: float) -> Self:
        """A number to three places."""
        parts = (round(value * 1000), 1000)
        return cls(_RATIONAL, 1, struct.pack("<II", *parts), struct.pack(">II", *parts))


@dataclass(frozen=True)
class _Entry:
    """An entry of a directory as it is stored: its last four bytes are the value, or where that is."""

    tag: int
    kind: int
    count: int
    last: bytes


class _Block:
    """An EXIF block that can be walked through; ValueError where it ends early or is none."""

    def __init__(self, block: bytes) -> None:
        self.data = bytearray(block.removeprefix(_WORD))
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(self.data[:4]))
        if order is None:
            raise ValueError("no TIFF header")
        self.order = order

    def number(self, form: str, position: int) -> int:
        try:
            [value] = struct.unpack_from(self.order + form, self.data, position)
        except struct.error as exc:
            raise ValueError("it ends early") from exc
        return int(value)

    def directory(self, position: int) -> tuple[list[_Entry], int]:
        """The entries of a directory, and where the next one is."""
        count = self.number("H", position)
        start, end = position + 2, position + 2 + 12 * count
        following = self.number("I", end)
        stored = struct.iter_unpack(self.order + "HHI4s", self.data[start:end])
        return [_Entry(*values) for values in stored], following

    def size(self, entry: _Entry) -> int:
        """Of a value in bytes; those of at most four are in the entry itself."""
        return _WIDTHS.get(entry.kind, 1) * entry.count

    def value(self, entry: _Entry) -> bytes:
        """The bytes of a value; ValueError where they are not all there."""
        size = self.size(entry)
        if size <= 4:
            return entry.last[:size]
        start = self.offset(entry)
        if start + size > len(self.data):
            raise ValueError("it ends early")
        return bytes(self.data[start : start + size])

    def offset(self, entry: _Entry) -> int:
        """The number in an entry's last four bytes."""
        [value] = struct.unpack(self.order + "I", entry.last)
        return int(value)

    def put(self, entries: list[_Entry], changes: Mapping[int, Tag | None]) -> int:
        """Append a directory of these entries with changes; returns where it is.

        What changes is not left behind: nobody looks for it, and it may be what was to be removed.
        """
        kept = {entry.tag: entry for entry in entries if entry.tag not in changes}
        for entry in entries:
            size = self.size(entry)
            if entry.tag in changes and size > 4:
                self.cut(self.offset(entry), size)

        for tag, value in changes.items():
            if value is not None:
                data = value.little if self.order == "<" else value.big
                kept[tag] = _Entry(tag, value.kind, value.count, self._placed(data))

        position = self._end()
        self.data += struct.pack(self.order + "H", len(kept))
        for tag in sorted(kept):
            entry = kept[tag]
            self.data += struct.pack(self.order + "HHI", tag, entry.kind, entry.count) + entry.last
        self.data += b"\0\0\0\0"
        return position

    def _placed(self, data: bytes) -> bytes:
        """A value's last four bytes: itself, or where it has been appended."""
        if len(data) <= 4:
            return data.ljust(4, b"\0")
        position = self._end()
        self.data += data
        return struct.pack(self.order + "I", position)

    def _end(self) -> int:
        """Where something can be appended: an even offset."""
        if len(self.data) % 2:
            self.data += b"\0"
        return len(self.data)

    def cut(self, start: int, size: int) -> None:
        """Remove bytes at the block's end; zeros in their place anywhere else."""
        end = min(start + size, len(self.data))
        if start < len(EMPTY) or start >= end:
            return
        if end >= len(self.data) - 1:
            del self.data[start:]
        else:
            self.data[start:end] = bytes(end - start)


def read_tags(block: bytes, tags: Collection[int]) -> dict[int, bytes]:
    """The values of some tags as they are stored, of the first directory and of EXIF's own.

    Those that are damaged are left out; of a tag that is there several times the first counts.

    Raises:
        ValueError: it is no EXIF block.
    """
    opened = _Block(block)
    main, _ = opened.directory(opened.number("I", 4))
    values: dict[int, bytes] = {}
    for entry in (*main, *_own_directory(opened, main)):
        if entry.tag not in tags or entry.tag in values:
            continue
        try:
            values[entry.tag] = opened.value(entry)
        except ValueError:
            continue
    return values


def with_tags(block: bytes, main: Mapping[int, Tag | None], own: Mapping[int, Tag | None]) -> bytes:
    """The block with tags set, or removed where they are None.

    Args:
        main: of the first directory; own: of EXIF's own.

    Raises:
        ValueError: it is no EXIF block.
    """
    opened = _Block(block)
    entries, _ = opened.directory(opened.number("I", 4))
    changes = dict(main)
    if own:
        directory = opened.put(_own_directory(opened, entries), own)
        changes[_EXIF_DIRECTORY] = Tag.long(directory)

    first = opened.put(entries, changes)
    struct.pack_into(opened.order + "I", opened.data, 4, first)
    return bytes(opened.data)


def upright(block: bytes) -> bytes:
    """The block of an image that has been turned upright and is about to be changed.

    Its orientation is 1, and it has no thumbnail: that would show what the image was.

    Raises:
        ValueError: it is no EXIF block.
    """
    opened = _Block(block)
    entries, following = opened.directory(opened.number("I", 4))
    if following:
        _remove_thumbnail(opened, following)
    is_turned = any(entry.tag == _ORIENTATION for entry in entries)
    changes = {_ORIENTATION: Tag.short(1)} if is_turned else {}
    first = opened.put(entries, changes)
    struct.pack_into(opened.order + "I", opened.data, 4, first)
    return bytes(opened.data)


def _remove_thumbnail(opened: _Block, position: int) -> None:
    """Zeros in place of what the second directory shows; nothing refers to that directory any more."""
    try:
        entries, _ = opened.directory(position)
    except ValueError:  # a thumbnail that nothing could show
        return
    numbers = {entry.tag: opened.offset(entry) for entry in entries if entry.kind == _LONG and entry.count == 1}
    if _THUMBNAIL in numbers and _THUMBNAIL_BYTES in numbers:
        opened.cut(numbers[_THUMBNAIL], numbers[_THUMBNAIL_BYTES])


def _own_directory(opened: _Block, main: list[_Entry]) -> list[_Entry]:
    """The entries of EXIF's own directory; none where there is none, or it is damaged."""
    for entry in main:
        if entry.tag == _EXIF_DIRECTORY:
            try:
                return opened.directory(opened.offset(entry))[0]
            except ValueError:
                return []
    return []
