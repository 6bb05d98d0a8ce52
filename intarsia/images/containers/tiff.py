"""TIFF and BigTIFF: the first directory of tags (TIFF 6.0, section 2), cut down to those that decoding needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from intarsia.images.containers.container import MOST_PROFILE_BYTES, Container, Damaged, usable_profile
from intarsia.images.containers.tiff_metadata import TiffMetadata, tiff_metadata

__all__ = ["SIGNATURES", "unpack"]

SIGNATURES = (b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b", b"MM\x2a\0", b"II\0\x2a")

# Sizes, samples, compression and where the pixels are; JPEG's tables, color map, CMYK's inks, YCbCr's coefficients.
_NEEDED = {
    256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 334, 338, 339,
    347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532,
}  # fmt: skip
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ORIENTATION, _PROFILE = 256, 257, 258, 259, 274, 34675
_STRIPS, _TILES, _TILE_WIDTH, _TILE_HEIGHT = (273, 279), (324, 325), 322, 323
_UNCOMPRESSED = 1

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_FORMS = {1: "B", 3: "H", 4: "I", 16: "Q"}

_MOST_TAGS = 65_535
_MOST_USED = 256  # tags that are read: more of those used are repetitions
_MOST_PIECES = 1 << 20
# Pieces that are not compressed are decoded one by one in Python, ten microseconds each.
_MOST_PLAIN_PIECES = 1 << 15
_MOST_TAG_BYTES = 1 << 20
_LEAST_TILE = 1 << 22  # pixels of a tile that are always taken; above, it may be four times the image


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How numbers are written in one file: byte order, and the sizes of TIFF or BigTIFF."""

    order: str
    is_big: bool

    @property
    def count(self) -> str:
        kind = "Q" if self.is_big else "H"
        return self.order + kind

    @property
    def offset(self) -> str:
        kind = "Q" if self.is_big else "I"
        return self.order + kind

    @property
    def entry(self) -> np.dtype[np.void]:
        size = 8 if self.is_big else 4
        return np.dtype(
            [
                ("tag", f"{self.order}u2"),
                ("kind", f"{self.order}u2"),
                ("count", f"{self.order}u{size}"),
                ("value", f"V{size}"),
            ]
        )


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One tag: its type, how many values, the bytes of its entry, and the bytes of its values."""

    tag: int
    kind: int
    count: int
    raw: bytes
    values: bytes

    def numbers(self, order: str) -> tuple[int, ...]:
        """Its first values, where they are whole numbers."""
        form = _FORMS.get(self.kind)
        if form is None:
            return ()
        count = min(self.count, 16)
        return struct.unpack_from(f"{order}{count}{form}", self.values)


def unpack(data: bytes) -> Container:
    """The pixels of the first page, and a directory that says no more than how to decode them.

    Raises:
        Damaged: the directory is not in the file, or has more tags, strips or tiles than images have.
    """
    order = "<" if data[:2] == b"II" else ">"
    form = _Form(order=order, is_big=0x2B in data[2:4])
    try:
        (first,) = struct.unpack_from(form.offset, data, 8 if form.is_big else 4)
        entries, following = _directory(data, form, first)
    except (struct.error, OverflowError, ValueError) as exc:
        raise Damaged("is truncated or damaged: the TIFF has no directory") from exc

    numbers = {tag: entry.numbers(order) for tag, entry in entries.items()}
    size = (_first(numbers, _WIDTH), _first(numbers, _HEIGHT))
    _check_pieces(entries, numbers, size)

    notes: list[str] = []
    profile = entries[_PROFILE].values if _PROFILE in entries else None
    orientation = _first(numbers, _ORIENTATION)
    bits = numbers.get(_BITS, ())
    said = TiffMetadata() if form.is_big else tiff_metadata(data, order, first)
    needed = [entry for tag, entry in sorted(entries.items()) if tag in _NEEDED]
    return Container(
        data=_rewritten(data, form, first, needed),
        kind="TIFF",
        size=size if all(size) else None,
        has_more=following != first and _has_page(data, form, following),
        icc_profile=usable_profile(profile, notes),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        bits=max(bits, default=1),
        exif=said.exif,
        xmp=said.xmp,
        dpi=said.dpi,
        notes=tuple(notes),
    )


def _directory(data: bytes, form: _Form, start: int) -> tuple[dict[int, _Entry], int]:
    """The tags that are used, and where the next page is; raises struct.error or ValueError where it is cut."""
    (count,) = struct.unpack_from(form.count, data, start)
    if count > _MOST_TAGS:
        raise Damaged(f"has more than {_MOST_TAGS} tags")

    begin = start + struct.calcsize(form.count)
    table = np.frombuffer(data, form.entry, count, begin)
    is_used = np.isin(table["tag"], [*_NEEDED, _ORIENTATION, _PROFILE])
    used = np.flatnonzero(is_used)[:_MOST_USED]

    entries: dict[int, _Entry] = {}
    for index in used.tolist():
        entry = _read(data, form, table[index])
        if entry is not None:
            entries.setdefault(entry.tag, entry)

    following = _next_page(data, form, begin + table.nbytes)
    return entries, following


def _next_page(data: bytes, form: _Form, position: int) -> int:
    """The offset of the next page's directory; 0 where there is none, or the file ends."""
    length = struct.calcsize(form.offset)
    offset = data[position : position + length]
    if len(offset) < length:
        return 0
    (following,) = struct.unpack(form.offset, offset)
    return int(following)


def _read(data: bytes, form: _Form, row: np.void) -> _Entry | None:
    """One tag with its values; None where they are not in the file, or are more than any image has."""
    tag, kind, count = int(row["tag"]), int(row["kind"]), int(row["count"])
    length = count * _BYTES.get(kind, 0)

    is_piece_table = tag in (*_STRIPS, *_TILES)
    may_be_long = is_piece_table or tag == _PROFILE
    if is_piece_table and count > _MOST_PIECES:
        raise Damaged(f"has more than {_MOST_PIECES} strips or tiles")
    if not length or (length > _MOST_TAG_BYTES and not may_be_long):
        return None

    raw = row.tobytes()
    inline = raw[-struct.calcsize(form.offset) :]
    values = inline[:length]
    if length > len(inline):
        (offset,) = struct.unpack(form.offset, inline)
        if offset + length > len(data):
            return None
        most = min(length, MOST_PROFILE_BYTES + 1)
        values = data[offset : offset + most]
    return _Entry(tag=tag, kind=kind, count=count, raw=raw, values=values)


def _check_pieces(entries: dict[int, _Entry], numbers: dict[int, tuple[int, ...]], size: tuple[int, int]) -> None:
    """Refuse more pieces than images have, and larger ones."""
    compression = _first(numbers, _COMPRESSION, _UNCOMPRESSED)
    for tag in (_STRIPS[0], _TILES[0]):
        pieces = entries[tag].count if tag in entries else 0
        if compression == _UNCOMPRESSED and pieces > _MOST_PLAIN_PIECES:
            raise Damaged(f"has more than {_MOST_PLAIN_PIECES} uncompressed strips or tiles")

    width, height = size
    tile = _first(numbers, _TILE_WIDTH) * _first(numbers, _TILE_HEIGHT)
    if tile > max(_LEAST_TILE, 4 * width * height):
        raise Damaged("is damaged: its tiles are larger than the image")


def _first(numbers: dict[int, tuple[int, ...]], tag: int, otherwise: int = 0) -> int:
    values = numbers.get(tag, ())
    return values[0] if values else otherwise


def _has_page(data: bytes, form: _Form, start: int) -> bool:
    """Whether a directory with a tag in it begins there."""
    last = len(data) - struct.calcsize(form.count)
    if not 8 <= start <= last:
        return False
    (tags,) = struct.unpack_from(form.count, data, start)
    return bool(tags)


def _rewritten(data: bytes, form: _Form, start: int, entries: list[_Entry]) -> bytes:
    """The file with another directory in place of its own, which is at least as long; values stay where they are."""
    count = struct.pack(form.count, len(entries))
    no_next_page = struct.pack(form.offset, 0)
    directory = b"".join([count, *(entry.raw for entry in entries), no_next_page])

    view = memoryview(data)
    end = start + len(directory)
    return b"".join([view[:start], directory, view[end:]])
