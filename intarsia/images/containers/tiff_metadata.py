"""What a TIFF's first directory says of its image beside the pixels, as an EXIF block of its own, XMP and density.

In a TIFF, EXIF is no block: its tags are in the file's own directories, among those of the pixels. Makers' notes are
left out, since offsets in them hold only where they lie. TIFF 6.0, section 2; EXIF 2.32, section 4.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

__all__ = ["TiffMetadata", "tiff_metadata"]

# Description, maker, model, software, time, artist, host computer, copyright.
_DESCRIBING = frozenset((270, 271, 272, 305, 306, 315, 316, 33432))
_ACROSS, _DOWN, _UNIT, _XMP = 282, 283, 296, 700
_EXIF, _GPS = 34665, 34853
_MAKER_NOTE, _INTEROPERABILITY = 37500, 40965

_RATIONAL = 5
_LONG, _DIRECTORY = 4, 13
_PER_INCH = {2: 1.0, 3: 2.54}
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}

_MOST_TAGS = 1000  # of a directory
_MOST_BYTES = 1 << 20  # of a value, and of the block


@dataclass(frozen=True)
class _Value:
    """A tag's values as they are stored."""

    kind: int
    count: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class TiffMetadata:
    """As :class:`~intarsia.images.containers.container.Container` has it."""

    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None


def tiff_metadata(data: bytes, order: str, first: int) -> TiffMetadata:
    """What is said in the directory at ``first`` of a file that is no BigTIFF; what is damaged is left out."""
    wanted = _DESCRIBING | {_ACROSS, _DOWN, _UNIT, _XMP, _EXIF, _GPS}
    main = dict(_values(data, order, first, wanted))
    xmp = main.pop(_XMP, None)
    dpi = _density(main, order)

    inner = {}
    for pointer in (_EXIF, _GPS):
        place = main.pop(pointer, None)
        if place is not None and place.kind in (_LONG, _DIRECTORY) and place.count == 1:
            (start,) = struct.unpack(f"{order}I", place.data)
            found = dict(_values(data, order, start))
            found.pop(_MAKER_NOTE, None)
            found.pop(_INTEROPERABILITY, None)
            if found:
                inner[pointer] = found

    said = {tag: value for tag, value in main.items() if tag in _DESCRIBING}
    exif = _block(order, said, inner) if said or inner else b""
    return TiffMetadata(
        exif=exif if len(exif) <= _MOST_BYTES else b"",
        xmp=xmp.data.rstrip(b"\0") if xmp is not None else b"",
        dpi=dpi,
    )


def _values(data: bytes, order: str, start: int, wanted: Set[int] | None = None) -> Iterator[tuple[int, _Value]]:
    """The values of a directory, at most :data:`_MOST_BYTES` of them; None takes every tag."""
    try:
        (count,) = struct.unpack_from(f"{order}H", data, start)
    except struct.error:
        return
    left = _MOST_BYTES
    for number in range(min(count, _MOST_TAGS)):
        try:
            tag, kind, values, last = struct.unpack_from(f"{order}HHI4s", data, start + 2 + 12 * number)
        except struct.error:
            return
        length = _WIDTHS.get(kind, 0) * values
        if not 0 < length <= left or (wanted is not None and tag not in wanted):
            continue

        stored = last[:length]
        if length > 4:
            (place,) = struct.unpack(f"{order}I", last)
            stored = data[place : place + length]
        if len(stored) == length:
            left -= length
            yield tag, _Value(kind, values, stored)


def _density(main: Mapping[int, _Value], order: str) -> tuple[float, float] | None:
    """Pixels per inch; None where the unit is none, or a number is missing."""
    unit = main.get(_UNIT)
    factor = 1.0
    if unit is not None and len(unit.data) >= 2:
        (number,) = struct.unpack_from(f"{order}H", unit.data)
        if number not in _PER_INCH:
            return None
        factor = _PER_INCH[number]

    found = []
    for tag in (_ACROSS, _DOWN):
        value = main.get(tag)
        if value is None or value.kind != _RATIONAL:
            return None
        over, under = struct.unpack_from(f"{order}II", value.data)
        if not under:
            return None
        found.append(factor * over / under)
    return found[0], found[1]


def _block(order: str, said: Mapping[int, _Value], inner: Mapping[int, Mapping[int, _Value]]) -> bytes:
    """An EXIF block: a header, the first directory, and behind it those that it points to."""
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    pointers = dict.fromkeys(inner, 0)
    first = _directory(order, 8, said, pointers)
    parts, position = [], 8 + len(first)
    for tag, values in inner.items():
        pointers[tag] = position
        parts.append(_directory(order, position, values, {}))
        position += len(parts[-1])
    return b"".join([header, _directory(order, 8, said, pointers), *parts])


def _directory(order: str, position: int, values: Mapping[int, _Value], pointers: Mapping[int, int]) -> bytes:
    """A directory at a position of its block, and its values behind it."""
    entries = dict(values)
    for tag, place in pointers.items():
        entries[tag] = _Value(_LONG, 1, struct.pack(f"{order}I", place))

    place = position + 2 + 12 * len(entries) + 4
    table, behind = [struct.pack(f"{order}H", len(entries))], []
    for tag, value in _by_tag(entries.items()):
        last = value.data.ljust(4, b"\0")
        if len(value.data) > 4:
            even = value.data + b"\0" * (len(value.data) % 2)
            last = struct.pack(f"{order}I", place)
            behind.append(even)
            place += len(even)
        table.append(struct.pack(f"{order}HHI", tag, value.kind, value.count) + last)
    return b"".join([*table, b"\0\0\0\0", *behind])


def _by_tag(entries: Iterable[tuple[int, _Value]]) -> list[tuple[int, _Value]]:
    return sorted(entries, key=lambda entry: entry[0])
